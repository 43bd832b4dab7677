"""The losses: contrastive losses of speech and images, a loss on the number of keywords, and visual words.

- The contrastive losses of utterances and of keywords share a temperature; see contrastive.py.
- The quantity loss is the distance of the sum of CIF's weights from its target.
- Visual words and token balance are losses of the keywords themselves; see visual_words.py.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.config import ObjectiveConfig
from sclip.contrastive import contrastive_loss
from sclip.distributed import gather_rows
from sclip.heads.head import HeadOutput
from sclip.visual_words import VisualWords


@dataclass(frozen=True)
class Losses:
    total: Tensor
    parallel: Tensor | None = None
    cascaded: Tensor | None = None
    quantity: Tensor | None = None
    visual_words: Tensor | None = None
    token_balance: Tensor | None = None


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

    def forward(
        self, output: HeadOutput, images: Tensor, ids: Tensor, visual_words: VisualWords | None = None
    ) -> Losses:
        """Compute the losses, given images' vectors (B, J), normalised or not, and image ids (B,).

        With several processes, `output` is the process's slice of the batch; `images` and `ids` cover the whole batch.
        `visual_words` is needed if the losses of keywords have a weight.
        """
        config, scale = self.config, self.log_scale.exp()
        total = images.new_zeros((), dtype=torch.float32)
        parallel = cascaded = quantity = words = balance = None
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
        if config.visual_words:
            assert output.keywords is not None
            assert visual_words is not None
            words = visual_words.retrieval_loss(output.keywords, images, ids)
            total = total + config.visual_words * words
        if config.token_balance:
            assert output.keywords is not None
            assert visual_words is not None
            balance = visual_words.balance_loss(output.keywords)
            total = total + config.token_balance * balance
        return Losses(total, parallel, cascaded, quantity, words, balance)
