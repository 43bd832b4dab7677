"""Time alternatives in turns, so that other work on the machine slows all of them equally.

Each round gives the ratio of every alternative to the first one. The spread between rounds shows how reliable the ratio
is.
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
    ratio: float  # speed relative to the first alternative: median over rounds
    ratio_low: float  # lowest of all rounds
    ratio_high: float


def compare(
    alternatives: Mapping[str, Callable[[], object]],
    device: str | torch.device,
    rounds: int = 5,
    parts: Mapping[str, float] | None = None,
    prepare: Mapping[str, Callable[[], object]] | None = None,
) -> list[Timed]:
    """Time the alternatives, in several rounds.

    `parts` gives how many units of work a run of an alternative does, such as 0.1 or 8; without an entry, it is 1. Its
    times are divided by this number. `prepare` runs before each run of an alternative, and is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for turn in range(WARM_UP + rounds):
        for name, run in alternatives.items():
            (prepare or {}).get(name, lambda: None)()
            seconds = seconds_of(run, device) / (parts or {}).get(name, 1.0)
            if turn >= WARM_UP:
                times[name].append(seconds)
    first = next(iter(times.values()))
    return [_timed(name, own, first) for name, own in times.items()]


def seconds_of(run: Callable[[], object], device: str | torch.device) -> float:
    """Return the duration of a run, including its work on a GPU."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str | torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _timed(name: str, times: list[float], first: list[float]) -> Timed:
    ratios = [base / own for base, own in zip(first, times, strict=True)]
    return Timed(name, statistics.median(times), statistics.median(ratios), min(ratios), max(ratios))
