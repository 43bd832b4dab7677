"""The head: all trained parts between the speech encoder and CLIP. One class covers the five architectures.

    hidden states -> weighted sum -> attention layer -> utterance token -> Linear              -> utterance vector
                                                     -> slots -> keywords -> CLIP's text tower -> sentence vector

`parallel` has the upper branch, `cascaded` the lower one, `hybrid` both. Training pulls each vector towards CLIP's
vector of the image. Slots are learned tokens or come from CIF. The head computes nothing that it does not use: without
CIF, the attention layer computes the outputs of the learned tokens only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sclip.config import BRANCHES, HeadConfig
from sclip.errors import UserError
from sclip.heads.attention import AttentionLayer
from sclip.heads.cif import Cif, CifOutput
from sclip.heads.keywords import KeywordBranch, Keywords, projection
from sclip.heads.slot_times import SlotTimes, find_slot_times
from sclip.heads.weighting import LayerWeighting
from sclip.padded import Padded


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of the encoders, which decide a head's shapes together with its config."""

    states: int  # number of hidden states of the speech encoder
    speech_width: int
    token_width: int | None  # width of CLIP's token embeddings; None if the head has no keywords
    joint_width: int  # width of the space that images and sentences share


@dataclass(frozen=True)
class HeadOutput:
    """The outputs of a head. Outputs that the architecture does not have are None. Vectors are not normalised."""

    utterance: Tensor | None = None  # (B, J)
    sentence: Tensor | None = None  # (B, J), computed from the keywords
    keywords: Keywords | None = None
    cif: CifOutput | None = None
    slot_weights: Tensor | None = None  # (B, S, T): the weights of the frames in each keyword slot

    @property
    def vectors(self) -> dict[str, Tensor]:
        """Return the vectors (B, J) of each branch that the architecture has."""
        branches = zip(BRANCHES, (self.utterance, self.sentence), strict=True)
        return {branch: vectors for branch, vectors in branches if vectors is not None}

    def slot_times(self, frame_seconds: float) -> SlotTimes:
        """Return where the keyword slots lie in time, on the CPU."""
        assert self.slot_weights is not None
        return find_slot_times(self.slot_weights.cpu(), self.cif is not None, frame_seconds)


class SpeechHead(nn.Module):
    def __init__(
        self, config: HeadConfig, sizes: EncoderSizes, table: Tensor | None = None, blocked: list[int] | None = None
    ):
        """Build a head. `table` (V, W) and `blocked` belong to the vocabulary; heads without keywords need neither."""
        super().__init__()
        width = sizes.speech_width
        if width % config.attention.heads:
            raise UserError(
                f"attention.heads: {config.attention.heads} heads do not divide a width of {width}; "
                "set a number of heads that does"
            )
        self.config, self.sizes = config, sizes
        self.weighting = LayerWeighting(sizes.states, config.normalize_states)
        fixed_slots = (config.keywords.slots or 0) if config.keywords else 0
        self.utterance_tokens = config.utterance_tokens if config.utterance else 0
        self.tokens = nn.Parameter(torch.randn(self.utterance_tokens + fixed_slots, width))
        self.attention = AttentionLayer(width, config.attention)
        self.utterance: nn.Module | None = None
        if config.utterance:
            pooled = self.utterance_tokens * width
            self.utterance = projection(pooled, config.utterance_hidden, sizes.joint_width, config.attention.dropout)
        self.cif: Cif | None = None
        self.keywords: KeywordBranch | None = None
        if config.keywords is not None:
            assert table is not None and table.shape[1] == sizes.token_width
            self.keywords = KeywordBranch(width, table, blocked or [], config.keywords)
            self.cif = Cif(width, config.keywords.cif) if config.keywords.cif else None

    def forward(
        self, states: Padded, text_tower: Callable[[Padded], Tensor] | None = None, step: int = 0
    ) -> HeadOutput:
        """Run the head on hidden states (B, L, T, D), or on codes. `step` is the training step, for CIF's schedule.

        `text_tower` turns keyword embeddings (B, S, W) into sentence vectors (B, J).
        """
        frames = self.weighting(states, self.config.pool_frames)  # (B, T, D)
        if self.cif is None:
            tokens, weights = self.attention.at_tokens(self.tokens, frames)  # (B, K, D), (B, K, T)
        else:
            tokens, attended = self.attention(self.tokens, frames)  # (B, K, D), (B, T, D)
        count = self.utterance_tokens
        utterance = None if self.utterance is None else self.utterance(tokens[:, :count].flatten(1))
        if self.keywords is None:
            return HeadOutput(utterance)

        assert text_tower is not None
        cif = None
        if self.cif is not None:
            cif = self.cif(attended, step)
            slots, weights = cif.firing.slots, cif.firing.weights
        else:
            slot_tokens, weights = tokens[:, count:], weights[:, count:]  # (B, S, D), (B, S, T)
            slots = Padded(slot_tokens, torch.full_like(states.lengths, slot_tokens.shape[1]))
        keywords = self.keywords(slots)
        return HeadOutput(utterance, text_tower(keywords.embeddings), keywords, cif, weights)
