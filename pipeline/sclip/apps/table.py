"""A table of embedded files in one safetensors file: name, size, time and digest of each, its vector or its fault.

Tensors of a table are read from the disk on first use, so a table may be larger than the memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sclip.apps.inputs import Item
from sclip.errors import Fault, UserError
from sclip.fingerprints import tensors_fingerprint
from sclip.tensors import read_tensors, read_tensors_and_metadata, write_tensors

DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True, slots=True)
class Embedded:
    item: Item
    digest: bytes  # SHA-256 of its content
    result: Tensor | Fault  # a vector (J,)


class Strings:
    """Texts in one tensor of bytes, decoded one by one on demand."""

    def __init__(self, data: Tensor, ends: Tensor):
        """`data` (n,) has the bytes of all texts, and `ends` (N,) where each one ends."""
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = int(self.ends[i - 1]) if i else 0
        return self.data[start : int(self.ends[i])].numpy().tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        data, start = self.data.numpy().tobytes(), 0
        for end in self.ends.tolist():
            yield data[start:end].decode("utf-8", "surrogateescape")
            start = end


@dataclass(frozen=True)
class Table:
    """N usable files and M files that cannot be used."""

    names: Strings
    stats: Tensor  # (N, 2): size and time
    digests: Tensor  # (N, 32) bytes
    vectors: Tensor  # (N, J), unit length
    skipped: Strings
    skipped_stats: Tensor  # (M, 2)
    reasons: Strings


def pack(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the bytes of texts (n,), and where each ends (N,)."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    data = torch.from_numpy(np.frombuffer(b"".join(encoded), np.uint8).copy())
    return data, torch.tensor([len(text) for text in encoded], dtype=torch.int64).cumsum(0)


def stats_of(items: Sequence[Item]) -> Tensor:
    """Return sizes and times (N, 2)."""
    return torch.tensor([[item.size, item.mtime] for item in items], dtype=torch.int64).reshape(-1, 2)


def write_table(path: Path, usable: tuple[Sequence[Item], Tensor, Tensor], skipped: Sequence[tuple[Item, str]]) -> None:
    """Write usable items with their digests and vectors, and skipped ones with their reasons, atomically."""
    write_tensors(path, _tensors(usable, skipped), {})


def write_block(
    path: Path, usable: tuple[Sequence[Item], Tensor, Tensor], skipped: Sequence[tuple[Item, str]], key: str
) -> None:
    """Write a table with a digest in its metadata. `key` is the fingerprint of what decides a vector."""
    tensors = _tensors(usable, skipped)
    write_tensors(path, tensors, {"key": key, "digest": tensors_fingerprint(tensors, {"key": key})})


def read_block(path: Path, key: str) -> Table | None:
    """Return the table of a block whose vectors are decided by the same key, and None if they are decided by another.

    Every byte is compared with the digest.
    """
    tensors, metadata = read_tensors_and_metadata(path)
    if metadata.get("digest") != tensors_fingerprint(tensors, {"key": metadata.get("key")}):
        raise UserError(f"{path}: damaged: its content does not match its digest")
    return _table(path, tensors) if metadata.get("key") == key else None


def _tensors(usable: tuple[Sequence[Item], Tensor, Tensor], skipped: Sequence[tuple[Item, str]]) -> dict[str, Tensor]:
    """Return the tensors of a table as they are stored."""
    items, digests, vectors = usable
    texts = {
        "names": [item.name for item in items],
        "skipped": [item.name for item, _ in skipped],
        "reasons": [reason for _, reason in skipped],
    }
    tensors = {"stats": stats_of(items), "digests": digests, "vectors": vectors}
    tensors["skipped_stats"] = stats_of([item for item, _ in skipped])
    for key, values in texts.items():
        tensors[key], tensors[f"{key}_ends"] = pack(values)
    return tensors


def read_table(path: Path) -> Table:
    """Open a table, and refuse one whose parts do not fit."""
    return _table(path, read_tensors(path))


def _table(path: Path, tensors: dict[str, Tensor]) -> Table:
    """Build a table from the tensors of a file, and refuse tensors that do not fit together."""
    try:
        names, skipped, reasons = (
            Strings(tensors[key], tensors[f"{key}_ends"]) for key in ("names", "skipped", "reasons")
        )
        table = Table(
            names, tensors["stats"], tensors["digests"], tensors["vectors"], skipped, tensors["skipped_stats"], reasons
        )
    except KeyError as error:
        raise UserError(f"{path}: the tensor {error} is missing") from None
    rows = (table.stats.shape, table.digests.shape, table.vectors.shape[:1], table.skipped_stats.shape, len(reasons))
    count, faults = len(names), len(skipped)
    if rows != ((count, 2), (count, DIGEST), (count,), (faults, 2), faults) or table.vectors.ndim != 2:
        raise UserError(f"{path}: damaged: its tensors do not have the same number of rows")
    return table


def has_rows(table: Table, items: Sequence[Item], skipped: Sequence[tuple[Item, str]]) -> bool:
    """Return whether a table has exactly these usable and these skipped items, in this order."""
    return (
        [item.name for item in items] == list(table.names)
        and torch.equal(stats_of(items), table.stats)
        and [(item.name, reason) for item, reason in skipped] == list(zip(table.skipped, table.reasons, strict=True))
        and torch.equal(stats_of([item for item, _ in skipped]), table.skipped_stats)
    )
