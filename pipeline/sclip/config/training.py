"""The settings of the training of a head."""

from dataclasses import dataclass, fields
from typing import Literal

from sclip.config.checks import require


@dataclass(frozen=True)
class TrainingConfig:
    """The training. The defaults are the published ones, except for the vocabulary."""

    steps: int = 50_000
    warmup_steps: int = 5_000
    batch: int = 256
    accumulate: int = 1  # batches for each step; negatives come from the same batch
    batches: Literal["uniform", "by_length"] = "uniform"  # by_length: of similar length, with less padding
    vocabulary: Literal["corpus", "train"] = "train"  # the captions whose tokens can be keywords
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-8
    weight_decay: float = 1e-6
    gradient_clip: float = 4.0
    crop_frames: int = 320  # random crop of longer utterances; the published recipe crops 6.4 s of audio instead
    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    dev_every: int | None = None  # steps between two evaluations on the development split; None: once an epoch

    def describe(self, utterances: int) -> str:
        """Describe the training on a split of `utterances` in one line.

        Four settings are always named, and the others if they differ from their defaults.
        """
        usual = {"steps", "batch", "precision", "learning_rate"}
        others = [
            f"{field.name} {getattr(self, field.name)}".replace("_", " ")
            for field in fields(self)
            if field.name not in usual and getattr(self, field.name) != field.default
        ]
        first = [
            f"{self.steps:,} steps of {min(self.batch, utterances):,} utterances",
            self.precision,
            f"learning rate {self.learning_rate}",
        ]
        return ", ".join([*first, *others])

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "crop_frames", "dev_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}: expected at least 1, found {value}")
        require(self.batch >= 2, f"batch: expected at least 2, found {self.batch}")
        for name in ("warmup_steps", "final_learning_rate", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name}: expected 0 or more, found {getattr(self, name)}")
        require(
            self.warmup_steps < self.steps,
            f"warmup_steps: expected fewer than steps ({self.steps}), found {self.warmup_steps}; lower warmup_steps or "
            "raise steps",
        )
        require(self.learning_rate > 0, f"learning_rate: expected more than 0, found {self.learning_rate}")
        require(self.gradient_clip > 0, f"gradient_clip: expected more than 0, found {self.gradient_clip}")
