"""Hidden states in a fraction of the bytes: codes of one byte each along a frame's principal directions.

- all states of a frame, side by side, are one long vector; so much of it repeats from state to state that a fraction
  of its directions, those in which a sample of the corpus varies most, tell nearly all
- every state counts alike, whatever its scale; a state that a head wants normalised is normalised first
- **a weighted sum of states is linear**: it is taken of the directions, once a batch, and no state is ever rebuilt
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.padded import Padded
from sclip.tensors import read_tensors

# Codes reach so many standard deviations: a step is then 6 % of one, and its rounding 0.03 % of the variance.
REACH, LARGEST = 8.0, 127
TENSORS = ("unit", "steps", "spread", "mean")


@dataclass(frozen=True)
class Directions:
    unit: Tensor  # (K, L * D), fp32: orthogonal, of unit length
    steps: Tensor  # (K,): what a code of 1 stands for
    spread: Tensor  # (L,): each state's standard deviation
    mean: Tensor  # (L, D)
    normalized: bool  # of states that went through a layer norm without weights
    _copies: dict[torch.device, "Directions"] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def fit(cls, samples: Iterable[Tensor], components: int, normalized: bool) -> "Directions":
        """From hidden states (N, L, D), a few utterances at a time."""
        count, near, total, products = 0, None, torch.zeros(()), torch.zeros(())
        for states in samples:
            x = _prepared(states, normalized)
            near = x.mean(0) if near is None else near  # what is far from zero would lose its variance to rounding
            flat = (x - near).flatten(1)
            count, total, products = count + len(x), total + flat.sum(0), products + flat.T @ flat
        assert near is not None
        off = total / count
        covariance = products / count - off[:, None] * off
        spread = covariance.diagonal().view(near.shape).mean(-1).clamp(min=1e-12).sqrt()  # (L,)
        scale = spread.repeat_interleave(near.shape[1])
        variances, vectors = torch.linalg.eigh(covariance / scale[:, None] / scale)
        steps = variances.flip(0)[:components].clamp(min=1e-12).sqrt() * REACH / LARGEST
        return cls(
            vectors.flip(1)[:, :components].T.contiguous(), steps, spread, near + off.view(near.shape), normalized
        )

    @property
    def components(self) -> int:
        return len(self.steps)

    @cached_property
    def vectors(self) -> Tensor:
        """(K, L, D): what a code of 1 adds to each state"""
        scaled = self.unit.view(-1, *self.mean.shape) * self.spread[:, None]
        return scaled * self.steps[:, None, None]

    def encode(self, states: Tensor) -> Tensor:
        """(N, L, D) -> codes (N, K), int8"""
        x = (_prepared(states, self.normalized) - self.mean) / self.spread[:, None]
        codes = (x.flatten(1) @ self.unit.T) / self.steps
        return codes.round().clamp(-LARGEST, LARGEST).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        """(N, K) -> states (N, L, D)"""
        return torch.einsum("nk,kld->nld", codes.float(), self.vectors) + self.mean

    def to(self, device: torch.device) -> "Directions":
        """Copied once."""
        if self.unit.device == device:
            return self
        if device not in self._copies:
            unit, steps, spread, mean = (tensor.to(device) for tensor in self.tensors().values())
            self._copies[device] = Directions(unit, steps, spread, mean, self.normalized)
        return self._copies[device]

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def load(cls, path: Path, normalized: bool) -> "Directions":
        tensors = read_tensors(path)
        unit, steps, spread, mean = (tensors[name] for name in TENSORS)
        return cls(unit, steps, spread, mean, normalized)


@dataclass(frozen=True)
class Coded(Padded):
    """`values` (B, T, K) are codes."""

    directions: Directions

    def to(self, device: torch.device) -> "Coded":
        moved = super().to(device)
        return Coded(moved.values, moved.lengths, self.directions.to(device))

    def pinned(self) -> "Coded":
        pinned = super().pinned()
        return Coded(pinned.values, pinned.lengths, self.directions)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Weights of states (L,) -> (B, T, D), fp32"""
        kind = self.values.device.type
        # A code is exact in half precision too. Not so the mean, which may be far from zero.
        wanted = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        with torch.autocast(kind, enabled=False):
            mixed = torch.einsum("l,kld->kd", weights, self.directions.vectors)
            return self.values.to(wanted) @ mixed.to(wanted) + weights @ self.directions.mean


def _prepared(states: Tensor, normalized: bool) -> Tensor:
    states = states.float()
    return F.layer_norm(states, states.shape[-1:]) if normalized else states
