"""The settings of the two small encoders that ship with the project."""

from dataclasses import dataclass

from sclip.config.checks import require, require_range, require_seed

CLIP_HEAD, HUBERT_HEAD = 32, 48  # width of an attention head


def _require_heads(width: int, head: int) -> None:
    require(width > 0 and width % head == 0, f"width: expected a multiple of {head}, found {width}")


@dataclass(frozen=True)
class MiniClipConfig:
    """The small CLIP that ships with the project."""

    seed: int
    pictures: int
    steps: int
    texts: int = 16  # captions of each picture
    batch: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    width: int = 128  # of both towers and of their joint space
    patch: int = 16
    image_layers: int = 4
    text_layers: int = 3
    context: int = 77

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)
        _require_heads(self.width, CLIP_HEAD)


@dataclass(frozen=True)
class PretrainingRound:
    clusters: int
    steps: int


@dataclass(frozen=True)
class MiniHubertConfig:
    """The small HuBERT that ships with the project."""

    seed: int
    utterances: int
    voices: int
    rounds: tuple[PretrainingRound, ...]  # the first predicts clusters of MFCCs, the others of a hidden state
    target_state: int = 2  # the hidden state whose clusters the next round predicts
    batch_seconds: float = 80.0
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    width: int = 192
    layers: int = 5
    conv_channels: tuple[int, ...] = (32, 64, 64, 64, 128, 128, 128)

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)
        _require_heads(self.width, HUBERT_HEAD)
        require_range("target_state", self.target_state, 0, self.layers)
        require(self.warmup_steps >= 1, f"warmup_steps: expected at least 1, found {self.warmup_steps}")
        for i, round_ in enumerate(self.rounds):
            require(
                round_.steps > self.warmup_steps,
                f"rounds[{i}].steps: expected more than warmup_steps ({self.warmup_steps}), found {round_.steps}",
            )


@dataclass(frozen=True)
class Pretraining:
    speech: MiniHubertConfig
    clip: MiniClipConfig
