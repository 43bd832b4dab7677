"""Test boundary figures by hand, against a slow implementation, and against the baselines."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.boundaries import (
    FIGURES,
    References,
    boundary_scores,
    count_pairs,
    count_shifted_pairs,
    even_firings,
    paired_firings,
    random_firings,
)
from sclip.evaluation.inference import firing_times

INF = math.inf
TIMES = st.lists(st.integers(0, 60), max_size=9).map(sorted)


def seconds(*rows: list[float]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[INF] * (width - len(row))] for row in rows], dtype=torch.float64).view(
        len(rows), width
    )


def maximum_pairs(firings: list[int], boundaries: list[int], tolerance: int) -> int:
    """Return the size of the maximum matching, found by augmenting paths."""
    owner: dict[int, int] = {}

    def augment(firing: int, visited: set[int]) -> bool:
        for index, boundary in enumerate(boundaries):
            if abs(firings[firing] - boundary) <= tolerance and index not in visited:
                visited.add(index)
                if index not in owner or augment(owner[index], visited):
                    owner[index] = firing
                    return True
        return False

    return sum(augment(firing, set()) for firing in range(len(firings)))


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=4), st.integers(0, 6))
def test_pairs_are_a_maximum_matching(utterances, tolerance):
    firings, boundaries = seconds(*(f for f, _ in utterances)), seconds(*(b for _, b in utterances))
    paired = paired_firings(firings, boundaries, tolerance + 1e-6)
    assert paired.sum(1).tolist() == [maximum_pairs(f, b, tolerance) for f, b in utterances]
    assert not paired[firings.isinf()].any()


def test_counts_match_counts_by_hand():
    words = [
        (("a", 0.1, 0.3), ("dog", 0.3, 0.6), ("barks", 0.7, 1.0)),  # boundaries: 0.3, and 0.6 before a pause
        (("go", 0.2, 0.5),),  # no boundaries
    ]
    references = References.of(words)
    assert references.boundaries.tolist() == [[0.3, 0.6], [INF, INF]]
    firings = seconds(
        # at the start, just within 20 ms of 0.3, just outside, late for 0.6, at the end, in the silence after it
        [0.1, 0.32, 0.3201, 0.64, 0.99, 1.2],
        [0.19, 0.21, 0.35, 0.51],  # two at the start, of which one is ignored; inside the word; at the end
    )
    assert count_pairs(firings, references, 0.02).tolist() == [[1, 4, 2], [0, 2, 0]]
    assert count_pairs(firings, references, 0.05).tolist() == [[2, 4, 2], [0, 2, 0]]
    # A firing that is paired with a boundary is never ignored, even if it is near an edge.
    close = References.of([(("a", 0.0, 0.03), ("dog", 0.03, 0.5))])
    assert count_pairs(seconds([0.02]), close, 0.05).tolist() == [[1, 1, 1]]
    assert count_pairs(seconds([]), close, 0.05).tolist() == [[0, 0, 1]]
    assert count_pairs(seconds([0.02, 0.3]), close, 0.05).tolist() == [[1, 2, 1]]


def test_a_firing_near_both_edges_is_ignored_once():
    short = References.of([(("go", 0.1, 0.15),)])
    assert count_pairs(seconds([0.12]), short, 0.05).tolist() == [[0, 0, 0]]


def test_starts_and_ends_are_boundaries_as_in_vg_hubert():
    """The start and the end of a pause are two boundaries; words that touch have one between them."""
    words = [(("a", 0.1, 0.3), ("dog", 0.3, 0.6), ("barks", 0.7, 1.0)), (("go", 0.2, 0.5),)]
    references = References.starts_and_ends(words)
    assert references.boundaries.tolist() == [[0.3, 0.6, 0.7], [INF] * 3]
    # Pairs with 0.3, with 0.6 and 0.7; 0.65 is too far from both; 0.1 is the start of the speech.
    assert count_pairs(seconds([0.1, 0.31, 0.59, 0.65, 0.7], []), references, 0.02).tolist() == [[3, 4, 3], [0, 0, 0]]
    bootstrap = Bootstrap(2, seed=0)
    firings = seconds([0.31, 0.59, 0.65], [0.35])
    scores = boundary_scores(firings, torch.tensor([1.0, 0.6]).double(), words, torch.arange(2), bootstrap)["20ms"]
    assert scores["cif_starts_and_ends"]["precision"]["value"] == 50  # 2 of 4
    assert scores["cif_starts_and_ends"]["recall"]["value"] == pytest.approx(200 / 3)
    assert scores["cif"]["recall"]["value"] == 100


def test_figures_match_figures_by_hand():
    """Use 6 pairs of 10 firings and 8 boundaries. The R-value follows the formula of its definition."""
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


def test_baselines_have_the_given_number_of_firings():
    counts, durations = torch.tensor([3, 0, 1]), torch.tensor([2.0, 5, 3])
    assert even_firings(counts, durations).tolist() == [[0.5, 1, 1.5], [INF] * 3, [1.5, INF, INF]]
    drawn = random_firings(counts, durations, torch.Generator().manual_seed(0))
    assert drawn.isfinite().sum(1).tolist() == [3, 0, 1]
    assert (drawn == drawn.sort(1).values).all()
    assert ((drawn < durations[:, None]) | drawn.isinf()).all()


def test_words_of_equal_length_give_the_expected_scores():
    """Even firings are perfect, these firings of CIF are 30 ms late, and random firings score low."""
    words = tuple((f"w{i}", 0.4 * i, 0.4 * (i + 1)) for i in range(5))
    firings = References.of([words] * 30).boundaries + 0.03
    arguments = (torch.full((30,), 2.0).double(), [words] * 30, torch.arange(30), Bootstrap(30, seed=0))
    result = boundary_scores(firings, *arguments)
    assert result["20ms"]["even"]["r_value"] == {"value": 100, "low": 100, "high": 100}
    assert result["20ms"]["cif"]["f1"]["value"] == 0
    assert result["50ms"]["cif"]["f1"]["value"] == 100
    assert result["50ms"]["cif_starts_and_ends"] == result["50ms"]["cif"]  # words without pauses
    assert 0 < result["50ms"]["random"]["f1"]["high"] < 50
    assert result["20ms"]["cif_shifted"]["f1"]["value"] == result["20ms"]["even_shifted"]["f1"]["value"] == 100
    shifts = {"cif": {"half_1": -0.02, "half_2": -0.02}, "even": {"half_1": 0, "half_2": 0}}
    assert result["shifts"]["20ms"] == shifts
    assert result == boundary_scores(firings, *arguments)


def test_each_half_of_the_pictures_chooses_the_shift_of_the_other():
    references = References.of([(("a", 0.0, 0.4), ("b", 0.4, 0.8), ("c", 0.8, 1.2))] * 4)
    late, early, first = references.boundaries + 0.08, references.boundaries - 0.08, torch.tensor([1, 0, 1, 0]).bool()
    counts, shifts = count_shifted_pairs(torch.where(first[:, None], late, early), references, 0.02, first)
    assert shifts == [0.06, -0.06]  # the smallest that suffice
    assert counts[:, 0].sum() == 0
    counts, shifts = count_shifted_pairs(late, references, 0.02, first)
    assert shifts == [-0.06, -0.06]
    assert counts[:, 0].tolist() == [2] * 4
    assert count_shifted_pairs(late, references, 0.02, ~torch.zeros(4).bool())[1] == [0, -0.06]  # an empty half
