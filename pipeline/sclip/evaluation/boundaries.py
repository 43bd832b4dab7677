"""Compare CIF's firings with the boundaries between words.

CIF fires at the end of a segment, so a boundary is the time at which a word ends. The next word starts there, or after
a pause. As in the literature on segmentation, the start and the end of the speech are not boundaries. One firing at
each of these two edges is ignored, unless it is paired with a boundary. All other firings in the silence around the
speech count as errors. CIF's last slot, which ends with the recording, is not a firing.

- A firing and a boundary can form a pair if they are at most a tolerance apart. Pairs are one to one, and as many as
  possible: in order of time, each firing takes the earliest free boundary.
- The figures are precision, recall, F1, over-segmentation (firings / boundaries - 1) and the R-value (Räsänen et al.
  2009). All are in %, and are computed from counts over the corpus.
- VG-HuBERT and others count differently: every start and every end of a word is a boundary, once each, except the
  first and the last. `cif_starts_and_ends` are CIF's figures for these boundaries, to compare with theirs.
- Two baselines have the same number of firings in each utterance: evenly spaced, and random (the mean of 10 draws).
- CIF may fire a constant time before or after the ends of words. In `cif_shifted` and `even_shifted` all firings are
  moved by the time with the highest F1. For each half of the pictures, the time is chosen on the utterances of the
  other half. Of a large test split, only the first 4,000 utterances take part in the choice. `shifts` has the time, in
  seconds, by which each half was moved.

The duration of an utterance is that of its encoder frames, which can be 25 ms less than that of the recording. A later
firing counts as one at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sclip.corpora.rows import TimedWords
from sclip.evaluation.bootstrap import SEED, Bootstrap, ratio
from sclip.padded import valid_mask

TOLERANCES = {"20ms": 0.02, "50ms": 0.05}
DRAWS = 10
# Seconds. In the order of their distance from 0, so that of equal shifts the smallest counts.
SHIFTS = sorted((i / 50 for i in range(-10, 11)), key=abs)
CHOOSING = 4_000  # utterances that choose a shift
# Seconds. Frames and alignments are multiples of a millisecond, but in floating point 0.36 - 0.34 > 0.02.
ROUNDING = 1e-6


@dataclass(frozen=True)
class References:
    """Hold the word boundaries and the speech edges of N utterances, in seconds as fp64."""

    boundaries: Tensor  # (N, R), in ascending order; padded with infinity
    edges: Tensor  # (N, 2): start and end of the speech

    @classmethod
    def of(cls, words: Sequence[TimedWords]) -> "References":
        """Return as boundaries the end of each word except the last."""
        return cls._of([[end for _, _, end in utterance[:-1]] for utterance in words], words)

    @classmethod
    def starts_and_ends(cls, words: Sequence[TimedWords]) -> "References":
        """Return as boundaries each start and each end of a word, once, except the first and the last."""
        times = [sorted({time for _, start, end in utterance for time in (start, end)}) for utterance in words]
        return cls._of([distinct[1:-1] for distinct in times], words)

    @classmethod
    def _of(cls, boundaries: Sequence[Sequence[float]], words: Sequence[TimedWords]) -> "References":
        rows = [torch.tensor(times, dtype=torch.float64) for times in boundaries]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.inf)
        edges = [(utterance[0][1], utterance[-1][2]) for utterance in words]
        return cls(padded, torch.tensor(edges, dtype=torch.float64))


def boundary_scores(
    firings: Tensor,
    durations: Tensor,
    words: Sequence[TimedWords],
    pictures: Tensor,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Return the figures of CIF and of the baselines for each tolerance, with confidence intervals.

    `firings` (N, S) are in ascending order and padded with infinity. `durations` (N,) are those of the utterances. Both
    are in seconds.
    """
    references, counts = References.of(words), firings.isfinite().sum(1)
    generator = torch.Generator().manual_seed(SEED)
    draws = [random_firings(counts, durations, generator) for _ in range(DRAWS)]
    even, halves = even_firings(counts, durations), pictures % 2 == 0
    scores: dict[str, Any] = {"utterances": len(firings), "shifts": {}}
    for name, tolerance in TOLERANCES.items():
        shifted, shifts = count_shifted_pairs(firings, references, tolerance, halves)
        even_shifted, even_shifts = count_shifted_pairs(even, references, tolerance, halves)
        scores["shifts"][name] = {
            method: dict(zip(("half_1", "half_2"), times, strict=True))
            for method, times in (("cif", shifts), ("even", even_shifts))
        }
        counted = {
            "cif": count_pairs(firings, references, tolerance),
            "cif_starts_and_ends": count_pairs(firings, References.starts_and_ends(words), tolerance),
            "cif_shifted": shifted,
            "even": count_pairs(even, references, tolerance),
            "even_shifted": even_shifted,
            "random": torch.stack([count_pairs(times, references, tolerance) for times in draws]).mean(0),
        }
        scores[name] = {
            method: {figure: bootstrap.of_sums(sums, pictures, FIGURES[figure]) for figure in FIGURES}
            for method, sums in counted.items()
        }
    return scores


def count_pairs(firings: Tensor, references: References, tolerance: float) -> Tensor:
    """Return the number of pairs, of firings and of boundaries of each utterance, without ignored firings.

    (N, S) -> (N, 3)
    """
    tolerance = tolerance + ROUNDING
    paired = paired_firings(firings, references.boundaries, tolerance)  # (N, S)
    unpaired = firings.isfinite() & ~paired
    at_edge = (firings[:, :, None] - references.edges[:, None]).abs() <= tolerance  # (N, S, 2)
    ignored = (at_edge & unpaired[..., None]).any(1).sum(1).minimum(unpaired.sum(1))
    counted = firings.isfinite().sum(1) - ignored
    return torch.stack([paired.sum(1), counted, references.boundaries.isfinite().sum(1)], 1).double()


def count_shifted_pairs(
    firings: Tensor, references: References, tolerance: float, halves: Tensor
) -> tuple[Tensor, list[float]]:
    """Count pairs of firings that are moved by a constant time. `halves` (N,) divides the utterances.

    Return the counts (N, 3), and the two times: that of the utterances which `halves` marks, and that of the others.
    Each half is moved by the time with which the other has the highest F1.
    """
    some = References(references.boundaries[:CHOOSING], references.edges[:CHOOSING])
    counts = torch.stack([count_pairs(firings[:CHOOSING] + shift, some, tolerance) for shift in SHIFTS])  # (K, n, 3)
    chosen_by = (~halves[:CHOOSING], halves[:CHOOSING])
    shifts = [SHIFTS[int(f1(counts[:, half].sum(1)).argmax())] for half in chosen_by]
    one, other = (count_pairs(firings + shift, references, tolerance) for shift in shifts)
    return torch.where(halves[:, None], one, other), shifts


def paired_firings(firings: Tensor, boundaries: Tensor, tolerance: float) -> Tensor:
    """Return which firings are paired with a boundary: (N, S) and (N, R) -> (N, S)

    Firings and boundaries are in ascending order and padded with infinity.
    """
    earliest = torch.searchsorted(boundaries, firings - tolerance)  # (N, S): the first boundary within the tolerance
    stop = torch.searchsorted(boundaries, firings + tolerance)  # (N, S): one past the last
    stop = stop.minimum(boundaries.isfinite().sum(1, keepdim=True))
    free = torch.zeros(len(firings), dtype=torch.long)  # (N,): the first boundary that is free and not too early
    paired = torch.zeros_like(firings, dtype=torch.bool)
    for slot in range(firings.shape[1]):
        free = free.maximum(earliest[:, slot])
        paired[:, slot] = free < stop[:, slot]
        free = free + paired[:, slot]
    return paired & firings.isfinite()


def even_firings(counts: Tensor, durations: Tensor) -> Tensor:
    """Return firings that cut each utterance into equal parts: (N,) and (N,) -> (N, S)"""
    part = torch.arange(1, int(counts.max()) + 1, dtype=torch.float64) / (counts[:, None] + 1)
    return _padded(part * durations[:, None], counts)


def random_firings(counts: Tensor, durations: Tensor, generator: torch.Generator) -> Tensor:
    """Return firings at random times in each utterance: (N,) and (N,) -> (N, S)"""
    drawn = torch.rand(len(counts), int(counts.max()), dtype=torch.float64, generator=generator)
    return _padded(drawn * durations[:, None], counts).sort(1).values


def _padded(times: Tensor, counts: Tensor) -> Tensor:
    return times.masked_fill(~valid_mask(counts, times.shape[1]), torch.inf)


# The following functions map sums (..., 3) of pairs, firings and boundaries to a figure (...) in %.


def precision(sums: Tensor) -> Tensor:
    return 100 * ratio(sums[..., 0], sums[..., 1])


def recall(sums: Tensor) -> Tensor:
    return 100 * ratio(sums[..., 0], sums[..., 2])


def f1(sums: Tensor) -> Tensor:
    return 100 * ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def over_segmentation(sums: Tensor) -> Tensor:
    return 100 * (ratio(sums[..., 1], sums[..., 2]) - 1)


def r_value(sums: Tensor) -> Tensor:
    """Return 100 minus the mean distance, in %, from perfect segmentation and from the line without wrong firings."""
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
