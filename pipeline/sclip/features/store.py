"""The feature store: every utterance's hidden states in a few large files (shards), read by memory map.

docs/feature-store.md describes the format. Every file is complete: writers rename it into place, and write the index,
which lists the shards, last. A read copies only the frames that it returns. Only the operating system caches them.
"""

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclip.concurrency import READERS
from sclip.device import PRECISIONS
from sclip.errors import UserError
from sclip.features.codes import Coded, Directions
from sclip.files import check_digest
from sclip.fingerprints import data_fingerprint
from sclip.index_file import read_index_file, write_index_file
from sclip.padded import Padded
from sclip.parsing import parse
from sclip.tensors import read_tensors_and_metadata, write_tensors

Array = np.ndarray[Any, Any]

FORMAT = "sclip features 2"
INDEX_FILE = "index.json"
HASHERS = 8  # threads
CODES = "int8"  # in place of a precision: states are stored as codes
DIRECTIONS_FILE = "directions.safetensors"
# numpy has no bf16, so it copies frames as integers of the same size.
INTEGER = {torch.int8: torch.int8, torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True)
class ShardMetadata:
    """The metadata in the header of a shard."""

    format: str
    fingerprint: str
    features: dict[str, Any]  # the settings that the fingerprint is computed from
    ids: tuple[str, ...]
    skipped: dict[str, str]  # id: why the recording cannot be used


@dataclass(frozen=True)
class Shard:
    """A memory-mapped shard. `states` (frames, L, D), or codes (frames, K), are read from the disk on first use."""

    path: Path
    size: int
    metadata: ShardMetadata
    lengths: Tensor  # (N,)
    hashes: Tensor  # (N, 32)
    states: Tensor
    digest: str  # SHA-256 over the file without the states; `hashes` covers the states

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
        """Open a shard, and check everything except the values of the states."""
        tensors, data = read_tensors_and_metadata(path)
        metadata = parse(ShardMetadata, data, str(path))
        if not _fit(tensors, metadata):
            raise UserError(f"{path}: damaged shard: its metadata and the shapes of its tensors do not fit together")
        with path.open("rb") as file:
            prefix = file.read(8)
            header = file.read(int.from_bytes(prefix, "little"))
        lengths, hashes = tensors["lengths"].clone(), tensors["hashes"].clone()
        digest = hashlib.sha256(prefix + header + bytes_of(lengths).tobytes() + bytes_of(hashes).tobytes()).hexdigest()
        return cls(path, path.stat().st_size, metadata, lengths, hashes, tensors["states"], digest)

    def entry(self) -> dict[str, Any]:
        """Return the shard's entry in the index."""
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
    """Return the shape of a stored frame: (L, D), or (K,) for codes."""
    return (features["components"],) if "components" in features else (features["states"], features["width"])


def frame_bytes(features: Mapping[str, Any]) -> int:
    return math.prod(frame_shape(features)) * frame_type(features).itemsize


def frame_type(features: Mapping[str, Any]) -> torch.dtype:
    return torch.int8 if features["precision"] == CODES else PRECISIONS[features["precision"]]


def write_shard(
    path: Path, features: Mapping[str, Any], utterances: Mapping[str, Tensor], skipped: Mapping[str, str]
) -> Shard:
    """Write a shard of states (T, L, D) or codes (T, K).

    `features` are the settings that the fingerprint is computed from. `utterances` are by id, in the manifest's order.
    `skipped` is by id: why a recording cannot be used.
    """
    empty = torch.empty(0, *frame_shape(features), dtype=frame_type(features))
    with ThreadPoolExecutor(HASHERS) as pool:  # one thread hashes more slowly than a GPU encodes
        hashes = list(pool.map(_hash, utterances.values()))
    tensors = {
        "states": _joined([empty, *utterances.values()]),
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


def _joined(utterances: Sequence[Tensor]) -> Tensor:
    """Join utterances along their frames with numpy, for the reason in FeatureStore."""
    dtype = utterances[0].dtype
    return torch.from_numpy(np.concatenate([states.view(INTEGER[dtype]).numpy() for states in utterances])).view(dtype)


def _hash(states: Tensor) -> list[int]:
    return list(hashlib.sha256(bytes_of(states.contiguous())).digest())


def shard_name(fingerprint: str, recordings: Sequence[tuple[str, str]]) -> str:
    """Return the name of the shard of some recordings, given by their utterances' ids and their files' SHA-256."""
    return f"{data_fingerprint([fingerprint, [list(pair) for pair in recordings]])[:16]}.safetensors"


def write_index(folder: Path, features: Mapping[str, Any], shards: Sequence[Shard], rows: str | None = None) -> None:
    """Write a folder's index. `rows` is the fingerprint of the ids and paths of the recordings in the manifest."""
    index = {
        "format": FORMAT,
        "fingerprint": data_fingerprint(features),
        "features": dict(features),
        "rows": rows,
        "utterances": sum(len(shard.lengths) for shard in shards),
        "frames": sum(len(shard.states) for shard in shards),
        "skipped": {name: reason for shard in shards for name, reason in shard.skipped.items()},
        "shards": [shard.entry() for shard in shards],
    }
    write_index_file(folder / INDEX_FILE, index)


def read_index(folder: Path) -> dict[str, Any]:
    """Read a folder's index. A folder may come from elsewhere, and must not make this read files outside it."""
    path = folder / INDEX_FILE
    index = read_index_file(path, FORMAT, "extract-features")
    tables = isinstance(index.get("features"), dict) and isinstance(index.get("skipped"), dict)
    shards = index.get("shards")
    if not tables or not isinstance(shards, list) or not all(map(_is_shard, shards)):
        raise UserError(
            f"{path}: expected tables `features` and `skipped`, and `shards` with the names of files in this folder; "
            "run `sclip extract-features` again"
        )
    return index


def _is_shard(entry: Any) -> bool:
    name = entry.get("file") if isinstance(entry, dict) else None
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name) is not None


class FeatureStore:
    """The shards of a folder as one array of utterances. Rows are 0 to N - 1, in the manifest's order."""

    def __init__(self, features: Mapping[str, Any], shards: Sequence[Shard], directions: Directions | None):
        self.features, self.directions = dict(features), directions
        self.frame_seconds = float(features["frame_seconds"])
        self.ids: list[str] = [name for shard in shards for name in shard.ids]
        self.lengths = torch.cat([shard.lengths for shard in shards])  # (N,)
        counts = torch.tensor([len(shard.lengths) for shard in shards])
        self._shard = torch.arange(len(shards)).repeat_interleave(counts)  # (N,)
        # (N,), each utterance's first frame in its shard
        self._start = torch.cat([shard.lengths.cumsum(0) - shard.lengths for shard in shards])
        self.frame_shape, self.frame_type = frame_shape(features), frame_type(features)
        # numpy builds the batches, because its large arrays get huge pages. torch takes as long to allocate its own as
        # to fill them.
        self._integer = INTEGER[self.frame_type]
        self._frames = [shard.states.view(self._integer).flatten(1).numpy() for shard in shards]  # (frames, L * D or K)
        self._copiers: ThreadPoolExecutor | None = None

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        folder = Path(folder)
        index = read_index(folder)
        shards = [_open_listed(folder, entry, index["fingerprint"]) for entry in index["shards"]]
        features = index["features"]
        return cls(features, shards, read_directions(folder, features) if "components" in features else None)

    def read(self, rows: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1) -> Padded:
        """Read at most `limit` frames of each row, from `starts` (B,) on: (B, L, T, D) as stored, or codes (B, T, K).

        T is a multiple of `multiple`.
        """
        frames, lengths = frame_numbers(self._start[rows], self.lengths[rows], starts, limit, multiple)
        values = self._gather(self._shard[rows].numpy(), frames.numpy())
        batch = torch.from_numpy(values).view(self.frame_type).view(*frames.shape, *self.frame_shape)
        if self.directions is not None:
            return Coded(batch, lengths, self.directions)
        return Padded(batch.transpose(1, 2), lengths)

    def utterance(self, row: int) -> Tensor:
        """Return the frames of a row as they are stored: states (T, L, D) or codes (T, K)."""
        start, length = int(self._start[row]), int(self.lengths[row])
        frames = self._frames[int(self._shard[row])][start : start + length]
        return torch.from_numpy(frames).view(self.frame_type).view(length, *self.frame_shape)

    def with_pinned_batches(self) -> "FeatureStore":
        """Return this store with batches in pinned memory, which a GPU copies asynchronously.

        Several threads copy the frames of a batch. A single one is slower than the training step of a small head.
        """
        store = copy.copy(self)
        store._copiers = ThreadPoolExecutor(READERS)
        return store

    def _gather(self, shard: Array, frames: Array) -> Array:
        """Copy frames (B, T) of shards (B,): (B, T, L * D or K). Neighbouring rows of one shard are copied together."""
        copiers, width = self._copiers, self._frames[0].shape[1]
        if copiers is None:
            values = np.empty((*frames.shape, width), self._frames[0].dtype)
        else:
            values = torch.empty(*frames.shape, width, dtype=self._integer, pin_memory=True).numpy()
        changes = np.flatnonzero(np.diff(shard)) + 1
        parts = np.linspace(0, len(shard), 1 if copiers is None else READERS + 1, dtype=int)
        cuts = np.unique([0, *changes, *parts, len(shard)])

        def take(start: int, end: int) -> None:
            # "clip" lets numpy write in place; no index is out of range.
            np.take(self._frames[shard[start]], frames[start:end], axis=0, out=values[start:end], mode="clip")

        run: Callable[..., Iterator[None]] = map if copiers is None else copiers.map
        for _ in run(take, cuts[:-1], cuts[1:]):
            pass
        return values


def frame_numbers(
    first: Tensor, lengths: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the numbers (B, T) of the frames to read, and how many of them each utterance has (B,).

    An utterance has `lengths` (B,) frames from number `first` (B,) on. At most `limit` frames are read, from `starts`
    (B,) of the utterance on. T is a multiple of `multiple`. Padding repeats an utterance's last frame.
    """
    if starts is not None:
        first, lengths = first + starts, lengths - starts
    if limit is not None:
        lengths = lengths.clamp(max=limit)
    assert bool((lengths > 0).all()), "a start lies behind the end of its utterance"
    width = math.ceil(int(lengths.max()) / multiple) * multiple
    return first[:, None] + torch.minimum(torch.arange(width), lengths[:, None] - 1), lengths


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
    """Read the directions of a store's codes, and check the file against the index."""
    path = folder / DIRECTIONS_FILE
    check_digest(path, features["directions"], INDEX_FILE, "run `sclip extract-features` again")
    return Directions.load(path, features["normalized"])


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data
