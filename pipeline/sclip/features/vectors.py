"""CLIP's vectors of a corpus, of unit length: of each picture, each caption and each token. They fit in memory."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip.errors import UserError
from sclip.files import check_digest, file_digest
from sclip.index_file import read_index_file, write_index_file
from sclip.parsing import parse
from sclip.tensors import read_tensors_and_metadata, write_tensors

FORMAT = "sclip vectors 3"
INDEX_FILE, IMAGES_FILE, CAPTIONS_FILE, TOKENS_FILE = (
    "index.json",
    "images.safetensors",
    "captions.safetensors",
    "tokens.safetensors",
)
FILES = (IMAGES_FILE, CAPTIONS_FILE, TOKENS_FILE)
CLIP_KEYS = ("name", "revision", "hash")
COMMAND = "embed-clip"


@dataclass(frozen=True)
class TokenVectors:
    """CLIP's vectors of single tokens, and how they compare with the pictures of the training split."""

    ids: list[int]  # CLIP's tokens: those of any caption, and padding, start and end
    vectors: Tensor  # (V, J): of the text that is this token alone
    log_mean: Tensor  # (V,): the logarithm of the mean of exp(scale * cosine) over the training pictures
    counts: Tensor  # (V,): how often the token is in the training captions
    scale: float  # CLIP's own: its softmax is over scale * cosine

    def select(self, ids: Sequence[int]) -> "TokenVectors":
        """Return the entries of some tokens, in their order."""
        rows = {token: row for row, token in enumerate(self.ids)}
        unknown = [token for token in ids if token not in rows]
        if unknown:
            raise UserError(
                f"CLIP's vectors of tokens: no token {unknown[0]}, which is in the vocabulary; "
                "use the vocabulary of this corpus"
            )
        index = torch.tensor([rows[token] for token in ids])
        return TokenVectors(list(ids), self.vectors[index], self.log_mean[index], self.counts[index], self.scale)


@dataclass(frozen=True)
class _Index:
    """The part of index.json that is read."""

    fingerprint: str
    clip: dict[str, str | None]  # name, revision, hash
    skipped: dict[str, str]  # utterance id: what is wrong with its row
    notes: dict[str, dict[str, str]]  # kind: utterance id: what a user should know
    files: dict[str, str]  # name: SHA-256
    content: str | None = None  # fingerprint of the rows, pictures and captions
    rows: str | None = None  # fingerprint of the rows alone, which costs little to compare
    embedder: str | None = None  # fingerprint of CLIP and the code


class ClipVectors:
    """The content of a folder of vectors."""

    def __init__(
        self,
        index: _Index,
        images: tuple[list[str], Tensor],
        captions: tuple[list[str], Tensor],
        tokens: TokenVectors | None,
    ):
        self.fingerprint, self.content, self.rows, self.clip = (
            index.fingerprint,
            index.content,
            index.rows,
            index.clip,
        )
        self.skipped, self.notes = index.skipped, index.notes
        self.image_ids, self.images = images  # (I, J), in the order of first appearance
        self.caption_ids, self.captions = captions  # utterance ids; (C, J)
        self.tokens = tokens  # None if this CLIP takes no keywords, or no training row has text

    @classmethod
    def open(cls, folder: str | Path) -> "ClipVectors":
        folder = Path(folder)
        index = _read_index(folder / INDEX_FILE)
        (images, image_ids), (captions, caption_ids), (tokens, metadata) = (
            _read(folder / name, index.files[name]) for name in FILES
        )
        return cls(
            index,
            (image_ids["ids"], images["vectors"]),
            (caption_ids["ids"], captions["vectors"]),
            TokenVectors(ids=metadata["ids"], scale=metadata["scale"], **tokens) if tokens else None,
        )


def _read_index(path: Path) -> _Index:
    """Read an index and check its types. The folder may come from elsewhere, and a correct digest proves no types."""
    data = read_index_file(path, FORMAT, COMMAND)
    try:
        known = {field.name: data[field.name] for field in dataclasses.fields(_Index) if field.name in data}
        index: _Index = parse(_Index, known, str(path))
        for key, needed, found in (("files", FILES, index.files), ("clip", CLIP_KEYS, index.clip)):
            missing = [name for name in needed if name not in found]
            if missing:
                raise UserError(f"{path}: {key}: no {missing[0]}")
    except UserError as error:
        raise UserError(f"{error}; run `sclip {COMMAND}` again") from None
    return index


@dataclass(frozen=True)
class EmbeddedPicture:
    """Hold what is stored of a picture, besides its name."""

    vector: Tensor  # (J,)
    one_colour: bool


def read_pictures(folder: Path, embedder: str) -> dict[str, EmbeddedPicture]:
    """Return the pictures of a folder by the SHA-256 of their files, if `embedder` has computed their vectors."""
    try:
        index = _read_index(folder / INDEX_FILE)
        tensors, _ = _read(folder / IMAGES_FILE, index.files[IMAGES_FILE])
    except UserError:  # nothing is there, or something else or damaged
        return {}
    if index.embedder != embedder:
        return {}
    hashes = (bytes(row).hex() for row in tensors["hashes"].tolist())
    rows = zip(hashes, tensors["vectors"], tensors["one_colour"].tolist(), strict=True)
    return {digest: EmbeddedPicture(vector, one_colour) for digest, vector, one_colour in rows}


def picture_tensors(pictures: Sequence[EmbeddedPicture], hashes: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of images.safetensors, from which `read_pictures` reads."""
    return {
        "vectors": torch.stack([picture.vector for picture in pictures]),  # (I, J)
        "one_colour": torch.tensor([picture.one_colour for picture in pictures]),  # (I,)
        "hashes": torch.tensor([list(bytes.fromhex(digest)) for digest in hashes], dtype=torch.uint8),  # (I, 32)
    }


def write_vectors(
    folder: Path,
    index: dict[str, Any],
    images: tuple[list[str], dict[str, Tensor]],
    captions: tuple[list[str], Tensor],
    tokens: TokenVectors | None,
) -> None:
    """Write the three files, then the index, which has their digests. `images` has the tensor `vectors`, or more."""
    for name, (ids, tensors) in ((IMAGES_FILE, images), (CAPTIONS_FILE, (captions[0], {"vectors": captions[1]}))):
        write_tensors(folder / name, tensors, {"ids": ids})
    fields = {} if tokens is None else vars(tokens)
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    write_tensors(folder / TOKENS_FILE, tensors, {name: value for name, value in fields.items() if name not in tensors})
    digests = {name: file_digest(folder / name) for name in FILES}
    write_index_file(folder / INDEX_FILE, {"format": FORMAT, **index, "files": digests})


def _read(path: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_digest(path, digest, INDEX_FILE, f"run `sclip {COMMAND}` again")
    return read_tensors_and_metadata(path)
