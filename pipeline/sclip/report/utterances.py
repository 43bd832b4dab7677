"""Prepare a dozen utterances for the page: recording, waveform, pictures, and each architecture's output.

Positions and widths on the time axis are percentages of the recording's duration.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.encoders.audio import SAMPLE_RATE, read_audio
from sclip.encoders.pictures import read_rgb
from sclip.errors import UserError
from sclip.report.results import EvaluatedRun, Results

PEAKS = 400  # points of a waveform
MAX_PIXELS = 192  # of a picture's longer side
# Of a time axis, in pixels: the usual width of a second and the largest one, and a keyword's letters and margins.
USUAL_SECOND, LARGEST_SECOND, LETTER, MARGINS = 200, 600, 8, 9
BOX_HEIGHT = 100  # of the view box of waveforms and CIF weights


@dataclass(frozen=True)
class Span:
    left: float
    width: float


@dataclass(frozen=True)
class SpokenWord:
    text: str
    span: Span


@dataclass(frozen=True)
class NearestToken:
    text: str
    score: float
    in_caption: bool


@dataclass(frozen=True)
class Slot:
    span: Span | None  # None for fixed slots, because examples.json has only spans of CIF
    tokens: list[NearestToken]


def timeline_width(seconds: float, slots: Iterable[Slot]) -> int:
    """Return the width of a time axis in pixels: USUAL_SECOND for each second, or more if a keyword needs it.

    A second gets LARGEST_SECOND at most, so the word of a very short slot may still be cut.
    """
    needed = (
        100 * (LETTER * len(slot.tokens[0].text) + MARGINS) / slot.span.width
        for slot in slots
        if slot.span is not None and slot.span.width > 0 and slot.tokens
    )
    return round(min(max([USUAL_SECOND * seconds, *needed]), LARGEST_SECOND * seconds))


@dataclass(frozen=True)
class RetrievedPicture:
    name: str
    score: float
    correct: bool


@dataclass(frozen=True)
class TimedOutput:
    """Hold what the time axis shows of a model's output. Without CIF, `weights` and `fired` are empty."""

    arch: str  # the key of its colour
    slots: list[Slot]
    weights: str  # CIF's weights as an SVG path
    max_weight: float
    fired: list[float]  # positions at which CIF fires


@dataclass(frozen=True)
class ModelOutput(TimedOutput):
    """The output of one architecture for one utterance."""

    branch: str
    rank: int
    retrieved: list[RetrievedPicture]


@dataclass(frozen=True)
class Example:
    id: str
    text: str
    picture: str
    audio: str  # a data URL
    seconds: float
    waveform: str  # an SVG path
    words: list[SpokenWord]
    outputs: list[ModelOutput]


def examples(results: Results) -> list[Example]:
    """Return the examples, with the outputs of each architecture's first seed."""
    by_utterance = zip(*(run.examples["examples"] for run in results.first_runs), strict=True)
    return [_example(results.first_runs, entries) for entries in by_utterance]


def pictures(results: Results) -> dict[str, str]:
    """Return the data URL of each picture on the page, by name."""
    paths: dict[str, str] = {}
    for run in results.first_runs:
        for example in run.examples["examples"]:
            paths |= {picture["image_id"]: picture["image"] for picture in (example, *example["retrieved"])}
    return {name: picture_url(Path(path), MAX_PIXELS) for name, path in sorted(paths.items())}


def picture_url(path: Path, pixels: int) -> str:
    """Return a data URL of a picture, scaled so that its longer side has at most `pixels`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, but the report shows it; run `sclip make-corpus` to write it")
    picture = read_rgb(path)
    picture.thumbnail((pixels, pixels))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85, method=6)
    return data_url("image/webp", file)


def data_url(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _example(runs: list[EvaluatedRun], entries: tuple[dict[str, Any], ...]) -> Example:
    """Combine the entries of all runs for the same utterance."""
    entry = entries[0]
    samples = torch.from_numpy(read_audio(entry["audio"]))
    seconds = len(samples) / SAMPLE_RATE
    words = [SpokenWord(word, _span(start, end, seconds)) for word, start, end in entry["words"] or []]
    outputs = [_model_output(run, own_entry, seconds) for run, own_entry in zip(runs, entries, strict=True)]
    text = entry["text"] or entry["id"]
    return Example(
        entry["id"], text, entry["image_id"], _audio(samples), seconds, waveform_path(samples), words, outputs
    )


def _span(start: float, end: float, seconds: float) -> Span:
    return Span(round(100 * start / seconds, 2), round(100 * (min(end, seconds) - start) / seconds, 2))


def _audio(samples: Tensor) -> str:
    """Return a data URL with FLAC.

    Every browser plays FLAC, and FLAC adds no delay. Some browsers play MP3 with a delay against the waveform.
    """
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return data_url("audio/flac", file)


def waveform_path(samples: Tensor) -> str:
    """Return the peaks on both sides of the centre line as an SVG path. The highest peak fills the box."""
    normalized = samples.abs() / samples.abs().max().clamp(min=1e-6)
    peaks = F.adaptive_max_pool1d(normalized[None, None], PEAKS)[0, 0].mul(BOX_HEIGHT / 2).tolist()
    upper = [f"{x} {BOX_HEIGHT / 2 - peak:.0f}" for x, peak in enumerate(peaks)]
    lower = [f"{x} {BOX_HEIGHT / 2 + peak:.0f}" for x, peak in enumerate(peaks)]
    return f"M{'L'.join([*upper, *reversed(lower)])}Z"


def _model_output(run: EvaluatedRun, entry: dict[str, Any], seconds: float) -> ModelOutput:
    caption = set((entry["text"] or "").lower().split())
    retrieved = [
        RetrievedPicture(picture["image_id"], picture["score"], picture["image_id"] == entry["image_id"])
        for picture in entry["retrieved"]
    ]
    return ModelOutput(
        run.arch,
        *timed_output(entry, caption, run.examples["frame_seconds"], seconds),
        run.examples["branch"],
        entry["rank"],
        retrieved,
    )


def timed_output(
    fields: dict[str, Any], caption: set[str], frame_seconds: float, seconds: float
) -> tuple[list[Slot], str, float, list[float]]:
    """Return what a TimedOutput has besides `arch`, from the fields that evaluation/examples.py describes."""
    alpha = fields.get("alpha", [])
    return (
        list(keyword_slots(fields.get("keywords", []), caption, seconds)),
        weights_path(alpha, frame_seconds / seconds),
        max(alpha, default=0.0),
        [min(100.0, round(100 * time / seconds, 2)) for time in fields.get("fired", [])],
    )


def keyword_slots(keywords: list[dict[str, Any]], caption: set[str], seconds: float) -> Iterator[Slot]:
    """Yield the slots without overlap: a frame that ends one slot and starts the next belongs to the earlier one."""
    end = 0.0
    for keyword in keywords:
        span = None
        if keyword["span"] is not None:
            span = _span(max(end, keyword["span"][0]), keyword["span"][1], seconds)
            end = keyword["span"][1]
        tokens = [NearestToken(p["text"], p["score"], p["text"].lower() in caption) for p in keyword["pieces"]]
        yield Slot(span, tokens)


def weights_path(alpha: list[float], frame: float) -> str:
    """Return the weights as an SVG path with one step per frame. The highest weight fills the box.

    `frame` is the duration of a frame as a share of the recording's duration.
    """
    scale = BOX_HEIGHT / (max(alpha, default=0) or 1)
    steps = [f"V{BOX_HEIGHT - scale * a:.0f}H{PEAKS * frame * (t + 1):.1f}" for t, a in enumerate(alpha)]
    return "".join([f"M0 {BOX_HEIGHT}", *steps]) if alpha else ""
