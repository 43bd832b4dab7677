"""The small JSON file of an artifact, which is written last and has a digest of its own content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip import __version__
from sclip.errors import UserError
from sclip.files import write_json
from sclip.fingerprints import data_fingerprint
from sclip.formats import VERSION, check_format
from sclip.parsing import read_json

DIGEST = "digest"  # the key of the digest in the file


def write_index_file(path: Path, index: Mapping[str, Any]) -> None:
    """Write the file with the version of sclip and a digest of its content."""
    index = {**index, VERSION: __version__}
    write_json(path, {**index, DIGEST: data_fingerprint(index)})


def read_index_file(path: Path, expected: str, command: str) -> dict[str, Any]:
    """Return the content of a file of the expected format. `command` is the one that wrote it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `sclip {command}` writes it")
    return read_checked(path, expected, f"run `sclip {command}` again")


def read_checked(path: Path, expected: str, advice: str) -> dict[str, Any]:
    """Return the content of a file of the expected format, without its digest. `advice` is the end of an error."""
    try:
        index = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    check_format(path, index, expected, advice)
    content: dict[str, Any] = index
    if content.pop(DIGEST, None) != data_fingerprint(content):
        raise UserError(f"{path}: damaged: its content does not match its digest; {advice}")
    return content
