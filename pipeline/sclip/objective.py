"""The losses: a contrastive loss of speech and images, and a loss on the number of keywords.

- The contrastive loss is a softmax over the batch, averaged over both directions. Utterances with the same image id are
  not negatives of each other. The loss is computed in fp32 with logsumexp, whatever the vectors' precision.
- The quantity loss is the distance of the sum of CIF's weights from its target.
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
    """The weighted sum of the losses. The temperature T is fixed, or learned as log(1/T)."""

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
        """Compute the losses, given images' vectors (B, J), normalised or not, and image ids (B,).

        With several processes, `output` is the process's slice of the batch; `images` and `ids` cover the whole batch.
        """
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
    """Compute the contrastive loss of matching rows (B, J). The margin is subtracted from the scores of the pairs."""
    with torch.autocast(speech.device.type, enabled=False):
        a, b = F.normalize(speech.float(), dim=-1), F.normalize(images.float(), dim=-1)
        logits = scale.float() * a @ b.T  # (B, B)
        pair = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits - margin * pair
        same_image = (ids[:, None] == ids[None, :]) & ~pair
        logits = logits.masked_fill(same_image, -math.inf)
        both = torch.logsumexp(logits, 1) + torch.logsumexp(logits, 0)
        return (both / 2 - logits.diagonal()).mean()
