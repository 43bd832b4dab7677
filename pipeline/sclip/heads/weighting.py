"""Which of the encoder's hidden states to hear: a learned, softmax-weighted sum."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.padded import Padded


class LayerWeighting(nn.Module):
    def __init__(self, states: int, normalize: bool):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(states))
        self.normalize = normalize

    def weights(self) -> Tensor:
        return self.logits.float().softmax(0)

    def forward(self, states: Padded) -> Padded:
        """(B, L, T, D), in whatever precision they were kept -> (B, T, D), fp32"""
        values = states.values
        if self.normalize:
            values = F.layer_norm(values, values.shape[-1:])
        summed = torch.einsum("l,bltd->btd", self.weights().to(values.dtype), values)
        return Padded(summed.float(), states.lengths)
