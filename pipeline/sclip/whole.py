"""Files that are there whole, on the disk, or not at all, whenever the writer is killed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what then comes to `path`."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is None:  # a full disk's does not say which file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise
    unfinished.replace(path)


def save_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def save_json(path: Path, data: Any) -> None:
    save_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
