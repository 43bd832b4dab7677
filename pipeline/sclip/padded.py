"""Sequences of unequal length in one tensor: the lengths travel with what they measure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) -> (B, size), true where a sequence still runs. Every mask comes from here."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def even_batches(lengths: Tensor, most: int) -> Iterator[Tensor]:
    """Indices into lengths (N,), longest first, a batch each: together at most so long, padding included."""
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        size = max(1, most // max(1, int(lengths[order[0]])))
        yield order[:size]
        order = order[size:]


@dataclass(frozen=True)
class Padded:
    """`values` (B, ..., T, D) with `lengths` (B,) along T. What lies past a length is finite and means nothing."""

    values: Tensor
    lengths: Tensor

    @classmethod
    def stack(cls, sequences: Sequence[Tensor]) -> "Padded":
        """From one (..., T, D) tensor a sequence; padding is zero."""
        lengths = torch.tensor([s.shape[-2] for s in sequences], device=sequences[0].device)
        *leading, _, width = sequences[0].shape
        values = sequences[0].new_zeros(len(sequences), *leading, int(lengths.max()), width)
        for row, sequence in zip(values, sequences, strict=True):
            row[..., : sequence.shape[-2], :] = sequence
        return cls(values, lengths)

    @property
    def valid(self) -> Tensor:
        """(B, T)"""
        return valid_mask(self.lengths, self.values.shape[-2])

    def to(self, device: torch.device) -> "Padded":
        return Padded(self.values.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))

    def pinned(self) -> "Padded":
        """In memory that a GPU fetches from by itself, unless it is there already."""
        if self.values.is_cuda:
            return self
        return Padded(self.values.pin_memory(), self.lengths.pin_memory())

    def __iter__(self) -> Iterator[Tensor]:
        """Each sequence without its padding."""
        for row, length in zip(self.values, self.lengths.tolist(), strict=True):
            yield row[..., :length, :]
