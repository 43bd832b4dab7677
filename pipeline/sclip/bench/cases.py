"""What the benchmarks have in common: sizes, and what a case reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from sclip.bench.timing import Timed
from sclip.config import ClipEncoderConfig, SpeechEncoderConfig

FRAMES_A_SECOND = 50


@dataclass(frozen=True)
class Sizes:
    """Of a benchmark: `scenes` with the encoders that ship, or the papers' with weights drawn at random."""

    speech: SpeechEncoderConfig
    clip: ClipEncoderConfig
    preset: str  # whose architectures
    seconds: tuple[float, float]  # an utterance's, from and to
    recordings: int  # for extraction
    shard_megabytes: int
    batch: int
    components: int
    precision: Literal["fp16", "bf16", "fp32"]  # that encoders and heads compute in


SCENES = Sizes(
    speech=SpeechEncoderConfig("models/mini-hubert"),
    clip=ClipEncoderConfig("local-dir:models/mini-clip"),
    preset="scenes",
    seconds=(1.5, 4.0),
    recordings=512,
    shard_megabytes=64,
    batch=256,
    components=288,
    precision="bf16",
)
PAPERS = Sizes(
    speech=SpeechEncoderConfig("facebook/hubert-base-ls960", random_seed=0),
    clip=ClipEncoderConfig("ViT-B-32-quickgelu/openai", random_seed=0),
    preset="flickr8k-base",
    seconds=(2.0, 6.4),
    recordings=1024,
    shard_megabytes=512,
    batch=256,
    components=2496,
    precision="bf16",
)


@dataclass(frozen=True)
class Row:
    timed: Timed
    rate: str = ""  # in the case's own words
    floor: float | None = None  # seconds that the machine would need at its best


@dataclass(frozen=True)
class Case:
    name: str
    question: str
    rows: list[Row]  # the first is what the others are compared with
    notes: Mapping[str, object] = field(default_factory=dict)  # measured beside


def utterance_seconds(sizes: Sizes, count: int, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    low, high = sizes.seconds
    return (low + (high - low) * torch.rand(count, generator=generator)).tolist()
