"""The small JSON file of an index, which says what is in it. docs/search.md describes the format."""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sclip.apps.inputs import Kind
from sclip.errors import UserError
from sclip.index_file import read_checked, write_index_file
from sclip.parsing import parse

FORMAT = "sclip index 1"
CONFIG_FILE = "index.json"
BLOCKS_FOLDER = "unfinished"  # what an interrupted command has embedded so far
AGAIN = "delete the folder and make the index again"


@dataclass(frozen=True)
class IndexConfig:
    format: str
    kind: Kind
    model: str | None  # a folder or a hub repo; None: the model was given as a Python object without a folder
    fingerprint: str  # of the model: its head and both encoders
    branch: str | None  # that recordings are encoded by
    key: str  # fingerprint of everything that decides a file's vector
    count: int
    width: int
    skipped: int
    file: str  # in the same folder
    sha256: str  # of this file
    version: str | None = None  # of sclip


def read_config(folder: Path) -> IndexConfig:
    """Read the configuration of an index, and refuse a folder that has none or one of another format."""
    path = folder / CONFIG_FILE
    if folder.is_file():
        raise UserError(f"{folder}: a file; expected an index, which is a folder, before the recordings")
    if not path.is_file() and has_other_files(folder):
        raise UserError(f"{folder}: not an index; name the folder that `sclip index FILES --out FOLDER` has written")
    if not path.is_file():
        what = "not an index" if folder.is_dir() else "no such index"
        raise UserError(f"{folder}: {what}; `sclip index FILES --model MODEL --out {folder}` makes one")
    data = read_checked(path, FORMAT, AGAIN)
    try:
        config: IndexConfig = parse(IndexConfig, data, str(path))
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from None
    if not re.fullmatch(r"vectors-[0-9]{1,18}\.safetensors", config.file):
        raise UserError(f"{path}: file: expected vectors-NUMBER.safetensors, found {config.file!r}; {AGAIN}")
    return config


def is_index(folder: Path) -> bool:
    return os.path.isfile(folder / CONFIG_FILE)  # unlike Path's function, it takes a name that is too long for a file


def has_other_files(folder: Path) -> bool:
    """Return whether a folder holds files, and `sclip index` has written none of them."""
    if not folder.is_dir() or (folder / CONFIG_FILE).exists() or list(folder.glob("vectors-*.safetensors*")):
        return False
    return any(path.name != BLOCKS_FOLDER for path in folder.iterdir())


def faiss_file(config: IndexConfig) -> str:
    """Return the name of the file that a search by faiss makes of the same vectors."""
    return f"{Path(config.file).stem}.faiss"


def write_config(folder: Path, config: IndexConfig) -> None:
    write_index_file(folder / CONFIG_FILE, dataclasses.asdict(config))
