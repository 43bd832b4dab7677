"""The head's single attention layer.

- The layer is post-norm: norm(x + attention(x)). With a feed-forward part, norm(x + feed_forward(x)) and a last norm
  follow.
- The learned tokens come first, then the frames. Padding is never attended to.
- `forward` computes the outputs of tokens and frames. `at_tokens` computes the same outputs for the tokens only,
  without keys and values of the frames.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.config import AttentionConfig
from sclip.padded import Padded

WIDEST_FUSED = 256  # numbers of a head; torch's fast kernels for a GPU are made for at most so many


class AttentionLayer(nn.Module):
    def __init__(self, width: int, config: AttentionConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config) if config.feed_forward else None
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, frames: Padded) -> tuple[Tensor, Padded]:
        """Run the layer on tokens and frames: (K, D) and (B, T, D) -> (B, K, D) and (B, T, D)."""
        count, (batch, _, width) = len(tokens), frames.values.shape
        x = torch.cat([tokens.expand(batch, -1, -1), frames.values], 1)  # (B, K+T, D)
        projected = self.qkv(x).view(*x.shape[:2], 3, self.heads, width // self.heads)
        q, k, v = (part.transpose(1, 2) for part in projected.unbind(2))  # each (B, H, K+T, D/H)
        mask = self._attended(count, frames)[:, None, None]  # (B, 1, 1, K+T)
        mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        mixed = mixed.transpose(1, 2).reshape(x.shape)  # (B, K+T, D)
        outputs, frame_outputs = torch.split(self._residual(x, mixed), [count, frames.values.shape[1]], 1)
        return outputs, Padded(frame_outputs, frames.lengths)

    def at_tokens(self, tokens: Tensor, frames: Padded) -> tuple[Tensor, Tensor]:
        """Run the layer for its tokens only: (K, D) and (B, T, D) -> outputs (B, K, D), weights of frames (B, K, T).

        The weights are those of the attention, averaged over the heads.

        A token has the same query in every utterance. The query is therefore multiplied into the key projection,
        q·(W x) = (Wᵀq)·x, and the values are projected after they are summed. The bias of the keys adds the same number
        to all scores of a query, so the softmax cancels it.
        """
        count, (batch, _, width) = len(tokens), frames.values.shape
        query_weight, key_weight, value_weight = self.qkv.weight.view(3, self.heads, -1, width)  # (H, D/H, D)
        query_bias, _, value_bias = self.qkv.bias.view(3, self.heads, -1)
        query = torch.einsum("kd,hed->hke", tokens, query_weight) + query_bias[:, None]  # (H, K, D/H)
        folded = query @ key_weight / math.sqrt(width // self.heads)  # (H, K, D)

        to_tokens = (folded @ tokens.T).expand(batch, -1, -1, -1)  # (B, H, K, K)
        to_frames = F.linear(frames.values, folded.flatten(0, 1)).mT.view(batch, self.heads, count, -1)  # (B, H, K, T)
        scores = torch.cat([to_tokens, to_frames.float()], -1)
        scores = scores.masked_fill(~self._attended(count, frames)[:, None, None], -math.inf)
        attention = F.dropout(scores.softmax(-1), self.dropout, self.training)  # (B, H, K, K+T)

        pooled = attention[..., :count] @ tokens  # (B, H, K, D)
        pooled = pooled + torch.einsum("bhkt,btd->bhkd", attention[..., count:], frames.values)
        mixed = torch.einsum("bhkd,hed->bkhe", pooled, value_weight)  # (B, K, H, D/H)
        # After dropout the attention weights do not sum to one, so the bias of the values is scaled by their sum.
        mixed = mixed + attention.sum(-1).transpose(1, 2)[..., None] * value_bias
        return self._residual(tokens, mixed.reshape(batch, count, width)), attention[..., count:].mean(1)

    def _residual(self, x: Tensor, mixed: Tensor) -> Tensor:
        mixed = self.out(mixed)
        if self.feed_forward is None:
            return self.norm(x + mixed)
        return self.feed_forward(self.norm(x + F.dropout(mixed, self.dropout, self.training)))

    @staticmethod
    def _attended(tokens: int, frames: Padded) -> Tensor:
        """Return the mask (B, K+T) of the tokens and frames that are attended to.

        An empty utterance attends to its padding, because a softmax over nothing is NaN.
        """
        valid = frames.valid | (frames.lengths == 0)[:, None]
        return F.pad(valid, (tokens, 0), value=True)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Compute attention (B, H, T, D/H), with torch's kernels if they are made for heads of this width.

    The published `cascaded-cif` has one head of 768 numbers or more. On a GPU, two matrix products take less than half
    of the time that torch's kernel takes for it.
    """
    if query.is_cuda and query.shape[-1] > WIDEST_FUSED:
        return attend_by_products(query, key, value, mask, dropout)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    scores = query @ key.mT / math.sqrt(query.shape[-1])  # (B, H, T, T)
    attention = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return F.dropout(attention, dropout) @ value


class FeedForward(nn.Module):
    """The feed-forward half of a transformer encoder layer, followed by the encoder's last norm."""

    def __init__(self, width: int, config: AttentionConfig):
        super().__init__()
        hidden = round(width * config.feed_forward)
        self.dropout = config.dropout
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.last_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: (..., D) -> (..., D)."""
        hidden = F.dropout(F.gelu(self.up(x)), self.dropout, self.training)
        x = self.norm(x + F.dropout(self.down(hidden), self.dropout, self.training))
        return self.last_norm(x)
