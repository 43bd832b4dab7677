"""Test ranks and recalls by hand, by sorting, and against the results of the published code."""

import json

import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDEN, load

from sclip.evaluation import retrieval
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.retrieval import chance_recalls, first_ranks, pair_ranks, recalls
from sclip.evaluation.scores import scores


def test_ranks_equal_ranks_by_hand(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 2)  # so that three queries make two blocks
    queries = torch.eye(4)[:3]
    candidates = torch.tensor([[0.9, 0.1, 0.5, 0], [0.8, 0.7, 0.5, 0], [0.1, 0.9, 0.5, 0], [0.2, 0.8, 0.4, 0]])
    ids = torch.tensor([7, 8, 8, 9])
    query_ranks, candidate_ranks = first_ranks(queries, torch.tensor([7, 8, 5]), candidates, ids)
    # 7 is first; the better of the two correct answers with id 8 is first; 5 has no correct answer.
    assert query_ranks.tolist() == [1, 1, 5]
    # 7 is first with 0.9, before 0.5 and 0.1; one 8 is after 0.8, the other is first; 9 has no correct answer.
    assert candidate_ranks.tolist() == [1, 2, 1, 4]
    # For the first query 9 is after the 0.9 of an 8; for the second it is after three scores of 0.5.
    query_ranks, candidate_ranks = first_ranks(queries[1:], torch.tensor([9, 9]), candidates, ids)
    assert query_ranks.tolist() == [2, 4]
    assert candidate_ranks.tolist() == [3, 3, 3, 1]


def test_candidates_with_equal_scores_stay_in_order():
    """A model that gives all inputs the same vector must score at chance, not perfectly."""
    same, ids = torch.ones(50, 4), torch.arange(50)
    for ranks in first_ranks(same, ids, same, ids):
        assert ranks.tolist() == list(range(1, 51))
        assert recalls(ranks) == {1: 2.0, 5: 10.0, 10: 20.0}


def test_the_first_of_the_best_answers_counts_if_their_scores_differ_by_rounding():
    candidates = torch.tensor([[0.5], [0.5 + 1e-7], [0.5 + 2e-7]])
    ranks, _ = pair_ranks(torch.ones(1, 1), candidates, torch.tensor([0, 0]), torch.tensor([0, 2]))
    assert ranks.tolist() == [1]


def test_first_ranks_equal_ranks_by_sorting():
    """Use ids with several, one and no correct answers, and more queries than one block has."""
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(count, 32, generator=generator), dim=-1) for count in (700, 300))
    one_ids, other_ids = (torch.randint(200, (count,), generator=generator) for count in (700, 300))
    sides = ((one, one_ids), (other, other_ids))
    ranks = first_ranks(*sides[0], *sides[1])
    for side_ranks, (queries, ids), (candidates, owners) in zip(ranks, sides, sides[::-1], strict=True):
        ordered = owners[(queries @ candidates.T).argsort(dim=1, descending=True, stable=True)]
        correct = ordered == ids[:, None]
        expected = torch.where(correct.any(1), correct.int().argmax(1) + 1, len(candidates) + 1)
        assert (expected > len(candidates)).any()
        assert torch.equal(side_ranks, expected)


def test_pair_ranks_equal_ranks_by_sorting_for_random_pairs(monkeypatch):
    """Also compare chance recalls with the recalls of random orders, in both directions."""
    monkeypatch.setattr(retrieval, "PAIRS", 100)
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(count, 16, generator=generator), dim=-1) for count in (60, 40))
    pairs = torch.rand(60, 40, generator=generator) < 0.05  # (A, B)
    assert (pairs.sum(0) > 1).any() and (pairs.sum(1) > 1).any() and (pairs.sum(1) == 0).any()
    sides = ((one, other, pairs), (other, one, pairs.T))
    for ranks, (queries, candidates, correct) in zip(pair_ranks(one, other, *pairs.nonzero().T), sides, strict=True):
        order = (queries @ candidates.T).argsort(dim=1, descending=True, stable=True)
        ordered = correct.gather(1, order)
        expected = torch.where(ordered.any(1), ordered.int().argmax(1) + 1, len(candidates) + 1)
        assert torch.equal(ranks, expected)
        orders = torch.rand(4000, 1, len(candidates), generator=generator).argsort(-1).expand(-1, len(queries), -1)
        hits = {
            k: 100 * float(correct.expand_as(orders).gather(2, orders[..., :k]).any(2).double().mean()) for k in (1, 5)
        }
        assert chance_recalls(correct.sum(1), len(candidates), at=(1, 5)) == pytest.approx(hits, abs=0.6)


def test_recalls_are_shares_of_ranks_up_to_k():
    assert recalls(torch.tensor([1, 2, 5, 6, 11])) == {1: 20.0, 5: 60.0, 10: 80.0}


def test_scores_have_mean_and_median_rank():
    estimates = scores(torch.tensor([1, 2, 5, 6, 11]), torch.arange(5), Bootstrap(5, seed=0))
    assert {name: estimate["value"] for name, estimate in estimates.items()} == {
        "R@1": 20, "R@5": 60, "R@10": 80, "mean_rank": 5, "median_rank": 5,
    }  # fmt: skip
    assert all(e["low"] <= e["value"] <= e["high"] for e in estimates.values())


def test_chance_recalls_equal_recalls_of_random_orders():
    """Include queries with several correct answers or none, and fewer candidates than K."""
    queries, candidates = torch.tensor([7, 8, 9, 5]), torch.tensor([8, 7, 8, 9, 8, 9, 1, 2, 3, 4, 6, 0])
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(20_000, len(candidates), generator=generator).argsort(1)
    first = (candidates[orders][:, None] == queries[:, None]).int()  # (S, Q, C)
    ranks = torch.where(first.any(2), first.argmax(2) + 1, len(candidates) + 1)
    answers = (candidates == queries[:, None]).sum(1)
    assert answers.tolist() == [1, 3, 2, 0]
    assert chance_recalls(answers, len(candidates)) == pytest.approx(recalls(ranks), abs=0.6)
    # With one correct of three, R@1 is 1/3; with two it is 2/3; all are among the first five.
    assert chance_recalls(torch.tensor([1, 2]), 3) == pytest.approx({1: 50, 5: 100, 10: 100})
    # With two correct of four, the first two are both wrong with probability 2/4 · 1/3.
    assert chance_recalls(torch.tensor([2]), 4, at=(2,)) == pytest.approx({2: 100 * 5 / 6})


@pytest.mark.golden
@pytest.mark.skipif(not (GOLDEN / "retrieval.safetensors").is_file(), reason="no such file in $SCLIP_GOLDEN")
def test_recalls_equal_the_published_recalls():
    data, meta = load("retrieval.safetensors"), json.loads((GOLDEN / "meta.json").read_text())["retrieval"]
    audio, images = (data["audio"], data["audio_ids"]), (data["image"], data["image_ids"])
    directions = dict(zip(("speech_to_image", "image_to_speech"), first_ranks(*audio, *images), strict=True))
    results = {name: recalls(ranks) for name, ranks in directions.items()}
    results["mean"] = {k: sum(d[k] for d in results.values()) / 2 for k in (1, 5, 10)}
    for name, values in results.items():
        expected = {k: meta[name][f"recall@{k}"] for k in values}
        assert values == pytest.approx(expected, abs=1e-4)
