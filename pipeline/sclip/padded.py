"""Sequences of unequal length in one padded tensor, together with their lengths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.device import send


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """Return a mask that is true inside each sequence: lengths (B,) -> (B, size). All masks are made here."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def length_sorted_batches(lengths: Tensor, max_total: int) -> Iterator[Tensor]:
    """Yield the indices of each batch, longest sequences first.

    The total length of a batch, padding included, is at most `max_total`. A longer sequence gets a batch of its own.
    """
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        size = max(1, max_total // max(1, int(lengths[order[0]])))
        yield order[:size]
        order = order[size:]


@dataclass(frozen=True)
class Padded:
    """`values` (B, ..., T, D) with `lengths` (B,) along T. The padding is finite and has no meaning."""

    values: Tensor
    lengths: Tensor

    @classmethod
    def stack(cls, sequences: Sequence[Tensor]) -> "Padded":
        """Stack one (..., T, D) tensor per sequence into a batch, padded with zeros."""
        lengths = [s.shape[-2] for s in sequences]
        *leading, _, width = sequences[0].shape
        values = sequences[0].new_zeros(len(sequences), *leading, max(lengths), width)
        for row, sequence in zip(values, sequences, strict=True):
            row[..., : sequence.shape[-2], :] = sequence
        return cls(values, send(torch.tensor(lengths), values.device))

    @property
    def valid(self) -> Tensor:
        """Return the mask (B, T) of frames that are not padding."""
        return valid_mask(self.lengths, self.values.shape[-2])

    def mean_of(self, size: int) -> "Padded":
        """Average every `size` consecutive frames: (B, T, D) -> (B, ceil(T / size), D). A last mean may have fewer."""
        if size == 1:
            return self
        missing = -self.values.shape[1] % size
        frames = F.pad(self.values * self.valid[..., None], (0, 0, 0, missing))
        batch, length, width = frames.shape
        sums = frames.view(batch, length // size, size, width).sum(2)
        counts = F.pad(self.valid, (0, missing)).view(batch, length // size, size).sum(2)
        means = sums / counts.clamp(min=1)[..., None]
        return Padded(means, (self.lengths + size - 1) // size)

    def to(self, device: torch.device) -> "Padded":
        return Padded(self.values.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))

    def pinned(self) -> "Padded":
        """Copy the batch to pinned memory, which a GPU reads asynchronously, unless it is on a GPU already."""
        if self.values.is_cuda:
            return self
        return Padded(self.values.pin_memory(), self.lengths.pin_memory())

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each sequence without its padding."""
        for row, length in zip(self.values, self.lengths.tolist(), strict=True):
            yield row[..., :length, :]
