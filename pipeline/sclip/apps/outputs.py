"""Checks of the place where a command is to write, before anything is computed."""

import os
from pathlib import Path

from sclip.errors import UserError


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected the name of a file to write")
    check_writable(path.parent, path)


def check_writable(folder: Path, out: str | Path) -> None:
    """Refuse a folder that cannot be made or written, before anything is computed."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"{out}: cannot be written: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot be written: no permission to write to {nearest}")


def check_unicode(out: Path) -> None:
    """Refuse a name that is not UTF-8, which the library for safetensors cannot open."""
    try:
        str(out.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(f"{out}: the name is not UTF-8; choose another one") from None
