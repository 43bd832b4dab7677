"""Checks of values, for the `__post_init__` of settings."""

LARGEST_SEED = 2**32 - 1


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_range(name: str, value: float, least: int, most: int) -> None:
    require(least <= value <= most, f"{name}: expected {least} to {most}, found {value}")


def require_seed(name: str, value: int) -> None:
    require_range(name, value, 0, LARGEST_SEED)
