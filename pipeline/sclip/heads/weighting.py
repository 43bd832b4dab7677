"""A learned, softmax-weighted sum of the speech encoder's hidden states.

States that are stored in half precision are summed in fp32, a few utterances at a time. All hidden states of a batch
in fp32 would be by far the largest tensor of a training step, and on a CPU a step would spend most of its time writing
it.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.errors import UserError
from sclip.features.codes import Coded
from sclip.padded import Padded

# Numbers that are converted to fp32 at a time: what fits in a CPU core's cache, or a small part of a GPU's memory.
CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}


class LayerWeighting(nn.Module):
    def __init__(self, states: int, normalize: bool):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(states))
        self.normalize = normalize

    def weights(self) -> Tensor:
        return self.logits.float().softmax(0)

    def forward(self, states: Padded, pool: int = 1) -> Padded:
        """Return the weighted sum, averaged over every `pool` frames: -> (B, ceil(T / pool), D), fp32.

        The states (B, L, T, D) may have any precision, or be codes.
        """
        if isinstance(states, Coded):
            if states.directions.normalized != self.normalize:
                raise UserError(
                    f"head.normalize_states is {self.normalize}, but the stored codes were computed with "
                    f"features.normalize_states {states.directions.normalized}; set both to the same value"
                )
            return states.weighted_sum(self.weights(), pool)
        with torch.autocast(states.values.device.type, enabled=False):
            summed: Tensor = _WeightedSum.apply(states.values, self.weights(), self.normalize)  # type: ignore[no-untyped-call]
        return Padded(summed, states.lengths).mean_of(pool)


class _WeightedSum(torch.autograd.Function):
    """A weighted sum of states that are not trained. Only the weights have a gradient."""

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
        weight_gradient = gradient.new_zeros(values.shape[1])
        for part, chunk in _chunks(values, ctx.normalize):
            weight_gradient += (gradient[part].flatten(1)[:, None] @ chunk.flatten(2).mT).sum((0, 1))
        return None, weight_gradient, None


def _chunks(values: Tensor, normalize: bool) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the batch, and their states (b, L, T, D) in fp32."""
    size = max(1, CHUNK.get(values.device.type, CHUNK["cpu"]) // max(1, values[:1].numel()))
    for start in range(0, len(values), size):
        chunk = values[start : start + size].float()
        yield slice(start, start + size), F.layer_norm(chunk, chunk.shape[-1:]) if normalize else chunk
