"""From slots to keywords: project to CLIP's token width, normalise, compare with the vocabulary, quantise.

- BatchNorm starts at the mean and standard deviation of CLIP's token embeddings, so that slots look like tokens
- the nearest allowed token by cosine is the keyword; in training its gradient is that of softmax(cosine / 0.1)
- the vocabulary's product and its softmax are fp32 whatever the rest runs in
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip import distributed
from sclip.config import KeywordConfig
from sclip.padded import Padded


@dataclass(frozen=True)
class Keywords:
    embeddings: Padded  # (B, S, W): rows of CLIP's token table
    rows: Tensor  # (B, S): which rows of the vocabulary
    cosines: Tensor  # (B, S, V): to every row, the blocked ones included


class Quantizer(nn.Module):
    """`table` (V, W): CLIP's token embeddings of the vocabulary; `blocked`: rows that are never a keyword."""

    table: Tensor
    unit_table: Tensor
    blocked: Tensor

    def __init__(self, table: Tensor, blocked: list[int], temperature: float):
        super().__init__()
        self.temperature = temperature
        # CLIP's, not ours: known wherever CLIP is, so never saved.
        self.register_buffer("table", table.detach().float(), persistent=False)
        self.register_buffer("unit_table", F.normalize(self.table, dim=-1), persistent=False)
        mask = torch.zeros(len(table), dtype=torch.bool)
        mask[blocked] = True
        self.register_buffer("blocked", mask, persistent=False)

    def forward(self, slots: Padded) -> Keywords:
        """(B, S, W) -> the nearest token of each slot"""
        with torch.autocast(slots.values.device.type, enabled=False):
            cosines = F.normalize(slots.values.float(), dim=-1) @ self.unit_table.T
            allowed = cosines.masked_fill(self.blocked, -torch.inf)
            rows = allowed.argmax(-1)
            embeddings = self.table[rows]
            if self.training:
                soft = (allowed / self.temperature).softmax(-1) @ self.table
                embeddings = soft + (embeddings - soft).detach()  # the value of the one, the gradient of the other
        return Keywords(Padded(embeddings, slots.lengths), rows, cosines)

    def allowed(self, keywords: Keywords) -> Tensor:
        """Cosines (B, S, V) with minus infinity for what is never a keyword."""
        return keywords.cosines.masked_fill(self.blocked, -torch.inf)

    def perplexities(self, keywords: Keywords) -> dict[str, Tensor]:
        """How much of the vocabulary is in use; as published, over every slot of the batch, empty ones included."""
        used = F.one_hot(keywords.rows, len(self.table)).float().mean((0, 1))
        each = self.allowed(keywords).softmax(-1)  # (B, S, V)
        expected = each.mean((0, 1))
        return {
            "code_perplexity": (-(used * (used + 1e-7).log()).sum()).exp(),
            "prob_perplexity": (-(expected * (expected + 1e-7).log()).sum()).exp(),
            "ent_per_t": -(each * (each + 1e-9).log()).sum(-1).mean(0),  # (S,)
        }


class SlotNorm(nn.Module):
    """BatchNorm of slots: one set of channels for each fixed slot, one for all CIF slots together."""

    def __init__(self, table: Tensor, config: KeywordConfig):
        super().__init__()
        self.slots, self.counts_padding = config.slots, config.norm_counts_padding
        spread, center = table.float().std(0), table.float().mean(0)  # (W,)
        copies = config.slots or 1
        self.norm = nn.BatchNorm1d(copies * len(center))  # channels slot by slot
        with torch.no_grad():
            for parameter, start in ((self.norm.weight, spread), (self.norm.bias, center)):
                start = start.repeat(copies)
                if config.scrambled_norm_start:
                    # As published: laid out slot by slot, then read as if width by width.
                    start = start.view(-1, copies).T.reshape(-1)
                parameter.copy_(start)

    def forward(self, slots: Padded) -> Padded:
        """(B, S, W) -> (B, S, W)"""
        x = slots.values.float()
        if self.slots is not None:
            normed = self._normed(x.flatten(1)).view_as(x)
        elif self.training and not self.counts_padding:
            normed = torch.zeros_like(x)
            normed[slots.valid] = self._normed(x[slots.valid])
        else:
            normed = self._normed(x.flatten(0, 1)).view_as(x)
        return Padded(normed, slots.lengths)

    def _normed(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, C). In training, statistics are those of all processes' rows."""
        norm = self.norm
        if not self.training or distributed.world_size() == 1:
            return norm(x)
        count = distributed.all_sum(x.new_tensor(len(x)))
        mean = distributed.all_sum(x.sum(0)) / count
        variance = distributed.all_sum((x - mean).square().sum(0)) / count
        with torch.no_grad():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            norm.running_mean.lerp_(mean, norm.momentum or 0.0)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum or 0.0)
            norm.num_batches_tracked += 1
        return (x - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias


class KeywordBranch(nn.Module):
    def __init__(self, width: int, table: Tensor, blocked: list[int], config: KeywordConfig):
        super().__init__()
        self.project = projection(width, config.hidden, table.shape[1], config.dropout)
        self.norm = SlotNorm(table, config)
        self.quantize = Quantizer(table, blocked, config.temperature)

    def forward(self, slots: Padded) -> Keywords:
        """slots of the speech's width (B, S, D) -> keywords"""
        projected = Padded(self.project(slots.values), slots.lengths)
        return self.quantize(self.norm(projected))


def projection(width: int, hidden: tuple[int, ...], out: int, dropout: float) -> nn.Sequential:
    """A Linear, or Linear-ReLU-Dropout for every hidden width and a Linear behind them."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))
