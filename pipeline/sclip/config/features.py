"""The settings of the hidden states."""

from dataclasses import dataclass
from typing import Literal

from sclip.config.checks import require


@dataclass(frozen=True)
class FeaturesConfig:
    """The computing and storing of hidden states."""

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"  # of the stored states
    components: int | None = None  # store 8-bit codes along this many principal directions; see features/codes.py
    normalize_states: bool = False  # normalise states before coding, for heads with normalize_states
    online: bool = False  # store nothing: every step encodes its recordings
    compute: Literal["fp16", "bf16", "fp32"] = "fp32"
    shard_megabytes: int = 512
    batch_seconds: float = 120.0  # of audio, padding included; a CPU encodes up to four batches in parallel

    def __post_init__(self) -> None:
        require(self.shard_megabytes >= 1, f"shard_megabytes: expected at least 1, found {self.shard_megabytes}")
        require(self.batch_seconds > 0, f"batch_seconds: expected more than 0, found {self.batch_seconds}")
        require(
            self.components is None or self.components >= 1,
            f"components: expected at least 1, found {self.components}",
        )
        require(
            not self.online or self.components is None,
            "online: stores nothing, so features.components has no effect; remove it",
        )
        require(
            not (self.normalize_states and self.components is None),
            "normalize_states: has no effect without components (states are normalised when they are read); remove it",
        )
