"""The index.json of a cache, which is written last and has a digest of its own content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip import __version__
from sclip.errors import UserError
from sclip.files import write_json
from sclip.fingerprints import data_fingerprint
from sclip.formats import VERSION, check_format
from sclip.parsing import read_json


def write_index_file(path: Path, index: Mapping[str, Any]) -> None:
    """Write an index.json with the version of sclip and a digest of its content."""
    index = {**index, VERSION: __version__}
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
    check_format(path, index, [expected], again)
    if index.pop("digest", None) != data_fingerprint(index):
        raise UserError(f"{path}: damaged: its content does not match its digest; {again}")
    return index
