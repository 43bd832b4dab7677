"""The index.json of a cache, which is written last and has a digest of its own content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip.errors import UserError
from sclip.files import write_json
from sclip.fingerprints import data_fingerprint
from sclip.parsing import read_json


def write_index_file(path: Path, index: Mapping[str, Any]) -> None:
    """Write an index.json with a digest of its content."""
    write_json(path, {**index, "digest": data_fingerprint(index)})


def read_index_file(path: Path, expected: str, command: str) -> dict[str, Any]:
    """Return the content of an index.json of the expected format. `command` is the one that wrote it."""
    again = f"run `sclip {command}` again"
    if not path.is_file():
        raise UserError(f"{path}: no such file; `sclip {command}` writes it")
    try:
        index = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    found = index.get("format") if isinstance(index, dict) else None
    if found != expected:
        raise UserError(f"{path}: format: expected {expected!r}, found {found!r}; {again}")
    if index.pop("digest", None) != data_fingerprint(index):
        raise UserError(f"{path}: damaged: its content does not match its digest; {again}")
    return index
