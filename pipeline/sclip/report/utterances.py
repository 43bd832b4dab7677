"""A dozen utterances for the page: how they sound and look, and what each architecture heard in them.

Places on the time axis are shares of the recording in %.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch.nn.functional as F
from torch import Tensor

from sclip.encoders.audio import SAMPLE_RATE, read_audio
from sclip.encoders.pictures import read_rgb
from sclip.errors import UserError
from sclip.report.results import Results, Run

PEAKS = 400  # of a waveform
WIDEST = 192  # of a picture, in pixels
DRAWN = 100  # the waveform's and the weights' view box is as high


@dataclass(frozen=True)
class Span:
    left: float
    width: float


@dataclass(frozen=True)
class Word:
    text: str
    span: Span


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    spoken: bool  # a word of the caption


@dataclass(frozen=True)
class Slot:
    span: Span | None  # where CIF heard it
    pieces: list[Piece]


@dataclass(frozen=True)
class Picture:
    name: str
    score: float
    right: bool


@dataclass(frozen=True)
class Heard:
    """By one architecture."""

    arch: str
    branch: str
    rank: int
    retrieved: list[Picture]
    slots: list[Slot]
    weights: str  # CIF's, as SVG writes paths
    highest: float  # of them
    fired: list[float]


@dataclass(frozen=True)
class Utterance:
    id: str
    text: str
    picture: str
    sound: str  # a data URL
    seconds: float
    outline: str
    words: list[Word]
    heard: list[Heard]


def utterances(results: Results) -> list[Utterance]:
    """Of several seeds the first."""
    everyone = zip(*(run.examples["examples"] for run in results.firsts), strict=True)
    return [_utterance(results.firsts, shown) for shown in everyone]


def pictures(results: Results) -> dict[str, str]:
    """By name, each once: data URLs of all pictures that are shown."""
    paths: dict[str, str] = {}
    for run in results.firsts:
        for example in run.examples["examples"]:
            paths |= {each["image_id"]: each["image"] for each in (example, *example["retrieved"])}
    return {name: _picture(Path(path)) for name, path in sorted(paths.items())}


def _picture(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file, and the examples in results show it; `sclip make-corpus` makes it")
    small = read_rgb(path)
    small.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=85, method=6)
    return _data_url("image/webp", file)


def _data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _utterance(runs: list[Run], shown: tuple[dict[str, Any], ...]) -> Utterance:
    """What each run shows of the same utterance."""
    example = shown[0]
    samples = read_audio(example["audio"])
    seconds = len(samples) / SAMPLE_RATE
    words = [Word(word, _span(start, end, seconds)) for word, start, end in example["words"] or []]
    heard = [_heard(run, each, seconds) for run, each in zip(runs, shown, strict=True)]
    text = example["text"] or example["id"]
    return Utterance(
        example["id"], text, example["image_id"], _sound(samples), seconds, _outline(samples), words, heard
    )


def _span(start: float, end: float, seconds: float) -> Span:
    return Span(round(100 * start / seconds, 2), round(100 * (min(end, seconds) - start) / seconds, 2))


def _sound(samples: Tensor) -> str:
    """FLAC: every browser plays it, and it starts where the waveform starts, which MP3 does not everywhere."""
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return _data_url("audio/flac", file)


def _outline(samples: Tensor) -> str:
    """The waveform's peaks to both sides, the highest of which fills the box; as SVG writes paths."""
    loud = samples.abs() / samples.abs().max().clamp(min=1e-6)
    peaks = F.adaptive_max_pool1d(loud[None, None], PEAKS)[0, 0].mul(DRAWN / 2).tolist()
    upper = [f"{x} {DRAWN / 2 - peak:.0f}" for x, peak in enumerate(peaks)]
    lower = [f"{x} {DRAWN / 2 + peak:.0f}" for x, peak in enumerate(peaks)]
    return f"M{'L'.join([*upper, *reversed(lower)])}Z"


def _heard(run: Run, example: dict[str, Any], seconds: float) -> Heard:
    spoken = set((example["text"] or "").lower().split())
    alpha = example.get("alpha", [])
    return Heard(
        run.arch,
        run.examples["branch"],
        example["rank"],
        [Picture(each["image_id"], each["score"], each["image_id"] == example["image_id"])
         for each in example["retrieved"]],
        list(_slots(example.get("keywords", []), spoken, seconds)),
        _weights(alpha, run.examples["frame_seconds"] / seconds),
        max(alpha, default=0.0),
        [round(100 * time / seconds, 2) for time in example.get("fired", [])],
    )  # fmt: skip


def _slots(keywords: list[dict[str, Any]], spoken: set[str], seconds: float) -> Iterator[Slot]:
    """A frame that closes a slot also opens the next; on the page it belongs to the first of them."""
    end = 0.0
    for keyword in keywords:
        span = None
        if keyword["span"] is not None:
            span = _span(max(end, keyword["span"][0]), keyword["span"][1], seconds)
            end = keyword["span"][1]
        pieces = [Piece(p["text"], p["score"], p["text"].lower() in spoken) for p in keyword["pieces"]]
        yield Slot(span, pieces)


def _weights(alpha: list[float], frame: float) -> str:
    """A step a frame, the highest of which fills the box; `frame` as a share of the recording"""
    scale = DRAWN / (max(alpha, default=0) or 1)
    steps = [f"M0 {DRAWN}", *(f"V{DRAWN - scale * a:.0f}H{PEAKS * frame * (t + 1):.1f}" for t, a in enumerate(alpha))]
    return "".join(steps) if alpha else ""
