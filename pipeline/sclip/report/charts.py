"""Compute the geometry of the page's charts. The template draws it as SVG, in the units of the view box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sclip.report.results import LearningCurve, Results

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 30, 40  # margins
MAX_POINTS = 250  # of a line: more are not visible at this width


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class ChartLine:
    name: str
    arch: str
    dashed: bool
    d: str  # the `d` attribute of an SVG path


@dataclass(frozen=True)
class Chart:
    title: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[ChartLine]


@dataclass(frozen=True)
class Axis:
    """Maps the values from 0 to `high` to the positions from `start` to `end`."""

    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + value / self.high * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[Tick]:
        """Return about five ticks at round numbers."""
        step = _round_step(self.high / 5)
        return [Tick(self(n * step), f"{n * step:,.10g}") for n in range(math.floor(self.high / step + 1e-9) + 1)]


def _round_step(least: float) -> float:
    """Return the smallest step of at least `least` that is 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def chart(title: str, y_label: str, curves: Sequence[LearningCurve]) -> Chart:
    """Return a chart of learning curves over steps. Both axes start at 0."""
    last = max(step for curve in curves for step, _ in curve.points)
    highest = max(value for curve in curves for _, value in curve.points)
    x, y = Axis(last, LEFT, WIDTH - RIGHT), Axis(max(highest, 1e-3), HEIGHT - BOTTOM, TOP)
    lines = [ChartLine(curve.name, curve.arch, curve.branch == "cascaded", _svg_path(curve, x, y)) for curve in curves]
    return Chart(title, y_label, x.ticks, y.ticks, lines)


def _svg_path(curve: LearningCurve, x: Axis, y: Axis) -> str:
    points = curve.points[:: math.ceil(len(curve.points) / MAX_POINTS)]
    return "M" + "L".join(f"{x(step)} {y(value)}" for step, value in points)


def learning_curves(results: Results) -> list[Chart]:
    """Return the charts that have at least one curve."""
    candidates = [
        ("Training split", "total loss", results.loss_curves),
        ("Development split", "mean R@10 of both directions, %", results.development_curves),
    ]
    return [chart(title, y_label, curves) for title, y_label, curves in candidates if curves]


def layer_weights(results: Results) -> dict[str, list[float]]:
    """Return each architecture's weight of each hidden state, averaged over seeds."""
    weights = {arch: [list(run.metrics["layers"].values()) for run in runs] for arch, runs in results.runs.items()}
    return {
        arch: [sum(seeds) / len(seeds) for seeds in zip(*by_seed, strict=True)] for arch, by_seed in weights.items()
    }
