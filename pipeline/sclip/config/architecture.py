"""The settings of a head and of its losses.

An architecture is a composition, not a class: an attention layer, an utterance token or none, keyword slots (learned
tokens, Continuous Integrate-and-Fire, or none), and the weights of the losses. Some fields reproduce accidents of the
published code; they are off by default.
"""

from dataclasses import dataclass

from sclip.config.checks import require, require_dropout, require_range

# The largest head. A model folder's config.json may come from anybody, and the head is built before its weights are
# read, so a config.json without limits could fill the memory.
MOST_LAYERS, WIDEST_KERNEL, MOST_SLOTS, MOST_HIDDEN, WIDEST_HIDDEN, WIDEST_FEED_FORWARD = 20, 99, 1_000, 8, 16_384, 64
MOST_POOLED = 50  # frames, one second


def _require_widths(name: str, widths: tuple[int, ...]) -> None:
    """Check the widths of a projection's hidden layers."""
    require(len(widths) <= MOST_HIDDEN, f"{name}: expected up to {MOST_HIDDEN} widths, found {len(widths)}")
    for i, width in enumerate(widths):
        require_range(f"{name}[{i}]", width, 1, WIDEST_HIDDEN)


BRANCHES = ("parallel", "cascaded")  # of a head: its utterance vector, and the sentence vector of its keywords
LOSSES = (*BRANCHES, "quantity", "visual_words", "token_balance")  # the weights in ObjectiveConfig


@dataclass(frozen=True)
class AttentionConfig:
    """One post-norm self-attention layer over the learned tokens and the frames."""

    heads: int
    feed_forward: float = 0.0  # hidden width as a multiple of the layer's width; 0: no feed-forward part
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(self.heads >= 1, f"heads: expected at least 1, found {self.heads}")
        require_range("feed_forward", self.feed_forward, 0, WIDEST_FEED_FORWARD)
        require_dropout(self.dropout)


@dataclass(frozen=True)
class CifConfig:
    """Continuous Integrate-and-Fire: the sum of the frames' weights decides the number of keyword slots."""

    layers: int = 1
    kernel: int = 3
    dropout: float = 0.5
    threshold: float = 1.0  # a slot fires when the sum of the weights since the last firing reaches it
    tail: float = 0.5  # evaluation: a remaining sum of at least this fires one more slot
    max_slots: int = 75
    frames_per_slot: int = 20  # of the attention layer; decides the target in training (20 of 20 ms: 2.5 a second)
    scaled_steps: int = 5000  # in this many first steps, training scales the weights so that they meet the target
    convolves_padding: bool = False  # as published: an utterance's last weight depends on its batch

    def __post_init__(self) -> None:
        require_range("layers", self.layers, 1, MOST_LAYERS)
        require_range("kernel", self.kernel, 1, WIDEST_KERNEL)
        require(self.kernel % 2 == 1, f"kernel: expected an odd width, found {self.kernel}")
        require_dropout(self.dropout)
        require(self.threshold > 0, f"threshold: expected more than 0, found {self.threshold}")
        require(
            0 < self.tail <= self.threshold,
            f"tail: expected more than 0 and at most the threshold {self.threshold}, found {self.tail}",
        )
        require(self.max_slots >= 1, f"max_slots: expected at least 1, found {self.max_slots}")
        require(self.frames_per_slot >= 1, f"frames_per_slot: expected at least 1, found {self.frames_per_slot}")


@dataclass(frozen=True)
class KeywordConfig:
    """The keywords: slots, either learned tokens or from CIF, that become tokens of CLIP's vocabulary."""

    slots: int | None = None
    cif: CifConfig | None = None
    hidden: tuple[int, ...] = ()  # widths of the hidden layers in the projection to CLIP's tokens
    dropout: float = 0.1  # between the layers of the projection
    temperature: float = 0.1  # of the softmax that the quantiser's gradient goes through
    norm_counts_padding: bool = False  # as published, CIF: BatchNorm's statistics include empty slots
    scrambled_norm_start: bool = False  # as published, learned slots: BatchNorm starts from shuffled statistics

    def __post_init__(self) -> None:
        require((self.slots is None) != (self.cif is None), "expected one of slots and cif")
        if self.slots is not None:
            require_range("slots", self.slots, 1, MOST_SLOTS)
        _require_widths("hidden", self.hidden)
        require_dropout(self.dropout)
        require(self.temperature > 0, f"temperature: expected more than 0, found {self.temperature}")
        require(
            not (self.norm_counts_padding and self.cif is None),
            "norm_counts_padding: has no effect without cif, as learned slots have no padding; remove it",
        )
        require(
            not (self.scrambled_norm_start and self.slots is None),
            "scrambled_norm_start: has no effect without slots; remove it",
        )


@dataclass(frozen=True)
class HeadConfig:
    """The head: all layers between the speech encoder's hidden states and CLIP."""

    attention: AttentionConfig
    utterance: bool = False  # learned tokens that become the utterance vector
    utterance_tokens: int = 1  # their number; their outputs are concatenated
    utterance_hidden: tuple[int, ...] = ()  # widths of the hidden layers in its projection
    keywords: KeywordConfig | None = None
    normalize_states: bool = False  # normalise each hidden state over its width before the weighted sum
    pool_frames: int = 1  # the attention layer gets the means of this many frames, which makes it cheaper

    def __post_init__(self) -> None:
        require_range("utterance_tokens", self.utterance_tokens, 1, MOST_SLOTS)
        require(
            self.utterance or self.utterance_tokens == 1,
            "utterance_tokens: has no effect without utterance; remove it",
        )
        require_range("pool_frames", self.pool_frames, 1, MOST_POOLED)
        require(self.utterance or self.keywords is not None, "expected utterance, keywords or both")
        _require_widths("utterance_hidden", self.utterance_hidden)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The weights of the losses, and the settings that the two contrastive losses share."""

    parallel: float = 0.0  # contrastive: utterance vectors and pictures
    cascaded: float = 0.0  # contrastive: keyword vectors and pictures
    quantity: float = 0.0  # CIF: the difference between the sum of its weights and the target length
    visual_words: float = 0.0  # keywords: each slot's token must fit the image; see visual_words.py
    token_balance: float = 0.0  # keywords: the use of tokens must follow their counts in captions
    temperature: float = 0.07  # the start value, or the fixed value
    learn_temperature: bool = True
    margin: float = 0.0  # subtracted from the scores of matching pairs

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"temperature: expected more than 0, found {self.temperature}")
        for name in LOSSES:
            require(getattr(self, name) >= 0, f"{name}: expected 0 or more, found {getattr(self, name)}")
        require(self.parallel + self.cascaded > 0, "expected a weight above 0 for parallel or cascaded")


@dataclass(frozen=True)
class Architecture:
    head: HeadConfig
    objective: ObjectiveConfig

    def __post_init__(self) -> None:
        keywords = self.head.keywords
        has_output = {
            "parallel": ("head.utterance", self.head.utterance),
            "cascaded": ("head.keywords", keywords is not None),
            "quantity": ("head.keywords.cif", keywords is not None and keywords.cif is not None),
            "visual_words": ("head.keywords", keywords is not None),
            "token_balance": ("head.keywords", keywords is not None),
        }
        for loss, (output, present) in has_output.items():
            require(
                present or not getattr(self.objective, loss),
                f"objective.{loss}: the head has no such output; add {output}",
            )
