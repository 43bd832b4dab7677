"""The contrastive loss: a softmax over the batch, averaged over both directions.

Utterances with the same image id are not negatives of each other. The loss is computed in fp32 with logsumexp, whatever
the vectors' precision.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(speech: Tensor, images: Tensor, ids: Tensor, scale: Tensor, margin: float = 0.0) -> Tensor:
    """Compute the contrastive loss of matching rows (B, J). The margin is subtracted from the scores of the pairs."""
    with torch.autocast(speech.device.type, enabled=False):
        a, b = F.normalize(speech.float(), dim=-1), F.normalize(images.float(), dim=-1)
        logits = scale.float() * a @ b.T  # (B, B)
        if margin:
            logits = logits - margin * torch.eye(len(logits), device=logits.device)
        return symmetric_cross_entropy(logits, ids)


def symmetric_cross_entropy(scores: Tensor, ids: Tensor) -> Tensor:
    """Compute the cross-entropy of scores (B, B), whose diagonal has the pairs, averaged over both directions.

    Rows and columns with equal ids are not negatives of each other.
    """
    pair = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    same_image = (ids[:, None] == ids[None, :]) & ~pair
    scores = scores.masked_fill(same_image, -math.inf)
    both = torch.logsumexp(scores, 1) + torch.logsumexp(scores, 0)
    return (both / 2 - scores.diagonal()).mean()
