"""Draw a recording: its waveform, CIF's weights α and firings, and the keywords, as SVG or PNG.

A long recording is drawn in strips below one another. The figure is a list of boxes, lines and labels, which two small
functions write.
"""

import html
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sclip.apps.keywords import FoundKeywords, Word
from sclip.apps.outputs import check_file
from sclip.encoders.audio import SAMPLE_RATE, Samples
from sclip.encoders.windows import read_pieces
from sclip.errors import UserError, counted, printable
from sclip.files import atomic_file
from sclip.model.inputs import as_recording

SUFFIXES = (".png", ".svg")
WIDTH, MARGIN = 1200, 12
WAVE, WEIGHTS, LANE, GAP, AXIS, TITLE = 64, 48, 17, 8, 22, 30  # heights
LANES = 3  # rows of labels; a label that finds no place in them is left out
LETTER, FONT = 6.6, 12  # the width of a letter, and the size of the font
STRIP_SECONDS, MOST_STRIPS = 20.0, 60
HOP = 160  # samples for each point of the waveform: 10 ms
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
TICK_DISTANCE = 60  # at least, from one tick to the next
INK, GREY, BLUE, RED, PALE = "#222222", "#888888", "#4878a8", "#c04830", "#e4ebf3"


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float
    colour: str


@dataclass(frozen=True)
class Line:
    points: list[tuple[float, float]]
    colour: str
    filled: bool = False


@dataclass(frozen=True)
class Label:
    x: float
    y: float  # of the top
    text: str
    colour: str


Shape = Box | Line | Label


def plot(recording: FoundKeywords, audio: Any, path: str | Path, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Draw the keywords of a recording to a .png or .svg file.

    `audio` is the recording, which is read again; `sample_rate` is that of samples that come without one.
    """
    path = Path(path)
    check_plot(path)
    source = as_recording(audio, sample_rate, recording.name)
    peaks = _peaks(read_pieces(source.audio, source.rate, source.name))
    seconds = len(peaks) * HOP / SAMPLE_RATE
    if abs(seconds - recording.seconds) > HOP / SAMPLE_RATE:
        raise UserError(
            f"{recording.name}: {recording.seconds:.2f} s long, and the audio to draw {seconds:.2f} s; give the same "
            "recording, and the sample_rate of samples"
        )
    shapes, height = _figure(recording, peaks)
    data = _svg(shapes, height).encode() if path.suffix.lower() == ".svg" else _png(shapes, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as unfinished:
        unfinished.write_bytes(data)


def check_plot(path: Path) -> None:
    """Refuse a file of another kind than the two that can be written, or in a folder that cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    check_file(path)


def _peaks(pieces: Iterator[Samples]) -> Samples:
    """Return the greatest amplitude of every 10 ms of a recording: (T,)"""
    peaks, rest = [], np.empty(0, np.float32)
    for piece in pieces:
        samples = np.abs(np.concatenate([rest, piece]))
        whole = len(samples) // HOP * HOP
        peaks.append(samples[:whole].reshape(-1, HOP).max(1))
        rest = samples[whole:]
    last = [rest.max(keepdims=True)] if len(rest) else []
    return np.concatenate([*peaks, *last])


def _figure(recording: FoundKeywords, peaks: Samples) -> tuple[list[Shape], int]:
    """Return the shapes of a figure, and its height."""
    strip = max(STRIP_SECONDS, recording.seconds / MOST_STRIPS)
    strips = math.ceil(recording.seconds / strip - 1e-6)  # the quotient may be a little more than a whole number
    strip = min(strip, recording.seconds)
    title = f"{printable(recording.name)}: {recording.seconds:.2f} s, {counted(len(recording.words), 'keywords')}"
    title += " (grey: waveform; blue: CIF's weights; red: firings)" if recording.has_segments else ""
    shapes: list[Shape] = [Label(MARGIN, 8, title, INK)]
    top = float(TITLE)
    loudest, heaviest = float(peaks.max(initial=1e-6)), 1e-6
    if recording.alpha is not None:
        heaviest = float(recording.alpha.max(initial=1e-6))
    for number in range(strips):
        strip_of = _Strip(number * strip, strip, top)
        shapes += strip_of.wave(peaks, loudest)
        if recording.alpha is not None:
            shapes += strip_of.weights(recording, heaviest)
        shapes += strip_of.words(recording)
        shapes += strip_of.axis(recording)
        top = strip_of.bottom(recording) + GAP
    return shapes, int(top) + GAP


@dataclass(frozen=True)
class _Strip:
    """The part of a figure that shows the seconds from `start` to `start + seconds`, below `top`."""

    start: float
    seconds: float
    top: float

    def x(self, time: float) -> float:
        share = (time - self.start) / self.seconds
        return round(MARGIN + min(1.0, max(0.0, share)) * (WIDTH - 2 * MARGIN), 1)

    def part(self, values: Samples, duration: float) -> tuple[Samples, int]:
        """Return the values of this strip, each of which lasts `duration`, and the number of the first."""
        first = int(self.start / duration)
        return values[first : int(np.ceil((self.start + self.seconds) / duration - 1e-6))], first

    def wave(self, peaks: Samples, loudest: float) -> list[Shape]:
        values, first = self.part(peaks, HOP / SAMPLE_RATE)
        columns = max(1, len(values) // (WIDTH - 2 * MARGIN))  # points that fall on one pixel
        middle, points = self.top + WAVE / 2, []
        for i in range(0, len(values), columns):
            height = float(values[i : i + columns].max()) / loudest * (WAVE / 2 - 2)
            points.append((self.x((first + i) * HOP / SAMPLE_RATE), round(height, 1)))
        upper = [(x, round(middle - height - 0.5, 1)) for x, height in points]
        lower = [(x, round(middle + height + 0.5, 1)) for x, height in points]
        return [Line([*upper, *reversed(lower)], GREY, filled=True)]

    def weights(self, recording: FoundKeywords, heaviest: float) -> list[Shape]:
        """Draw α as steps, and the firings through it and the waveform."""
        assert recording.alpha is not None
        values, first = self.part(recording.alpha, recording.frame_seconds)
        base = self.top + WAVE + WEIGHTS
        points = [(self.x(first * recording.frame_seconds), base)]
        for i, value in enumerate(values.tolist(), first):
            y = round(base - value / heaviest * (WEIGHTS - 4), 1)
            points += [(self.x(i * recording.frame_seconds), y), (self.x((i + 1) * recording.frame_seconds), y)]
        points.append((points[-1][0], base))
        here = [time for time in recording.firings if self.start < time <= self.start + self.seconds]
        firings: list[Shape] = [Line([(self.x(time), self.top), (self.x(time), base)], RED) for time in here]
        return [Line(points, BLUE, filled=True), *firings]

    def words(self, recording: FoundKeywords) -> list[Shape]:
        """Draw a bar for each keyword, and its label in the first row that has room."""
        shapes: list[Shape] = []
        ends = [float(MARGIN)] * LANES
        base = self.top + WAVE + (WEIGHTS if recording.alpha is not None else 0) + 4
        for word in self._here(recording):
            left, right = self.x(word.start), self.x(word.end)
            text = printable(word.text)
            width = LETTER * len(text) + 4
            x = min(left, WIDTH - MARGIN - width)
            lane = next((k for k, end in enumerate(ends) if end <= x), None)
            if lane is None:
                continue
            top = base + lane * LANE
            ends[lane] = max(right, x + width)
            shapes += [Box(left, top, max(left + 1, right - 1), top + LANE - 2, PALE), Label(x + 2, top, text, INK)]
        return shapes

    def _here(self, recording: FoundKeywords) -> list[Word]:
        words = recording.segments if recording.has_segments else recording.words
        return [word for word in words if self.start <= word.start < self.start + self.seconds]

    def axis(self, recording: FoundKeywords) -> list[Shape]:
        """Draw the seconds below the strip."""
        room = (WIDTH - 2 * MARGIN) / self.seconds
        step = next((tick for tick in TICKS if tick * room >= TICK_DISTANCE), TICKS[-1])
        y = self.bottom(recording) - AXIS
        shapes: list[Shape] = [Line([(MARGIN, y), (WIDTH - MARGIN, y)], GREY)]
        for count in range(int(np.ceil(self.start / step - 1e-6)), int((self.start + self.seconds) / step + 1e-6) + 1):
            x, text = self.x(count * step), f"{count * step:g} s"
            shapes.append(Line([(x, y), (x, y + 4)], GREY))
            shapes.append(Label(min(x + 2, WIDTH - MARGIN - LETTER * len(text)), y + 4, text, GREY))
        return shapes

    def bottom(self, recording: FoundKeywords) -> float:
        weights = WEIGHTS if recording.alpha is not None else 0
        return self.top + WAVE + weights + LANES * LANE + 8 + AXIS


def _svg(shapes: list[Shape], height: int) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="{FONT}">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for shape in shapes:
        if isinstance(shape, Box):
            place = f'x="{shape.left}" y="{shape.top}"'
            size = f'width="{shape.right - shape.left:.1f}" height="{shape.bottom - shape.top:.1f}"'
            lines.append(f'<rect {place} {size} fill="{shape.colour}"/>')
        elif isinstance(shape, Line):
            points = " ".join(f"{x:g},{y:g}" for x, y in shape.points)
            paint = f'fill="{shape.colour}"' if shape.filled else f'fill="none" stroke="{shape.colour}"'
            lines.append(f'<polyline points="{points}" {paint}/>')
        else:
            text = html.escape(shape.text)
            lines.append(f'<text x="{shape.x:g}" y="{shape.y + FONT:g}" fill="{shape.colour}">{text}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _png(shapes: list[Shape], height: int) -> bytes:
    picture = Image.new("RGB", (WIDTH, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    for shape in shapes:
        if isinstance(shape, Box):
            draw.rectangle((shape.left, shape.top, shape.right, shape.bottom), fill=shape.colour)
        elif isinstance(shape, Label):
            draw.text((shape.x, shape.y), shape.text, fill=shape.colour, font=font)
        elif shape.filled and len(shape.points) > 1:
            draw.polygon(shape.points, fill=shape.colour)
        else:
            draw.line(shape.points, fill=shape.colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
