"""The settings of the two frozen encoders."""

from dataclasses import dataclass

from sclip.config.checks import require_seed


@dataclass(frozen=True)
class SpeechEncoderConfig:
    """The speech encoder; `name` is `mfcc`, a folder or a hub repo."""

    name: str
    revision: str | None = None
    normalize_waveform: bool | None = None  # None: as in the encoder's training
    random_seed: int | None = None  # use random weights, for comparison

    def __post_init__(self) -> None:
        if self.random_seed is not None:
            require_seed("random_seed", self.random_seed)


@dataclass(frozen=True)
class ClipEncoderConfig:
    """CLIP; `name` is `local-dir:FOLDER`, `hf-hub:REPO` or MODEL/TAG, as in open_clip."""

    name: str
    revision: str | None = None
    random_seed: int | None = None

    def __post_init__(self) -> None:
        if self.random_seed is not None:
            require_seed("random_seed", self.random_seed)


@dataclass(frozen=True)
class Encoders:
    speech: SpeechEncoderConfig
    clip: ClipEncoderConfig
