"""The formats of files: each file names its own, such as `sclip features 2`, and the version of sclip that wrote it."""

import re
from pathlib import Path
from typing import Any

from sclip import __version__
from sclip.errors import UserError

VERSION = "version"  # the key of the version in a JSON file
MODEL_KIND = "sclip model "  # how the format of a model folder begins


def check_format(path: Path, data: Any, expected: str, advice: str) -> None:
    """Refuse the content of a JSON file if its format is not the expected one.

    `advice` says what to do with an older file. For a newer one, the error names the version that can read it.
    """
    found = data.get("format") if isinstance(data, dict) else None
    if found == expected:
        return
    problem = f"{path}: format: expected {expected!r}, found {found!r}"
    version = data.get(VERSION) if isinstance(data, dict) else None
    named = isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version) and version != __version__
    if _is_newer(found, expected) and named:
        raise UserError(f"{problem}, written by sclip {version}, and this is sclip {__version__}; install {version}")
    raise UserError(f"{problem}; {advice}")


def _is_newer(found: Any, known: str) -> bool:
    """Return whether two formats are of the same kind, and the number of the first one is larger."""
    kind, _, number = known.rpartition(" ")
    match = re.fullmatch(rf"{kind} ([0-9]{{1,9}})", found) if isinstance(found, str) else None
    return match is not None and int(match[1]) > int(number)
