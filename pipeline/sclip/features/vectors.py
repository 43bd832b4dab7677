"""CLIP's vectors of a corpus, of unit length: of each picture, each caption and each token. They fit in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip.errors import UserError
from sclip.files import check_digest, file_digest
from sclip.index_file import read_index_file, write_index_file
from sclip.tensors import read_tensors_and_metadata, write_tensors

FORMAT = "sclip vectors 3"
INDEX_FILE, IMAGES_FILE, CAPTIONS_FILE, TOKENS_FILE = (
    "index.json",
    "images.safetensors",
    "captions.safetensors",
    "tokens.safetensors",
)
FILES = (IMAGES_FILE, CAPTIONS_FILE, TOKENS_FILE)


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


class ClipVectors:
    """The content of a folder of vectors."""

    def __init__(
        self,
        index: dict[str, Any],
        images: tuple[list[str], Tensor],
        captions: tuple[list[str], Tensor],
        tokens: TokenVectors | None,
    ):
        self.fingerprint: str = index["fingerprint"]
        self.content: str | None = index.get("content")  # fingerprint of the rows, pictures and captions
        self.clip: dict[str, Any] = index["clip"]  # name, revision, hash
        self.skipped: dict[str, str] = index["skipped"]  # utterance id: what is wrong with its row
        self.notes: dict[str, dict[str, str]] = index["notes"]  # kind: utterance id: what a user should know
        self.image_ids, self.images = images  # (I, J), in the order of first appearance
        self.caption_ids, self.captions = captions  # utterance ids; (C, J)
        self.tokens = tokens  # None if this CLIP takes no keywords, or no training row has text

    @classmethod
    def open(cls, folder: str | Path) -> "ClipVectors":
        folder = Path(folder)
        index = read_index_file(folder / INDEX_FILE, FORMAT, "embed-clip")
        (images, image_ids), (captions, caption_ids), (tokens, metadata) = (
            _read(folder / name, index["files"][name]) for name in FILES
        )
        return cls(
            index,
            (image_ids["ids"], images["vectors"]),
            (caption_ids["ids"], captions["vectors"]),
            TokenVectors(ids=metadata["ids"], scale=metadata["scale"], **tokens) if tokens else None,
        )


def write_vectors(
    folder: Path,
    index: dict[str, Any],
    images: tuple[list[str], Tensor],
    captions: tuple[list[str], Tensor],
    tokens: TokenVectors | None,
) -> None:
    """Write the three files, then the index, which has their digests."""
    for name, (ids, vectors) in ((IMAGES_FILE, images), (CAPTIONS_FILE, captions)):
        write_tensors(folder / name, {"vectors": vectors}, {"ids": ids})
    fields = {} if tokens is None else vars(tokens)
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    write_tensors(folder / TOKENS_FILE, tensors, {name: value for name, value in fields.items() if name not in tensors})
    digests = {name: file_digest(folder / name) for name in FILES}
    write_index_file(folder / INDEX_FILE, {"format": FORMAT, **index, "files": digests})


def _read(path: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        check_digest(path, digest, INDEX_FILE)
    except UserError as error:
        raise UserError(f"{error}; run `sclip embed-clip` again") from None
    return read_tensors_and_metadata(path)
