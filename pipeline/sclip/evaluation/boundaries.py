"""CIF's firings against the boundaries between words.

Integrate-and-fire fires when it has heard enough of a word, so a boundary is where a word ends; the next one starts
there or after a pause. As in the literature on segmentation, what begins and ends the speech is not a boundary: the
end of the last word is none, and a firing at it, or at the start of the first word, is neither right nor wrong (one
at each, among the firings that no boundary needs). Other firings in the silence around the speech are wrong. CIF's
last slot, which the end of the recording closes, is no firing.

- a firing and a boundary are a pair when they are at most a tolerance apart; pairs are one to one, as many as there
  can be: in order of time, each firing takes the earliest boundary that is free
- precision, recall, F1, over-segmentation (firings / boundaries - 1) and the R-value (Räsänen et al. 2009), all in %,
  from counts over the whole corpus
- beside it, the same number of firings of each utterance evenly spaced, and at random (the average of 10 draws)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sclip.evaluation.bootstrap import Bootstrap, ratio
from sclip.padded import valid_mask

TOLERANCES = {"20ms": 0.02, "50ms": 0.05}
DRAWS = 10
ROUNDING = 1e-6  # seconds; frames and alignments are both multiples of milliseconds, and 0.36 - 0.34 > 0.02

Words = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class References:
    """Of N utterances, in seconds, fp64."""

    boundaries: Tensor  # (N, R): the end of each word but the last; behind them infinity
    edges: Tensor  # (N, 2): where speech starts and ends

    @classmethod
    def of(cls, words: Sequence[Words]) -> "References":
        ends = [torch.tensor([end for _, _, end in spoken[:-1]], dtype=torch.float64) for spoken in words]
        boundaries = torch.nn.utils.rnn.pad_sequence(ends, batch_first=True, padding_value=torch.inf)
        edges = [(spoken[0][1], spoken[-1][2]) for spoken in words]
        return cls(boundaries, torch.tensor(edges, dtype=torch.float64))


def boundary_scores(
    firings: Tensor, durations: Tensor, references: References, pictures: Tensor, bootstrap: Bootstrap, seed: int
) -> dict[str, Any]:
    """firings (N, S), ascending, behind them infinity; durations (N,) of the utterances; both in seconds"""
    counts = firings.isfinite().sum(1)
    generator = torch.Generator().manual_seed(seed)
    drawn = [randomly(counts, durations, generator) for _ in range(DRAWS)]
    scores: dict[str, Any] = {"utterances": len(firings)}
    for name, tolerance in TOLERANCES.items():
        counted = {
            "cif": count(firings, references, tolerance),
            "even": count(evenly(counts, durations), references, tolerance),
            "random": torch.stack([count(times, references, tolerance) for times in drawn]).mean(0),
        }
        scores[name] = {
            who: {figure: bootstrap.of_sums(sums, pictures, FIGURES[figure]) for figure in FIGURES}
            for who, sums in counted.items()
        }
    return scores


def count(firings: Tensor, references: References, tolerance: float) -> Tensor:
    """(N, S) -> (N, 3): pairs, firings that count, boundaries"""
    tolerance = tolerance + ROUNDING
    paired = pairs(firings, references.boundaries, tolerance)  # (N, S)
    free = firings.isfinite() & ~paired
    at_edge = (firings[:, :, None] - references.edges[:, None]).abs() <= tolerance  # (N, S, 2)
    forgiven = (at_edge & free[..., None]).any(1).sum(1).minimum(free.sum(1))
    fired = firings.isfinite().sum(1) - forgiven
    return torch.stack([paired.sum(1), fired, references.boundaries.isfinite().sum(1)], 1).double()


def pairs(firings: Tensor, boundaries: Tensor, tolerance: float) -> Tensor:
    """(N, S) and (N, R), ascending, behind them infinity -> (N, S): which firings find a boundary of their own"""
    reachable = torch.searchsorted(boundaries, firings - tolerance)  # (N, S): the earliest
    beyond = torch.searchsorted(boundaries, firings + tolerance)
    beyond = beyond.minimum(boundaries.isfinite().sum(1, keepdim=True))
    taken = torch.zeros(len(firings), dtype=torch.long)  # (N,): boundaries up to here are taken, or too early by now
    paired = torch.zeros_like(firings, dtype=torch.bool)
    for slot in range(firings.shape[1]):
        taken = taken.maximum(reachable[:, slot])
        paired[:, slot] = taken < beyond[:, slot]
        taken = taken + paired[:, slot]
    return paired & firings.isfinite()


def evenly(counts: Tensor, durations: Tensor) -> Tensor:
    """(N,) and (N,) -> (N, S): firings that cut each utterance into equal parts"""
    part = torch.arange(1, int(counts.max()) + 1, dtype=torch.float64) / (counts[:, None] + 1)
    return _padded(part * durations[:, None], counts)


def randomly(counts: Tensor, durations: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) and (N,) -> (N, S): firings anywhere in each utterance"""
    drawn = torch.rand(len(counts), int(counts.max()), dtype=torch.float64, generator=generator)
    return _padded(drawn * durations[:, None], counts).sort(1).values


def _padded(times: Tensor, counts: Tensor) -> Tensor:
    return times.masked_fill(~valid_mask(counts, times.shape[1]), torch.inf)


# What follows takes sums (..., 3) of pairs, firings and boundaries.


def precision(sums: Tensor) -> Tensor:
    return 100 * ratio(sums[..., 0], sums[..., 1])


def recall(sums: Tensor) -> Tensor:
    return 100 * ratio(sums[..., 0], sums[..., 2])


def f1(sums: Tensor) -> Tensor:
    return 100 * ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def over_segmentation(sums: Tensor) -> Tensor:
    return 100 * (ratio(sums[..., 1], sums[..., 2]) - 1)


def r_value(sums: Tensor) -> Tensor:
    """100 for all hits and no more, less by the distance from there and from the line of no wrong firings."""
    missing, surplus = 1 - recall(sums) / 100, over_segmentation(sums) / 100
    to_ideal = (missing**2 + surplus**2).sqrt()
    to_line = (surplus + missing).abs() / 2**0.5
    return 100 * (1 - (to_ideal + to_line) / 2)


FIGURES: dict[str, Callable[[Tensor], Tensor]] = {
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "r_value": r_value,
    "over_segmentation": over_segmentation,
}
