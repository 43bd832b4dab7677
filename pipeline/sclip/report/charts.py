"""Drawings for the page as numbers for its template, in the units of an SVG's view box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sclip.report.results import Line, Results

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 30, 40  # margins
MOST_POINTS = 250  # of a line; more are not seen


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Path:
    name: str
    arch: str
    dashed: bool
    d: str  # as SVG writes paths


@dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    paths: list[Path]


@dataclass(frozen=True)
class Axis:
    """From numbers to places between two margins."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[Tick]:
        """About five, at round numbers."""
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [Tick(self(n * step), f"{n * step:,.10g}") for n in range(first, last + 1)]


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def chart(title: str, y_label: str, lines: Sequence[Line]) -> Chart:
    """Learning curves over steps; both axes start at 0."""
    last = max(step for line in lines for step, _ in line.curve)
    highest = max(value for line in lines for _, value in line.curve)
    x, y = Axis(0, last, LEFT, WIDTH - RIGHT), Axis(0, max(highest, 1e-3), HEIGHT - BOTTOM, TOP)
    paths = [Path(line.name, line.arch, line.branch == "cascaded", _path(line, x, y)) for line in lines]
    return Chart(title, "step", y_label, x.ticks, y.ticks, paths)


def _path(line: Line, x: Axis, y: Axis) -> str:
    points = line.curve[:: math.ceil(len(line.curve) / MOST_POINTS)]
    return "M" + "L".join(f"{x(step)} {y(value)}" for step, value in points)


def learning_curves(results: Results) -> list[Chart]:
    """Those of which there is something to draw."""
    drawn = [
        ("On the training split", "loss, all terms together", results.losses),
        ("On the development split", "mean R@10 of both directions, %", results.developments),
    ]
    return [chart(title, y_label, lines) for title, y_label, lines in drawn if lines]


def layer_weights(results: Results) -> dict[str, list[float]]:
    """Of each architecture, the share of each hidden state, averaged over seeds."""
    shares = {arch: [list(run.metrics["layers"].values()) for run in runs] for arch, runs in results.runs.items()}
    return {arch: [sum(state) / len(state) for state in zip(*each, strict=True)] for arch, each in shares.items()}
