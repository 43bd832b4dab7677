"""Atomic writes: a file or a folder is complete and on the disk, or not there, whenever the writer is killed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the place to write a file to, and move it to `path` when it is written."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with _naming(path):
        yield unfinished
        _sync(unfinished)
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
                _sync(Path(folder, name))
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    _sync(path.parent)  # the new name
    shutil.rmtree(replaced, ignore_errors=True)


def save_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def save_json(path: Path, data: Any) -> None:
    save_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _sync(path: Path) -> None:
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
