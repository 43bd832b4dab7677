"""Turn slots into keywords: project to CLIP's token width, normalise, compare with the vocabulary, quantise.

- BatchNorm starts at the mean and standard deviation of CLIP's token embeddings, so slots are distributed like tokens.
- The keyword is the allowed token with the highest cosine. In training, its embedding has the gradient of the mean of
  the allowed tokens' embeddings, weighted by softmax(cosine / temperature).
- The product with the vocabulary and its softmax are always in fp32.
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
    rows: Tensor  # (B, S): row numbers in the vocabulary
    cosines: Tensor  # (B, S, V): similarity to every row, including the blocked ones
    probabilities: Tensor | None  # (B, S, V), in training: the softmax that the gradient goes through


class Quantizer(nn.Module):
    """Replace each slot by its nearest token of the vocabulary.

    `table` (V, W) holds CLIP's token embeddings. `blocked` lists the rows that are never a keyword.
    """

    table: Tensor
    unit_table: Tensor
    blocked: Tensor

    def __init__(self, table: Tensor, blocked: list[int], temperature: float):
        super().__init__()
        self.temperature = temperature
        # These buffers are copies of CLIP's weights, so a saved head does not need them.
        self.register_buffer("table", table.detach().float(), persistent=False)
        self.register_buffer("unit_table", F.normalize(self.table, dim=-1), persistent=False)
        mask = torch.zeros(len(table), dtype=torch.bool)
        mask[blocked] = True
        self.register_buffer("blocked", mask, persistent=False)

    def forward(self, slots: Padded) -> Keywords:
        """Return the nearest token of each slot (B, S, W)."""
        with torch.autocast(slots.values.device.type, enabled=False):
            cosines = F.normalize(slots.values.float(), dim=-1) @ self.unit_table.T
            allowed = cosines.masked_fill(self.blocked, -torch.inf)
            rows = allowed.argmax(-1)
            embeddings, probabilities = self.table[rows], None
            if self.training:
                probabilities = (allowed / self.temperature).softmax(-1)
                soft = probabilities @ self.table
                embeddings = soft + (embeddings - soft).detach()  # the token's value with the softmax's gradient
        return Keywords(Padded(embeddings, slots.lengths), rows, cosines, probabilities)

    def allowed(self, keywords: Keywords) -> Tensor:
        """Return the cosines (B, S, V), with minus infinity for blocked rows."""
        return keywords.cosines.masked_fill(self.blocked, -torch.inf)

    def perplexities(self, keywords: Keywords) -> dict[str, Tensor]:
        """Measure how much of the vocabulary a batch uses.

        Like the published code, this counts every slot of the batch, padding included.
        """
        used = F.one_hot(keywords.rows, len(self.table)).float().mean((0, 1))
        probabilities = self.allowed(keywords).softmax(-1)  # (B, S, V)
        expected = probabilities.mean((0, 1))
        return {
            "code_perplexity": (-(used * (used + 1e-7).log()).sum()).exp(),
            "prob_perplexity": (-(expected * (expected + 1e-7).log()).sum()).exp(),
            "ent_per_t": -(probabilities * (probabilities + 1e-9).log()).sum(-1).mean(0),  # (S,)
        }


class SlotNorm(nn.Module):
    """BatchNorm of slots. Each fixed slot has its own set of channels; all CIF slots share one set."""

    def __init__(self, table: Tensor, config: KeywordConfig):
        super().__init__()
        self.slots, self.counts_padding = config.slots, config.norm_counts_padding
        spread, center = table.float().std(0), table.float().mean(0)  # (W,)
        copies = config.slots or 1
        self.norm = nn.BatchNorm1d(copies * len(center))  # all channels of the first slot, then of the second, ...
        with torch.no_grad():
            for parameter, start in ((self.norm.weight, spread), (self.norm.bias, center)):
                start = start.repeat(copies)
                if config.scrambled_norm_start:
                    # The published code writes the values slot by slot and reads them channel by channel.
                    start = start.view(-1, copies).T.reshape(-1)
                parameter.copy_(start)

    def forward(self, slots: Padded) -> Padded:
        """Normalise the slots: (B, S, W) -> (B, S, W)."""
        x = slots.values.float()
        if self.slots is not None:
            normalized = self._normalize(x.flatten(1))
        elif self.training and not self.counts_padding:
            normalized = self._normalize(x.flatten(0, 1), slots.valid.flatten())
        else:
            normalized = self._normalize(x.flatten(0, 1))
        return Padded(normalized.view_as(x), slots.lengths)

    def _normalize(self, x: Tensor, counted: Tensor | None = None) -> Tensor:
        """Normalise rows: (N, C) -> (N, C). The statistics are those of the rows `counted` (N,); the others become 0.

        In training, the statistics cover the rows of all processes. Selecting rows would wait for a GPU, so on a GPU
        the rows are summed with a mask.
        """
        if self.training and (distributed.world_size() > 1 or (counted is not None and x.device.type != "cpu")):
            return self._normalize_by_sums(x, x.new_ones(len(x)) if counted is None else counted)
        if counted is None:
            normalized: Tensor = self.norm(x)
            return normalized
        rows = counted.nonzero()[:, 0]
        return torch.zeros_like(x).index_copy(0, rows, self.norm(x.index_select(0, rows)))

    def _normalize_by_sums(self, x: Tensor, counted: Tensor) -> Tensor:
        norm, mask = self.norm, counted[:, None]
        count = distributed.all_sum(mask.sum(dtype=x.dtype))
        mean = distributed.all_sum((x * mask).sum(0)) / count
        centered = (x - mean) * mask
        variance = distributed.all_sum(centered.square().sum(0)) / count
        with torch.no_grad():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            norm.running_mean.lerp_(mean, norm.momentum or 0.0)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum or 0.0)
            norm.num_batches_tracked += 1
        return (centered * (torch.rsqrt(variance + norm.eps) * norm.weight) + norm.bias) * mask


class KeywordBranch(nn.Module):
    def __init__(self, width: int, table: Tensor, blocked: list[int], config: KeywordConfig):
        super().__init__()
        self.project = projection(width, config.hidden, table.shape[1], config.dropout)
        self.norm = SlotNorm(table, config)
        self.quantize = Quantizer(table, blocked, config.temperature)

    def forward(self, slots: Padded) -> Keywords:
        """Return the keywords of slots (B, S, D), where D is the speech encoder's width."""
        projected = Padded(self.project(slots.values), slots.lengths)
        return self.quantize(self.norm(projected))


def projection(width: int, hidden: tuple[int, ...], out: int, dropout: float) -> nn.Sequential:
    """Build a Linear-ReLU-Dropout for each hidden width, followed by a Linear."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))
