"""Ranks and recalls, worked out by hand and against the published code's."""

import json

import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDEN, load

from sclip.evaluation import retrieval
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.retrieval import chance_recalls, first_ranks, pair_ranks, recalls, scores


def test_ranks_by_hand(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 2)  # so that three queries make two blocks
    queries = torch.eye(4)[:3]
    candidates = torch.tensor([[0.9, 0.1, 0.5, 0], [0.8, 0.7, 0.5, 0], [0.1, 0.9, 0.5, 0], [0.2, 0.8, 0.4, 0]])
    ids = torch.tensor([7, 8, 8, 9])
    there, back = first_ranks(queries, torch.tensor([7, 8, 5]), candidates, ids)
    # 7 is first; of the two right answers 8 the better is first, the other does not count; 5 has none.
    assert there.tolist() == [1, 1, 5]
    # 7 is first of 0.9, 0.1 and 0.5; one 8 is behind 0.8, the other first; 9 has none.
    assert back.tolist() == [1, 2, 1, 4]
    # 9 is behind 0.9 of 8, and behind all three that score 0.5 of another's query.
    there, back = first_ranks(queries[1:], torch.tensor([9, 9]), candidates, ids)
    assert there.tolist() == [2, 4]
    assert back.tolist() == [3, 3, 3, 1]


def test_equal_scores_keep_their_order():
    """A head that says the same of everything is at chance, not perfect."""
    same, ids = torch.ones(50, 4), torch.arange(50)
    for ranks in first_ranks(same, ids, same, ids):
        assert ranks.tolist() == list(range(1, 51))
        assert recalls(ranks) == {1: 2.0, 5: 10.0, 10: 20.0}


def test_is_what_sorting_finds():
    """Any answer whose id is right, few of many or none; products in other blocks than the sorted ones'."""
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(count, 32, generator=generator), dim=-1) for count in (700, 300))
    one_ids, other_ids = (torch.randint(200, (count,), generator=generator) for count in (700, 300))
    sides = ((one, one_ids), (other, other_ids))
    ranks = first_ranks(*sides[0], *sides[1])
    for found, (queries, ids), (candidates, owners) in zip(ranks, sides, sides[::-1], strict=True):
        ordered = owners[(queries @ candidates.T).argsort(dim=1, descending=True, stable=True)]
        right = ordered == ids[:, None]
        expected = torch.where(right.any(1), right.int().argmax(1) + 1, len(candidates) + 1)
        assert (expected > len(candidates)).any()
        assert torch.equal(found, expected)


def test_right_answers_may_be_shared(monkeypatch):
    """Any relation of queries and answers, in both directions: ranks are what sorting finds, chance what it gives."""
    monkeypatch.setattr(retrieval, "PAIRS", 100)
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(count, 16, generator=generator), dim=-1) for count in (60, 40))
    right = torch.rand(60, 40, generator=generator) < 0.05  # (A, B)
    assert (right.sum(0) > 1).any() and (right.sum(1) > 1).any() and (right.sum(1) == 0).any()
    sides = ((one, other, right), (other, one, right.T))
    for ranks, (queries, candidates, wanted) in zip(pair_ranks(one, other, *right.nonzero().T), sides, strict=True):
        order = (queries @ candidates.T).argsort(dim=1, descending=True, stable=True)
        ordered = wanted.gather(1, order)
        expected = torch.where(ordered.any(1), ordered.int().argmax(1) + 1, len(candidates) + 1)
        assert torch.equal(ranks, expected)
        orders = torch.rand(4000, 1, len(candidates), generator=generator).argsort(-1).expand(-1, len(queries), -1)
        hits = {
            k: 100 * float(wanted.expand_as(orders).gather(2, orders[..., :k]).any(2).double().mean()) for k in (1, 5)
        }
        assert chance_recalls(wanted.sum(1), len(candidates), at=(1, 5)) == pytest.approx(hits, abs=0.6)


def test_recalls():
    assert recalls(torch.tensor([1, 2, 5, 6, 11])) == {1: 20.0, 5: 60.0, 10: 80.0}


def test_mean_and_median_rank():
    found = scores(torch.tensor([1, 2, 5, 6, 11]), torch.arange(5), Bootstrap(5, seed=0))
    assert {name: estimate["value"] for name, estimate in found.items()} == {
        "R@1": 20, "R@5": 60, "R@10": 80, "mean_rank": 5, "median_rank": 5,
    }  # fmt: skip
    assert all(e["low"] <= e["value"] <= e["high"] for e in found.values())


def test_chance_is_what_random_orders_give():
    """Also where a query has several right answers, or none, or there are fewer candidates than K."""
    queries, candidates = torch.tensor([7, 8, 9, 5]), torch.tensor([8, 7, 8, 9, 8, 9, 1, 2, 3, 4, 6, 0])
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(20_000, len(candidates), generator=generator).argsort(1)
    first = (candidates[orders][:, None] == queries[:, None]).int()  # (S, Q, C)
    ranks = torch.where(first.any(2), first.argmax(2) + 1, len(candidates) + 1)
    right = (candidates == queries[:, None]).sum(1)
    assert right.tolist() == [1, 3, 2, 0]
    assert chance_recalls(right, len(candidates)) == pytest.approx(recalls(ranks), abs=0.6)
    # One of three is right: 1/3 are first; two of three: 2/3; all are among the first five.
    assert chance_recalls(torch.tensor([1, 2]), 3) == pytest.approx({1: 50, 5: 100, 10: 100})
    # Two right answers of four, both wrong: 2/4 · 1/3.
    assert chance_recalls(torch.tensor([2]), 4, at=(2,)) == pytest.approx({2: 100 * 5 / 6})


@pytest.mark.golden
@pytest.mark.skipif(not (GOLDEN / "retrieval.safetensors").is_file(), reason="no such file in $SCLIP_GOLDEN")
def test_recalls_are_the_published_ones():
    data, meta = load("retrieval.safetensors"), json.loads((GOLDEN / "meta.json").read_text())["retrieval"]
    audio, images = (data["audio"], data["audio_ids"]), (data["image"], data["image_ids"])
    directions = dict(zip(("speech_to_image", "image_to_speech"), first_ranks(*audio, *images), strict=True))
    found = {name: recalls(ranks) for name, ranks in directions.items()}
    found["mean"] = {k: sum(d[k] for d in found.values()) / 2 for k in (1, 5, 10)}
    for name, values in found.items():
        expected = {k: meta[name][f"recall@{k}"] for k in values}
        assert values == pytest.approx(expected, abs=1e-4)
