"""Retrieval between two sets of vectors: the rank of the first right answer, and what follows from it.

A query may have several right answers, and the best of them counts. Which answers are right is a list of pairs, an
index on either side: a picture has several utterances, a text may describe several pictures. A rank is one more than
how many candidates stand before that answer, counted over blocks of queries, so memory stays bounded and nothing is
sorted. Equal scores, or unequal by rounding alone, keep the candidates' order, as in a stable sort: vectors that are
all the same retrieve at chance, in whatever batches they were computed.
"""

import torch
from torch import Tensor

from sclip.evaluation.bootstrap import Bootstrap, Estimate

ROUNDING = 1e-6  # of scores: the same keywords give vectors that differ by less from batch to batch
BLOCK = 256  # queries at a time
PAIRS = 4096  # right answers at a time
AT = (1, 5, 10)


def first_ranks(one: Tensor, one_ids: Tensor, other: Tensor, other_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return `pair_ranks` where right answers are those of the same id: (A, D), (A,) and (B, D), (B,) -> (A,), (B,)"""
    return pair_ranks(one, other, *pairs_of_equal_ids(one_ids, other_ids))


def pair_ranks(one: Tensor, other: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best rank of any right answer, from 1, for every query of both directions.

    Unit vectors (A, D) and (B, D), and their right pairs (P,), (P,) -> (A,), (B,). A query without a right answer has
    a rank of one more than there are candidates. One product serves both directions.
    """
    blocks = zip(torch.split(mine, PAIRS), torch.split(theirs, PAIRS), strict=True)
    right = torch.cat([(one[m] * other[t]).sum(-1) for m, t in blocks])
    one_best, one_first = _best_answers(len(one), mine, theirs, right)
    other_best, other_first = _best_answers(len(other), theirs, mine, right)
    one_places, other_places = (torch.arange(len(side), device=one.device) for side in (one, other))
    one_ranks, other_ranks = torch.ones_like(one_places), torch.ones_like(other_places)
    for start in range(0, len(one), BLOCK):
        block = slice(start, start + BLOCK)
        scores = one[block] @ other.T  # (a, B)
        one_ranks[block] += _before(scores, one_best[block, None], one_first[block, None], other_places).sum(1)
        other_ranks += _before(scores, other_best, other_first, one_places[block, None]).sum(0)
    return one_ranks, other_ranks


def pairs_of_equal_ids(one_ids: Tensor, other_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices on either side of all pairs that share an id: (A,), (B,) -> (P,), (P,)"""
    ordered, order = other_ids.sort()
    begins, ends = torch.searchsorted(ordered, one_ids), torch.searchsorted(ordered, one_ids, right=True)
    counts = ends - begins
    mine = torch.arange(len(one_ids), device=counts.device).repeat_interleave(counts)
    within = torch.arange(len(mine), device=counts.device) - (counts.cumsum(0) - counts)[mine]
    return mine, order[begins[mine] + within]


def _best_answers(count: int, queries: Tensor, answers: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Right pairs (P,) and their scores -> (count,), (count,): each query's best, and the first place that has it."""
    best = scores.new_full((count,), -torch.inf).scatter_reduce(0, queries, scores, "amax")
    as_good = scores > best[queries] - ROUNDING
    first = answers.new_zeros(count).scatter_reduce(0, queries[as_good], answers[as_good], "amin", include_self=False)
    return best, first


def _before(scores: Tensor, best: Tensor, first: Tensor, places: Tensor) -> Tensor:
    """Which candidates stand before the best right answer: who comes earlier is as good, who comes later is better."""
    return scores > torch.where(places < first, best - ROUNDING, best + ROUNDING)


def recalls(ranks: Tensor, at: tuple[int, ...] = AT) -> dict[int, float]:
    """The share of queries, in %, with a right answer among the first K."""
    return {k: 100 * float((ranks <= k).double().mean()) for k in at}


def chance_recalls(right: Tensor, candidates: int, at: tuple[int, ...] = AT) -> dict[int, float]:
    """Return what `recalls` gives on average when every order of the candidates is equally likely.

    `right` (Q,): how many right answers each query has. The first K of C are all wrong with probability
    (C-r)/C · (C-r-1)/(C-1) · …, where r of them are right.
    """
    drawn = torch.arange(min(max(at), candidates), device=right.device)  # (K,)
    wrong = (candidates - right.double()[:, None] - drawn).clamp(min=0) / (candidates - drawn)  # (Q, K)
    missed = wrong.cumprod(1).mean(0)  # (K,)
    return {k: 100 * (1 - float(missed[min(k, len(missed)) - 1])) for k in at}


def scores(ranks: Tensor, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return recalls in %, mean and median rank, of ranks (Q,) whose queries are resampled by pictures (Q,)."""
    found = {f"R@{k}": bootstrap.mean(100.0 * (ranks <= k), pictures) for k in AT}
    found["mean_rank"] = bootstrap.mean(ranks, pictures)
    found["median_rank"] = bootstrap.median(ranks, pictures)
    return found
