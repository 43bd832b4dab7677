"""Compression of hidden states: PCA over all states of a frame, with one int8 code for each component.

- The states of a frame are concatenated to one vector. Neighbouring states repeat much of each other, so a fraction of
  the principal directions of a sample of the corpus holds nearly all of the variance.
- Each state is scaled to the same variance first. If a head normalises its states, they are normalised before that.
- **A weighted sum of states is linear.** Heads compute it from the directions once per batch, and never decode a state.
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

# Codes cover 8 standard deviations. One step is 6 % of a standard deviation; rounding adds 0.03 % of the variance.
REACH, LARGEST = 8.0, 127
TENSORS = ("unit", "steps", "spread", "mean")


@dataclass(frozen=True)
class Directions:
    """The principal directions of a corpus's frames, and the scales to encode along them."""

    unit: Tensor  # (K, L * D), fp32: orthogonal, of unit length
    steps: Tensor  # (K,): the size of one code step
    spread: Tensor  # (L,): each state's standard deviation
    mean: Tensor  # (L, D)
    normalized: bool  # whether the states go through a layer norm without weights first
    _copies: dict[torch.device, "Directions"] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def fit(cls, samples: Iterable[Tensor], components: int, normalized: bool) -> "Directions":
        """Compute the directions from hidden states (N, L, D), a few utterances at a time."""
        count, center, total, products = 0, None, torch.zeros(()), torch.zeros(())
        for states in samples:
            x = _prepare(states, normalized)  # (N, L, D)
            center = x.mean(0) if center is None else center  # rounding would hide the variance of values far from zero
            flat = (x - center).flatten(1)  # (N, L * D)
            count, total, products = count + len(x), total + flat.sum(0), products + flat.T @ flat
        assert center is not None
        shift = total / count  # from the center to the mean
        covariance = products / count - shift[:, None] * shift  # (L * D, L * D)
        spread = covariance.diagonal().view(center.shape).mean(-1).clamp(min=1e-12).sqrt()  # (L,)
        scale = spread.repeat_interleave(center.shape[1])  # (L * D,)
        variances, vectors = torch.linalg.eigh(covariance / scale[:, None] / scale)
        steps = variances.flip(0)[:components].clamp(min=1e-12).sqrt() * REACH / LARGEST
        unit = vectors.flip(1)[:, :components].T.contiguous()  # (K, L * D), largest variance first
        return cls(unit, steps, spread, center + shift.view(center.shape), normalized)

    @cached_property
    @torch.inference_mode(False)
    def vectors(self) -> Tensor:
        """Return what a code of 1 adds to each state: (K, L, D)."""
        scaled = self.unit.view(-1, *self.mean.shape) * self.spread[:, None]
        return scaled * self.steps[:, None, None]

    def encode(self, states: Tensor) -> Tensor:
        """Encode states (N, L, D) to codes (N, K), int8."""
        x = (_prepare(states, self.normalized) - self.mean) / self.spread[:, None]
        codes = (x.flatten(1) @ self.unit.T) / self.steps
        return codes.round().clamp(-LARGEST, LARGEST).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (N, K) to states (N, L, D)."""
        return torch.einsum("nk,kld->nld", codes.float(), self.vectors) + self.mean

    @torch.inference_mode(False)
    def to(self, device: torch.device) -> "Directions":
        """Return a copy on a device. Each device gets one copy, which is reused.

        The first call may be in an evaluation. Training cannot use tensors that are made in inference mode.
        """
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
    """A padded batch of codes: `values` (B, T, K), int8."""

    directions: Directions

    def to(self, device: torch.device) -> "Coded":
        moved = super().to(device)
        return Coded(moved.values, moved.lengths, self.directions.to(device))

    def pinned(self) -> "Coded":
        pinned = super().pinned()
        return Coded(pinned.values, pinned.lengths, self.directions)

    def weighted_sum(self, weights: Tensor, pool: int = 1) -> Padded:
        """Sum the states with weights (L,), and average every `pool` frames: -> (B, ceil(T / pool), D), fp32.

        Both are linear, so the codes are averaged first: there is less to multiply.
        """
        kind = self.values.device.type
        # Half precision represents every code exactly, and every mean of two. The mean stays in fp32, because it may be
        # far from zero.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        with torch.autocast(kind, enabled=False):
            mixed = torch.einsum("l,kld->kd", weights, self.directions.vectors)
            codes = self._mean_of(pool, dtype)
            return Padded(codes.values @ mixed.to(dtype) + weights @ self.directions.mean, codes.lengths)

    def _mean_of(self, size: int, dtype: torch.dtype) -> Padded:
        """Average every `size` consecutive frames: (B, T, K), int8 -> (B, ceil(T / size), K)."""
        if size == 1:
            return Padded(self.values.to(dtype), self.lengths)
        missing = -self.values.shape[1] % size
        codes = F.pad(self.values * self.valid[..., None], (0, 0, 0, missing))
        sums = sum(codes[:, i::size].to(dtype) for i in range(size))
        starts = torch.arange(0, codes.shape[1], size, device=codes.device)
        counts = (self.lengths[:, None] - starts).clamp(1, size)  # (B, ceil(T / size))
        return Padded(sums / counts[..., None].to(dtype), (self.lengths + size - 1) // size)


def _prepare(states: Tensor, normalized: bool) -> Tensor:
    states = states.float()
    return F.layer_norm(states, states.shape[-1:]) if normalized else states
