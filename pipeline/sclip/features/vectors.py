"""CLIP's vectors of a corpus, unit length: of every picture once, and of every caption. Small enough to hold."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sclip.errors import UserError
from sclip.features.store import METADATA, save_whole
from sclip.parsing import read_json
from sclip.whole import save_json

FORMAT = "sclip vectors 1"
INDEX_FILE, IMAGES_FILE, CAPTIONS_FILE = "index.json", "images.safetensors", "captions.safetensors"


class ClipVectors:
    def __init__(self, index: dict[str, Any], images: tuple[list[str], Tensor], captions: tuple[list[str], Tensor]):
        self.fingerprint: str = index["fingerprint"]
        self.clip: dict[str, Any] = index["clip"]  # name, revision, hash
        self.skipped: dict[str, str] = index["skipped"]  # utterance ids: what is wrong with their row
        self.notes: dict[str, dict[str, str]] = index["notes"]  # by kind, by utterance id: what a user should know
        self.image_ids, self.images = images  # (I, J), in the order of first appearance
        self.caption_ids, self.captions = captions  # utterance ids; (C, J)

    @classmethod
    def open(cls, folder: str | Path) -> "ClipVectors":
        folder = Path(folder)
        path = folder / INDEX_FILE
        if not path.is_file():
            raise UserError(f"{path}: no such file; `sclip embed-clip` writes it")
        index = read_json(path)
        found = index.get("format") if isinstance(index, dict) else None
        if found != FORMAT:
            raise UserError(f"{path}: format: expected {FORMAT!r}, found {found!r}")
        images, captions = (_read(folder / name, index["fingerprint"]) for name in (IMAGES_FILE, CAPTIONS_FILE))
        return cls(index, images, captions)


def write_vectors(
    folder: Path, index: dict[str, Any], images: tuple[list[str], Tensor], captions: tuple[list[str], Tensor]
) -> None:
    """The index last: it counts only with files of its own fingerprint."""
    for name, (ids, vectors) in ((IMAGES_FILE, images), (CAPTIONS_FILE, captions)):
        save_whole(folder / name, {"vectors": vectors}, {"fingerprint": index["fingerprint"], "ids": ids})
    save_json(folder / INDEX_FILE, {"format": FORMAT, **index})


def _read(path: Path, fingerprint: str) -> tuple[list[str], Tensor]:
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()[METADATA])
            vectors = file.get_tensor("vectors")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sclip embed-clip` again") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from None
    if metadata["fingerprint"] != fingerprint:
        raise UserError(f"{path}: not the file that {INDEX_FILE} tells of; run `sclip embed-clip` again")
    return metadata["ids"], vectors
