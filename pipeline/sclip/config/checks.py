"""Checks of values, for the `__post_init__` of settings."""

import re

LARGEST_SEED = 2**32 - 1


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_range(name: str, value: float, least: int, most: int) -> None:
    require(least <= value <= most, f"{name}: expected {least} to {most}, found {value}")


def require_dropout(value: float) -> None:
    require(0 <= value < 1, f"dropout: expected at least 0 and below 1, found {value}")


def require_seed(name: str, value: int) -> None:
    require_range(name, value, 0, LARGEST_SEED)


def require_stage_name(key: str, name: str) -> None:
    """Refuse a name that DVC or the shell would take apart, in the name or the command of a stage."""
    usable = re.fullmatch(r"\w[\w-]{0,99}", name) is not None
    expected = "a name of at most 100 letters, digits, _ and -, without - at its start"
    require(usable, f"{key}: expected {expected}, found {name!r}")


def require_folder_name(key: str, name: str) -> None:
    """Refuse a name that is not that of one folder. Otherwise files of strangers choose where a command writes."""
    usable = name.isprintable() and "/" not in name and 1 <= len(name) <= 100 and name[0] not in ".-"
    require(usable, f"{key}: expected a name for a folder, without / and without . or - at its start, found {name!r}")
