"""The head: everything that is trained between the speech encoder and CLIP. Five architectures, one composition.

    hidden states -> weighted sum -> attention layer -> utterance token -> Linear           -> beside the picture
                                                     -> slots -> keywords -> CLIP's text tower -> beside the picture

`parallel` has the upper line, `cascaded` the lower, `hybrid` both. Slots are learned tokens or come from CIF. Only
what is read is computed: without CIF, the attention layer's rows of the learned tokens alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sclip.config import HeadConfig
from sclip.errors import UserError
from sclip.heads.attention import AttentionLayer
from sclip.heads.cif import Cif, CifOutput
from sclip.heads.keywords import KeywordBranch, Keywords, projection
from sclip.heads.weighting import LayerWeighting
from sclip.padded import Padded

TextTower = Callable[[Padded], Tensor]  # keyword embeddings (B, S, W) -> sentence vectors (B, J)


@dataclass(frozen=True)
class Sizes:
    """What a head's shapes depend on besides its config."""

    states: int  # hidden states of the speech encoder
    speech_width: int
    token_width: int | None  # of CLIP's token embeddings, where there are keywords
    joint_width: int  # of the space that images and sentences share


@dataclass(frozen=True)
class HeadOutput:
    """None where the architecture has no such thing; vectors are not normalised."""

    utterance: Tensor | None = None  # (B, J)
    sentence: Tensor | None = None  # (B, J), from the keywords
    keywords: Keywords | None = None
    cif: CifOutput | None = None


class SpeechHead(nn.Module):
    def __init__(self, config: HeadConfig, sizes: Sizes, table: Tensor | None = None, blocked: list[int] | None = None):
        """`table` (V, W) and `blocked` are the vocabulary's; an architecture without keywords has none."""
        super().__init__()
        width = sizes.speech_width
        if width % config.attention.heads:
            raise UserError(f"attention.heads: {config.attention.heads} heads do not divide a width of {width}")
        self.config, self.sizes = config, sizes
        self.weighting = LayerWeighting(sizes.states, config.normalize_states)
        fixed_slots = (config.keywords.slots or 0) if config.keywords else 0
        self.tokens = nn.Parameter(torch.randn(int(config.utterance) + fixed_slots, width))
        self.attention = AttentionLayer(width, config.attention)
        self.utterance = (
            projection(width, config.utterance_hidden, sizes.joint_width, config.attention.dropout)
            if config.utterance
            else None
        )
        self.cif: Cif | None = None
        self.keywords: KeywordBranch | None = None
        if config.keywords is not None:
            assert table is not None and table.shape[1] == sizes.token_width
            self.keywords = KeywordBranch(width, table, blocked or [], config.keywords)
            self.cif = Cif(width, config.keywords.cif) if config.keywords.cif else None

    def forward(self, states: Padded, text_tower: TextTower | None = None, step: int = 0) -> HeadOutput:
        """Hidden states (B, L, T, D), or coded -> vectors; `step` is the training step, for CIF's schedule."""
        frames = self.weighting(states)
        if self.cif is None:
            tokens, attended = self.attention.at_tokens(self.tokens, frames), None
        else:
            tokens, attended = self.attention(self.tokens, frames)
        utterance = None if self.utterance is None else self.utterance(tokens[:, 0])
        if self.keywords is None:
            return HeadOutput(utterance)

        assert text_tower is not None
        cif = None
        if self.cif is not None:
            cif = self.cif(attended, step)
            slots = cif.firing.slots
        else:
            slot_tokens = tokens[:, int(self.config.utterance) :]
            slots = Padded(slot_tokens, torch.full_like(states.lengths, slot_tokens.shape[1]))
        keywords = self.keywords(slots)
        return HeadOutput(utterance, text_tower(keywords.embeddings), keywords, cif)
