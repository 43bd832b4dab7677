"""The losses: speech against pictures, both ways, and how many keywords an utterance should have.

- contrastive: softmax over the batch in both directions, averaged; utterances of one image are not each other's
  negatives, told by image ids; fp32, through logsumexp, in whatever the vectors come
- quantity: how far the sum of CIF's weights is from its target
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.config import ObjectiveConfig
from sclip.distributed import gather_rows
from sclip.heads.head import HeadOutput


@dataclass(frozen=True)
class Losses:
    total: Tensor
    parallel: Tensor | None = None
    cascaded: Tensor | None = None
    quantity: Tensor | None = None


class Objective(nn.Module):
    """The temperature is learned as log(1/T), or fixed."""

    log_scale: Tensor

    def __init__(self, config: ObjectiveConfig):
        super().__init__()
        self.config = config
        log_scale = torch.tensor(math.log(1 / config.temperature))
        if config.learn_temperature:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale, persistent=False)

    def forward(self, output: HeadOutput, images: Tensor, ids: Tensor) -> Losses:
        """Pictures' vectors (B, J), of any length, and their ids (B,). Of several processes each has its slice of the
        output, and all pictures."""
        config, scale = self.config, self.log_scale.exp()
        total = images.new_zeros((), dtype=torch.float32)
        parallel = cascaded = quantity = None
        if config.parallel:
            assert output.utterance is not None
            parallel = contrastive_loss(gather_rows(output.utterance.float()), images, ids, scale, config.margin)
            total = total + config.parallel * parallel
        if config.cascaded:
            assert output.sentence is not None
            cascaded = contrastive_loss(gather_rows(output.sentence.float()), images, ids, scale, config.margin)
            total = total + config.cascaded * cascaded
        if config.quantity:
            assert output.cif is not None
            quantity = F.l1_loss(gather_rows(output.cif.quantity), gather_rows(output.cif.target.float()))
            total = total + config.quantity * quantity
        return Losses(total, parallel, cascaded, quantity)


def contrastive_loss(speech: Tensor, images: Tensor, ids: Tensor, scale: Tensor, margin: float = 0.0) -> Tensor:
    """Rows (B, J) that belong together pairwise. The margin is taken off the pairs' own scores."""
    with torch.autocast(speech.device.type, enabled=False):
        a, b = F.normalize(speech.float(), dim=-1), F.normalize(images.float(), dim=-1)
        logits = scale.float() * a @ b.T  # (B, B)
        pair = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits - margin * pair
        same_image = (ids[:, None] == ids[None, :]) & ~pair
        logits = logits.masked_fill(same_image, -math.inf)
        both = torch.logsumexp(logits, 1) + torch.logsumexp(logits, 0)
        return (both / 2 - logits.diagonal()).mean()
