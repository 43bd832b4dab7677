"""Utterances in the memory of a GPU. Training then copies no frames: the GPU gathers each batch itself.

The codes of Flickr8k, 2.5 kB a frame, take 16 GB. A split that does not fit stays in its files, which the system caches
in main memory. Threads then gather each batch in pinned memory, and it is copied while the GPU computes.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip import distributed
from sclip.device import send
from sclip.features.codes import Coded, Directions
from sclip.features.store import FeatureStore, frame_bytes, frame_numbers
from sclip.padded import Padded

log = logging.getLogger(__name__)

# Memory for training: the head's activations, prefetched batches and graphs. By an estimate that was made on a CPU, the
# published heads need up to 13 GB with codes; on an H200 they took half of it. With states they need more, but states
# fit only on GPUs with much memory.
RESERVED_BYTES, RESERVED_SHARE = 16e9, 0.4
SMALL_SHARE = 0.1  # of the free memory; frames that take no more are copied in any case
BLOCK = 256  # utterances that are copied together


class ResidentStore:
    """A store with the interface of FeatureStore whose frames are on a device."""

    def __init__(
        self, features: Mapping[str, Any], frames: Tensor, lengths: Tensor, directions: Directions | None = None
    ):
        """`frames` (F, L, D), or codes (F, K), are those of all utterances, one after the other."""
        self.features, self.frames, self.lengths = dict(features), frames, lengths
        self.frame_seconds = float(features["frame_seconds"])
        self.directions = None if directions is None else directions.to(frames.device)
        self._first = lengths.cumsum(0) - lengths  # (N,): each utterance's first frame

    @classmethod
    def copy(cls, store: FeatureStore, rows: Tensor, device: torch.device) -> "ResidentStore":
        """Copy the utterances `rows` (N,) of a store to a device. Row i of the copy is row `rows[i]` of the store."""
        lengths = store.lengths[rows]
        shape, kind = store.frame_shape, store.frame_type
        frames = torch.empty(int(lengths.sum()), *shape, dtype=kind, device=device)
        start = 0
        for block in tqdm(torch.split(rows, BLOCK), f"copy to {device}", disable=distributed.bar_disabled()):
            utterances = torch.cat([store.utterance(row) for row in block.tolist()])
            frames[start : start + len(utterances)] = utterances.to(device)
            start += len(utterances)
        return cls(store.features, frames, lengths, store.directions)

    def read(self, rows: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1) -> Padded:
        """Read at most `limit` frames of each row, as FeatureStore does, on the device."""
        numbers, lengths = frame_numbers(self._first[rows], self.lengths[rows], starts, limit, multiple)
        numbers, lengths = send(numbers, self.frames.device), send(lengths, self.frames.device)
        values = self.frames.index_select(0, numbers.flatten()).view(*numbers.shape, *self.frames.shape[1:])
        if self.directions is not None:
            return Coded(values, lengths, self.directions)
        return Padded(values.transpose(1, 2), lengths)


def fits(store: FeatureStore, frames: int, device: torch.device) -> bool:
    """Return whether `frames` frames of a store can be copied to the memory of a GPU."""
    size = frames * frame_bytes(store.features)
    free, total = torch.cuda.mem_get_info(device)
    room = max(free - max(RESERVED_BYTES, RESERVED_SHARE * total), SMALL_SHARE * free)
    if size > room:
        log.info(
            f"{size / 1e9:.1f} GB of frames do not fit in the {free / 1e9:.1f} GB of free GPU memory beside training; "
            "they are read from files"
        )
    return size <= room
