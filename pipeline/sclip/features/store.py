"""The feature store: every utterance's hidden states in a few large files, read by memory map.

docs/feature-store.md describes the format. What exists is whole: files come to their names by renaming, and the
index that tells which of them count is written last. Reading neither parses nor copies but what is asked for, and
asks the operating system's cache alone to remember.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclip.device import PRECISIONS
from sclip.errors import UserError
from sclip.features.codes import Coded, Directions
from sclip.features.index import read_index_file, write_index_file
from sclip.files import check_digest
from sclip.fingerprints import data_fingerprint
from sclip.padded import Padded
from sclip.parsing import parse
from sclip.tensors import read_tensors_and_metadata, write_tensors

Array = np.ndarray[Any, Any]

FORMAT = "sclip features 2"
INDEX_FILE = "index.json"
CODES = "int8"  # the precision of coded states
DIRECTIONS_FILE = "directions.safetensors"


@dataclass(frozen=True)
class ShardMetadata:
    """The metadata in the header of a shard."""

    format: str
    fingerprint: str
    features: dict[str, Any]  # what the fingerprint is of
    ids: tuple[str, ...]
    skipped: dict[str, str]  # ids: what is wrong with the recording


@dataclass(frozen=True)
class Shard:
    """A shard's file, mapped: `states` (frames, L, D), or their codes (frames, K), are read when they are used."""

    path: Path
    size: int
    metadata: ShardMetadata
    lengths: Tensor  # (N,)
    hashes: Tensor  # (N, 32)
    states: Tensor
    digest: str  # SHA-256 over all but the states, which the hashes stand for

    @property
    def fingerprint(self) -> str:
        return self.metadata.fingerprint

    @property
    def ids(self) -> tuple[str, ...]:
        return self.metadata.ids

    @property
    def skipped(self) -> dict[str, str]:
        return self.metadata.skipped

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Read and check all but the states."""
        tensors, found = read_tensors_and_metadata(path)
        metadata = parse(ShardMetadata, found, str(path))
        if not _fit(tensors, metadata):
            raise UserError(f"{path}: a damaged shard: its metadata and the shapes of its tensors do not fit together")
        with path.open("rb") as file:
            prefix = file.read(8)
            header = file.read(int.from_bytes(prefix, "little"))
        lengths, hashes = tensors["lengths"].clone(), tensors["hashes"].clone()
        digest = hashlib.sha256(prefix + header + bytes_of(lengths).tobytes() + bytes_of(hashes).tobytes()).hexdigest()
        return cls(path, path.stat().st_size, metadata, lengths, hashes, tensors["states"], digest)

    def entry(self) -> dict[str, Any]:
        """In the index."""
        return {
            "file": self.path.name,
            "bytes": self.size,
            "digest": self.digest,
            "utterances": len(self.lengths),
            "frames": len(self.states),
        }


def _fit(tensors: Mapping[str, Tensor], metadata: ShardMetadata) -> bool:
    """Return whether a shard's tensors are those that its metadata describes."""
    features, count = metadata.features, len(metadata.ids)
    if metadata.format != FORMAT or metadata.fingerprint != data_fingerprint(features):
        return False
    if tensors.keys() != {"states", "lengths", "hashes"}:
        return False
    lengths, hashes, states = tensors["lengths"], tensors["hashes"], tensors["states"]
    return (
        (lengths.dtype, lengths.shape) == (torch.int64, (count,))
        and (hashes.dtype, hashes.shape) == (torch.uint8, (count, 32))
        and (states.dtype, states.shape) == (frame_type(features), (int(lengths.sum()), *frame_shape(features)))
        and bool((lengths > 0).all())
    )


def frame_shape(features: Mapping[str, Any]) -> tuple[int, ...]:
    """(L, D), or (K,) where they are coded"""
    return (features["components"],) if "components" in features else (features["states"], features["width"])


def frame_type(features: Mapping[str, Any]) -> torch.dtype:
    return torch.int8 if features["precision"] == CODES else PRECISIONS[features["precision"]]


def write_shard(
    path: Path, features: Mapping[str, Any], utterances: Mapping[str, Tensor], skipped: Mapping[str, str]
) -> Shard:
    """`features`: what the fingerprint is of; `utterances`: by id, in the order of the manifest, frames of states
    (T, L, D) or codes (T, K)."""
    empty = torch.empty(0, *frame_shape(features), dtype=frame_type(features))
    hashes = [list(hashlib.sha256(bytes_of(states.contiguous())).digest()) for states in utterances.values()]
    tensors = {
        "states": torch.cat([empty, *utterances.values()]),
        "lengths": torch.tensor([len(states) for states in utterances.values()], dtype=torch.int64),
        "hashes": torch.tensor(hashes, dtype=torch.uint8).view(-1, 32),
    }
    metadata = {
        "format": FORMAT,
        "fingerprint": data_fingerprint(features),
        "features": dict(features),
        "ids": list(utterances),
        "skipped": dict(skipped),
    }
    write_tensors(path, tensors, metadata)
    return Shard.open(path)


def write_index(folder: Path, features: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    index = {
        "format": FORMAT,
        "fingerprint": data_fingerprint(features),
        "features": dict(features),
        "utterances": sum(len(shard.lengths) for shard in shards),
        "frames": sum(len(shard.states) for shard in shards),
        "skipped": {name: reason for shard in shards for name, reason in shard.skipped.items()},
        "shards": [shard.entry() for shard in shards],
    }
    write_index_file(folder / INDEX_FILE, index)


def read_index(folder: Path) -> dict[str, Any]:
    return read_index_file(folder / INDEX_FILE, FORMAT, "extract-features")


class FeatureStore:
    """Utterances are known by their rows in the store, 0 to N - 1, in the order of the manifest."""

    def __init__(
        self,
        features: Mapping[str, Any],
        fingerprint: str,
        shards: Sequence[Shard],
        directions: Directions | None = None,
    ):
        self.fingerprint, self.directions = fingerprint, directions
        self.features = dict(features)
        self.states, self.width = int(features["states"]), int(features["width"])
        self.frame_seconds = float(features["frame_seconds"])
        self.ids: list[str] = [name for shard in shards for name in shard.ids]
        self.lengths = torch.cat([shard.lengths for shard in shards])  # (N,)
        counts = torch.tensor([len(shard.lengths) for shard in shards])
        self._shard = torch.arange(len(shards)).repeat_interleave(counts)  # (N,)
        self._start = torch.cat([shard.lengths.cumsum(0) - shard.lengths for shard in shards])  # (N,), in its shard
        self._shape, self._dtype = frame_shape(features), frame_type(features)
        # numpy has no bf16; bytes are bytes. Its large arrays are the ones that come in huge pages: torch's own
        # cost as much time to allocate as to fill.
        kind = {1: torch.int8, 2: torch.int16, 4: torch.int32}[self._dtype.itemsize]
        self._frames = [shard.states.view(kind).flatten(1).numpy() for shard in shards]  # (frames, L * D or K)

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        folder = Path(folder)
        index = read_index(folder)
        shards = []
        for entry in index["shards"]:
            shards.append(_open_listed(folder, entry, index["fingerprint"]))
        directions = None
        if "components" in index["features"]:
            directions = read_directions(folder, index["features"])
        return cls(index["features"], index["fingerprint"], shards, directions)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def row(self, name: str) -> int:
        if name not in self._rows:
            raise UserError(f"utterance {name}: not in the feature store")
        return self._rows[name]

    def rows(self, names: Sequence[str]) -> Tensor:
        return torch.tensor([self.row(name) for name in names], dtype=torch.long)

    def read(self, rows: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1) -> Padded:
        """Frames from `starts` (B,) on, `limit` at most -> (B, L, T, D) in the stored precision, or coded; T is a
        multiple of `multiple`."""
        starts = torch.zeros_like(rows) if starts is None else starts
        lengths = self.lengths[rows] - starts
        if limit is not None:
            lengths = lengths.clamp(max=limit)
        assert bool((lengths > 0).all()), "a start past the utterance's end"
        # Behind its end an utterance repeats its last frame.
        width = math.ceil(int(lengths.max()) / multiple) * multiple
        steps = torch.minimum(torch.arange(width), lengths[:, None] - 1)  # (B, T)
        frames = ((self._start[rows] + starts)[:, None] + steps).numpy()
        values = self._gather(self._shard[rows].numpy(), frames)
        batch = torch.from_numpy(values).view(self._dtype).view(*frames.shape, *self._shape)
        if self.directions is not None:
            return Coded(batch, lengths, self.directions)
        return Padded(batch.transpose(1, 2), lengths)

    def _gather(self, shard: Array, frames: Array) -> Array:
        """Shards (B,) and frames in them (B, T) -> (B, T, numbers), each run of rows of one shard at once."""
        values = np.empty((*frames.shape, self._frames[0].shape[1]), self._frames[0].dtype)
        changes = np.flatnonzero(np.diff(shard)) + 1
        for start, end in pairwise([0, *changes, len(shard)]):
            # "clip" lets numpy write in place; no index is out of range.
            np.take(self._frames[shard[start]], frames[start:end], axis=0, out=values[start:end], mode="clip")
        return values


def _open_listed(folder: Path, entry: dict[str, Any], fingerprint: str) -> Shard:
    again = "run `sclip extract-features` again"
    try:
        shard = Shard.open(folder / entry["file"])
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    if shard.entry() != entry or shard.fingerprint != fingerprint:
        raise UserError(f"{shard.path}: not the shard that {INDEX_FILE} lists; {again}")
    return shard


def read_directions(folder: Path, features: Mapping[str, Any]) -> Directions:
    path = folder / DIRECTIONS_FILE
    try:
        check_digest(path, features["directions"], INDEX_FILE)
    except UserError as error:
        raise UserError(f"{error}; run `sclip extract-features` again") from None
    return Directions.load(path, features["normalized"])


def bytes_of(tensor: Tensor) -> memoryview:
    """The contiguous tensor's memory."""
    return tensor.view(-1).view(torch.uint8).numpy().data
