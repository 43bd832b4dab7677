"""Types and sizes that the benchmarks share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from sclip.bench.timing import Timed
from sclip.config import ClipEncoderConfig, SpeechEncoderConfig

FRAMES_PER_SECOND = 50


@dataclass(frozen=True)
class Workload:
    """The encoders, the head and the data sizes of a benchmark."""

    speech: SpeechEncoderConfig
    clip: ClipEncoderConfig
    preset: str  # its architectures are trained
    seconds: tuple[float, float]  # shortest and longest utterance
    recordings: int  # number of recordings to extract codes of
    state_recordings: int  # number of recordings to extract hidden states of, which take much more space
    utterances: int  # number of utterances to train on, of whole trainings
    shard_megabytes: int
    batch: int
    components: int
    precision: Literal["fp16", "bf16", "fp32"]  # of encoders and heads


# The preset `scenes` with the encoders that ship with the project.
SCENES = Workload(
    speech=SpeechEncoderConfig("models/mini-hubert"),
    clip=ClipEncoderConfig("local-dir:models/mini-clip"),
    preset="scenes",
    seconds=(1.5, 4.0),
    recordings=512,
    state_recordings=512,
    utterances=8000,
    shard_megabytes=64,
    batch=256,
    components=288,
    precision="bf16",
)
# The sizes of the papers' base models, with random weights.
PAPERS = Workload(
    speech=SpeechEncoderConfig("facebook/hubert-base-ls960", random_seed=0),
    clip=ClipEncoderConfig("ViT-B-32-quickgelu/openai", random_seed=0),
    preset="flickr8k-base",
    seconds=(2.0, 6.4),
    # A GPU encodes 2,048 recordings in two seconds. Starting and writing the last shard take another second, which
    # matters little for a corpus.
    recordings=8192,
    state_recordings=2048,  # 9 GB
    utterances=30_000,
    # Several shards, so that writing one overlaps with encoding the next. A shard's last batch is not full, so small
    # shards would measure that.
    shard_megabytes=256,
    batch=256,
    components=2496,
    precision="bf16",
)


@dataclass(frozen=True)
class Measurement:
    timed: Timed
    rate: str = ""  # speed in a unit of the case, as text
    floor: float | None = None  # least possible seconds on this machine


@dataclass(frozen=True)
class Case:
    name: str
    question: str
    rows: list[Measurement]  # the others are compared with the first
    notes: Mapping[str, object] = field(default_factory=dict)  # further measurements by name


def utterance_seconds(workload: Workload, count: int) -> list[float]:
    """Draw the lengths of `count` utterances, the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    low, high = workload.seconds
    return (low + (high - low) * torch.rand(count, generator=generator)).tolist()
