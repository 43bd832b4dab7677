"""Boundaries: by hand, against the slow way, and beside the baselines."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.boundaries import FIGURES, References, boundary_scores, count, evenly, pairs, randomly
from sclip.evaluation.inference import firing_times

INF = math.inf
TIMES = st.lists(st.integers(0, 60), max_size=9).map(sorted)


def seconds(*rows: list[float]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[INF] * (width - len(row))] for row in rows], dtype=torch.float64).view(
        len(rows), width
    )


def most_pairs(firings: list[int], boundaries: list[int], tolerance: int) -> int:
    """The slow way: augmenting paths."""
    owner: dict[int, int] = {}

    def seek(firing: int, seen: set[int]) -> bool:
        for place, boundary in enumerate(boundaries):
            if abs(firings[firing] - boundary) <= tolerance and place not in seen:
                seen.add(place)
                if place not in owner or seek(owner[place], seen):
                    owner[place] = firing
                    return True
        return False

    return sum(seek(firing, set()) for firing in range(len(firings)))


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=4), st.integers(0, 6))
def test_as_many_pairs_as_there_can_be(utterances, tolerance):
    firings, boundaries = seconds(*(f for f, _ in utterances)), seconds(*(b for _, b in utterances))
    found = pairs(firings, boundaries, tolerance + 1e-6)
    assert found.sum(1).tolist() == [most_pairs(f, b, tolerance) for f, b in utterances]
    assert not found[firings.isinf()].any()


def test_counts_by_hand():
    words = [
        (("a", 0.1, 0.3), ("dog", 0.3, 0.6), ("barks", 0.7, 1.0)),  # boundaries: 0.3 and 0.6; a pause behind
        (("go", 0.2, 0.5),),  # none
    ]
    references = References.of(words)
    assert references.boundaries.tolist() == [[0.3, 0.6], [INF, INF]]
    firings = seconds(
        # at the edge, right by a rounding, another one there, late, at the edge, in the silence behind
        [0.1, 0.32, 0.3201, 0.64, 0.99, 1.2],
        [0.19, 0.21, 0.35, 0.51],  # at the start two, of which one is too many; inside; at the end
    )
    assert count(firings, references, 0.02).tolist() == [[1, 4, 2], [0, 2, 0]]
    assert count(firings, references, 0.05).tolist() == [[2, 4, 2], [0, 2, 0]]
    # A firing that a boundary needs is not an edge's, however near the edge is.
    near = References.of([(("a", 0.0, 0.03), ("dog", 0.03, 0.5))])
    assert count(seconds([0.02]), near, 0.05).tolist() == [[1, 1, 1]]
    assert count(seconds([]), near, 0.05).tolist() == [[0, 0, 1]]


def test_figures_by_hand():
    """6 pairs of 10 firings and 8 boundaries; the R-value from the definition's own terms."""
    sums = torch.tensor([6.0, 10, 8], dtype=torch.float64)
    hits, surplus = 0.75, 10 / 8 - 1
    r1 = math.sqrt((1 - hits) ** 2 + surplus**2)
    r2 = (-surplus + hits - 1) / math.sqrt(2)
    expected = {"precision": 60, "recall": 75, "f1": 200 / 3, "over_segmentation": 25}
    expected["r_value"] = 100 * (1 - (abs(r1) + abs(r2)) / 2)
    assert {name: float(figure(sums)) for name, figure in FIGURES.items()} == pytest.approx(expected)
    perfect = torch.tensor([8.0, 8, 8], dtype=torch.float64)
    assert [float(FIGURES[name](perfect)) for name in ("f1", "r_value", "over_segmentation")] == [100, 100, 0]
    assert float(FIGURES["f1"](torch.zeros(3))) == 0


def test_firing_times_are_the_ends_of_frames():
    fired = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    assert firing_times(fired, 0.5, 3).tolist() == [[1, 2, INF], [INF] * 3, [0.5, 1, 1.5]]


def test_baselines_fire_as_often():
    counts, durations = torch.tensor([3, 0, 1]), torch.tensor([2.0, 5, 3])
    assert evenly(counts, durations).tolist() == [[0.5, 1, 1.5], [INF] * 3, [1.5, INF, INF]]
    drawn = randomly(counts, durations, torch.Generator().manual_seed(0))
    assert drawn.isfinite().sum(1).tolist() == [3, 0, 1]
    assert (drawn == drawn.sort(1).values).all()
    assert ((drawn < durations[:, None]) | drawn.isinf()).all()


def test_even_firings_find_even_words():
    """Words of equal length: evenly spaced firings are perfect, CIF's here a little late, random ones poor."""
    words = tuple((f"w{i}", 0.4 * i, 0.4 * (i + 1)) for i in range(5))
    references = References.of([words] * 30)
    firings = references.boundaries + 0.03
    arguments = (torch.full((30,), 2.0).double(), references, torch.arange(30), Bootstrap(30, seed=0), 0)
    found = boundary_scores(firings, *arguments)
    assert found["20ms"]["even"]["r_value"] == {"value": 100, "low": 100, "high": 100}
    assert found["20ms"]["cif"]["f1"]["value"] == 0
    assert found["50ms"]["cif"]["f1"]["value"] == 100
    assert 0 < found["50ms"]["random"]["f1"]["high"] < 50
    assert found == boundary_scores(firings, *arguments)
