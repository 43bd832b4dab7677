"""Which of the encoder's hidden states to hear: a learned, softmax-weighted sum.

What was kept in half precision is summed in fp32, a few utterances at a time: all hidden states of a batch in fp32
are by far the most that a step would ever hold, and on a CPU writing them took most of its time.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.errors import UserError
from sclip.features.codes import Coded
from sclip.padded import Padded

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}  # numbers that are in fp32 at a time: a core's cache; some of a GPU's memory


class LayerWeighting(nn.Module):
    def __init__(self, states: int, normalize: bool):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(states))
        self.normalize = normalize

    def weights(self) -> Tensor:
        return self.logits.float().softmax(0)

    def forward(self, states: Padded) -> Padded:
        """(B, L, T, D), in whatever precision they were kept, or coded -> (B, T, D), fp32"""
        if isinstance(states, Coded):
            if states.directions.normalized != self.normalize:
                raise UserError(
                    f"head.normalize_states is {self.normalize}, and codes were kept of states with "
                    f"features.normalize_states {states.directions.normalized}: both must be the same"
                )
            return Padded(states.weighted_sum(self.weights()), states.lengths)
        with torch.autocast(states.values.device.type, enabled=False):
            summed: Tensor = _WeightedSum.apply(states.values, self.weights(), self.normalize)  # type: ignore[no-untyped-call]
        return Padded(summed, states.lengths)


class _WeightedSum(torch.autograd.Function):
    """Of states that are given, not trained; the gradient is that of the weights alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, normalize: bool) -> Tensor:
        assert not values.requires_grad
        ctx.save_for_backward(values)
        ctx.normalize = normalize
        summed = values.new_empty(len(values), *values.shape[2:], dtype=torch.float32)
        for part, chunk in _chunks(values, normalize):
            row = weights.expand(len(chunk), 1, -1)  # (b, 1, L)
            torch.bmm(row, chunk.flatten(2), out=summed[part].flatten(1).unsqueeze(1))
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (values,), (gradient,) = ctx.saved_tensors, gradients
        found = gradient.new_zeros(values.shape[1])
        for part, chunk in _chunks(values, ctx.normalize):
            found += (gradient[part].flatten(1)[:, None] @ chunk.flatten(2).mT).sum((0, 1))
        return None, found, None


def _chunks(values: Tensor, normalize: bool) -> Iterator[tuple[slice, Tensor]]:
    """(B, L, T, D) -> pieces of it in fp32, and which they are"""
    size = max(1, CHUNK.get(values.device.type, CHUNK["cpu"]) // max(1, values[:1].numel()))
    for start in range(0, len(values), size):
        chunk = values[start : start + size].float()
        yield slice(start, start + size), F.layer_norm(chunk, chunk.shape[-1:]) if normalize else chunk
