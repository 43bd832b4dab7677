"""Atomic writes: a file or a folder is complete and on the disk, or not there, whenever the writer is killed.

Digests show later whether a file is still what was written.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sclip.errors import UserError

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the place to write a file to, and move it to `path` when it is written."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with _naming(path):
        yield unfinished
        sync(unfinished)
    unfinished.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write into, and move it to `path` when it is written, in place of an older folder."""
    unfinished, replaced = (path.with_name(path.name + ending) for ending in (UNFINISHED, ".replaced"))
    for left in (unfinished, replaced):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with _naming(path):
        yield unfinished
        for folder, _, names in os.walk(unfinished):
            for name in (*names, "."):
                sync(Path(folder, name))
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    sync(path.parent)  # the new name
    shutil.rmtree(replaced, ignore_errors=True)


def save_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def save_json(path: Path, data: Any) -> None:
    save_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def check_digest(path: Path, expected: str | None, index: str) -> None:
    """Refuse a file whose SHA-256 is not the one in `index`, a file beside it."""
    if digest_of(path) != expected:
        raise UserError(f"{path}: its SHA-256 is not the one in {index}; the file is damaged or was replaced")


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add `path` to an error that names no file, such as a full disk's."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
