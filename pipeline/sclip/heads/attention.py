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

WIDEST_FUSED = 256  # numbers of a head; torch's fast GPU kernels support at most this many


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
        attended = self._attended(count, frames)  # (B, K+T)
        query, key, value = projected.unbind(2)
        mixed = attend(query, key, value, attended, self.dropout if self.training else 0.0).reshape(x.shape)
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


def attend(query: Tensor, key: Tensor, value: Tensor, attended: Tensor, dropout: float) -> Tensor:
    """Compute attention (B, N, H, D/H). `attended` (B, N) is true for an utterance's first positions, its keys.

    torch has fast kernels for a GPU, but none for a mask, and none for the single head of the published `cascaded-cif`,
    which has 768 numbers or more.
    """
    if query.is_cuda and query.shape[-1] > WIDEST_FUSED:
        return attend_by_products(query, key, value, attended, dropout)
    if flash_attention_computes(query, key, value, dropout):
        return attend_by_sequences(query, key, value, attended, dropout)
    return attend_with_mask(query, key, value, attended, dropout)


def attend_with_mask(query: Tensor, key: Tensor, value: Tensor, attended: Tensor, dropout: float) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # each (B, H, N, D/H)
    return F.scaled_dot_product_attention(query, key, value, attended[:, None, None], dropout).transpose(1, 2)


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, attended: Tensor, dropout: float) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # each (B, H, N, D/H)
    scores = query / math.sqrt(query.shape[-1]) @ key.mT  # (B, H, N, N); unscaled products may overflow in fp16
    attention = scores.masked_fill(~attended[:, None, None], -math.inf).softmax(-1)
    return (F.dropout(attention, dropout) @ value).transpose(1, 2)


def attend_by_sequences(query: Tensor, key: Tensor, value: Tensor, attended: Tensor, dropout: float) -> Tensor:
    """Compute attention with FlashAttention, whose sequences of different lengths lie one after the other.

    Each utterance becomes two sequences: its keys with all of its queries, then its padding without a query. So nothing
    is copied, and nothing waits for the GPU.
    """
    batch, size = attended.shape
    starts = torch.arange(batch + 1, device=attended.device, dtype=torch.int32) * size  # (B+1,)
    ends_of_keys = starts[:-1] + attended.sum(1, dtype=torch.int32)  # (B,)
    query_offsets = torch.stack([starts[:-1], starts[1:]], 1).flatten()  # (2B,)
    key_offsets = torch.stack([starts[:-1], ends_of_keys], 1).flatten()
    query_offsets, key_offsets = (torch.cat([offsets, starts[-1:]]) for offsets in (query_offsets, key_offsets))
    mixed = torch.ops.aten._flash_attention_forward(
        *(part.flatten(0, 1) for part in (query, key, value)),
        *(query_offsets, key_offsets, size, size),
        dropout,
        is_causal=False,
        return_debug_mask=False,
    )[0]
    return mixed.view(query.shape)


def flash_attention_computes(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Return whether torch has FlashAttention for these tensors (B, N, H, D/H).

    On AMD's GPUs torch has another implementation, which is not tested here.
    """
    if not query.is_cuda or torch.version.hip or query.shape[-1] % 8:
        return False
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    parameters = torch.backends.cuda.SDPAParams(query, key, value, None, dropout, False, False)
    return torch.backends.cuda.can_use_flash_attention(parameters)


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
