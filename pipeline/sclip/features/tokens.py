"""Embedding of single tokens by CLIP, and their comparison with the training pictures."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.corpora.rows import Row
from sclip.device import autocast
from sclip.encoders.clip import ClipEncoder
from sclip.features.vectors import TokenVectors
from sclip.padded import Padded

TOKENS_AT_ONCE, IMAGES_AT_ONCE = 1024, 1024


@torch.inference_mode()
def embed_tokens(
    rows: Iterable[Row], images: Tensor, clip: ClipEncoder, device: str | torch.device
) -> TokenVectors | None:
    """Embed the tokens of the captions of `rows`, and compare them with the training `images` (I, J) of unit length.

    Return None if this CLIP takes no keywords, or if no training row has text.
    """
    rows = [row for row in rows if row.text is not None]
    if clip.refusal is not None or not any(row.split == "train" for row in rows):
        return None
    counts: Counter[int] = Counter()
    used = set(clip.text_tower.special_tokens)
    for row in rows:
        (tokens,) = clip.token_ids([row.text or ""])
        used.update(tokens)
        if row.split == "train":
            counts.update(tokens)
    ids = sorted(used)
    scale = float(clip.model.logit_scale.exp())
    vectors = _vectors(ids, clip, device)
    log_mean = _log_mean(images.to(device), vectors, scale)
    frequency = torch.tensor([counts[token] for token in ids])
    return TokenVectors(ids, vectors.cpu(), log_mean.float().cpu(), frequency, scale)


def _vectors(ids: Sequence[int], clip: ClipEncoder, device: str | torch.device) -> Tensor:
    """Return the vectors (V, J) of texts of one token."""
    vectors = []
    with autocast(device, "fp32"):
        for batch in torch.split(torch.tensor(ids, device=device), TOKENS_AT_ONCE):
            embeddings = clip.text_tower.table[batch][:, None]  # (b, 1, W)
            texts = Padded(embeddings, torch.ones_like(batch))
            vectors.append(F.normalize(clip.text_tower(texts).float(), dim=-1))
    return torch.cat(vectors)


def _log_mean(images: Tensor, vectors: Tensor, scale: float) -> Tensor:
    """Return for each token the logarithm of the mean of exp(scale * cosine) over the images: (V,)."""
    sums = [
        torch.logsumexp(scale * batch @ vectors.T, 0).cpu().double() for batch in torch.split(images, IMAGES_AT_ONCE)
    ]
    return torch.logsumexp(torch.stack(sums), 0) - math.log(len(images))
