"""Alternatives timed side by side, in turns, so that whatever else the machine does meets all of them alike.

What counts is the ratio to the first, taken within each round; the spread between rounds says how far to trust it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

WARM_UP = 1  # rounds that do not count


@dataclass(frozen=True)
class Timed:
    name: str
    seconds: float  # median
    slowest: float
    fastest: float
    ratio: float  # how many times as fast as the first alternative: median over rounds
    ratio_low: float  # of all rounds
    ratio_high: float


def compare(
    alternatives: Mapping[str, Callable[[], object]],
    device: str | torch.device,
    rounds: int = 5,
    parts: Mapping[str, float] | None = None,
) -> list[Timed]:
    """`parts`: of an alternative that does a fraction of the work, which; its times are scaled up."""
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for turn in range(WARM_UP + rounds):
        for name, run in alternatives.items():
            seconds = seconds_of(run, device) / (parts or {}).get(name, 1.0)
            if turn >= WARM_UP:
                times[name].append(seconds)
    first = next(iter(times.values()))
    return [_timed(name, found, first) for name, found in times.items()]


def seconds_of(run: Callable[[], object], device: str | torch.device) -> float:
    settle(device)
    began = time.perf_counter()
    run()
    settle(device)
    return time.perf_counter() - began


def settle(device: str | torch.device) -> None:
    """Until a GPU has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _timed(name: str, times: list[float], first: list[float]) -> Timed:
    ratios = [base / own for base, own in zip(first, times, strict=True)]
    return Timed(
        name, statistics.median(times), max(times), min(times), statistics.median(ratios), min(ratios), max(ratios)
    )
