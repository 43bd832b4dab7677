"""CLIP's vectors of a corpus, of unit length: one for each picture and one for each caption. They fit in memory."""

from pathlib import Path
from typing import Any

from torch import Tensor

from sclip.errors import UserError
from sclip.features.index import read_index_file, write_index_file
from sclip.files import check_digest, file_digest
from sclip.tensors import read_tensors_and_metadata, write_tensors

FORMAT = "sclip vectors 2"
INDEX_FILE, IMAGES_FILE, CAPTIONS_FILE = "index.json", "images.safetensors", "captions.safetensors"


class ClipVectors:
    """The content of a folder of vectors."""

    def __init__(self, index: dict[str, Any], images: tuple[list[str], Tensor], captions: tuple[list[str], Tensor]):
        self.fingerprint: str = index["fingerprint"]
        self.clip: dict[str, Any] = index["clip"]  # name, revision, hash
        self.skipped: dict[str, str] = index["skipped"]  # utterance id: what is wrong with its row
        self.notes: dict[str, dict[str, str]] = index["notes"]  # kind: utterance id: what a user should know
        self.image_ids, self.images = images  # (I, J), in the order of first appearance
        self.caption_ids, self.captions = captions  # utterance ids; (C, J)

    @classmethod
    def open(cls, folder: str | Path) -> "ClipVectors":
        folder = Path(folder)
        index = read_index_file(folder / INDEX_FILE, FORMAT, "embed-clip")
        images, captions = (_read(folder / name, index["files"][name]) for name in (IMAGES_FILE, CAPTIONS_FILE))
        return cls(index, images, captions)


def write_vectors(
    folder: Path, index: dict[str, Any], images: tuple[list[str], Tensor], captions: tuple[list[str], Tensor]
) -> None:
    """Write the two files, then the index, which has their digests."""
    for name, (ids, vectors) in ((IMAGES_FILE, images), (CAPTIONS_FILE, captions)):
        write_tensors(folder / name, {"vectors": vectors}, {"ids": ids})
    digests = {name: file_digest(folder / name) for name in (IMAGES_FILE, CAPTIONS_FILE)}
    write_index_file(folder / INDEX_FILE, {"format": FORMAT, **index, "files": digests})


def _read(path: Path, digest: str) -> tuple[list[str], Tensor]:
    try:
        check_digest(path, digest, INDEX_FILE)
    except UserError as error:
        raise UserError(f"{error}; run `sclip embed-clip` again") from None
    tensors, metadata = read_tensors_and_metadata(path)
    return metadata["ids"], tensors["vectors"]
