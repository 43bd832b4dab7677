"""Score retrieval between two sets of vectors by the rank of the best correct answer.

A query may have several correct answers, because a picture has several utterances and a text may describe several
pictures. The correct answers are given as pairs of indices. The rank of an answer is one plus the number of candidates
that are ranked before it. These are counted over blocks of queries, so memory stays bounded and nothing is sorted.

Candidates with equal scores stay in their order, as in a stable sort. Scores that differ by less than 1e-6, the
rounding of different batches, are equal. So a model that gives all inputs the same vector scores at chance, whatever
the batches were.
"""

import torch
from torch import Tensor

from sclip.device import fp64

ROUNDING = 1e-6  # scores of the same keywords differ by less than this between batches
BLOCK = 256  # queries that are scored together
GPU_SCORES = 2**26  # that a GPU computes together, where many small operations would take long to start
PAIRS = 4096  # correct answers that are scored together
AT = (1, 5, 10)


def first_ranks(one: Tensor, one_ids: Tensor, other: Tensor, other_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best rank of any answer with the query's id: (A, D), (A,) and (B, D), (B,) -> (A,), (B,)"""
    return pair_ranks(one, other, *pairs_of_equal_ids(one_ids, other_ids))


def pair_ranks(one: Tensor, other: Tensor, one_index: Tensor, other_index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best rank, from 1, of any correct answer to each query, in both directions.

    `one` (A, D) and `other` (B, D) are unit vectors, `one_index` (P,) and `other_index` (P,) the correct pairs
    -> (A,), (B,). A query without a correct answer has the number of candidates plus one as its rank. Each product of
    vectors is used for both directions.
    """
    blocks = zip(torch.split(one_index, PAIRS), torch.split(other_index, PAIRS), strict=True)
    pair_scores = torch.cat([(one[i] * other[j]).sum(-1) for i, j in blocks])
    one_best, one_first = _best_answers(len(one), one_index, other_index, pair_scores)
    other_best, other_first = _best_answers(len(other), other_index, one_index, pair_scores)
    one_places, other_places = (torch.arange(len(side), device=one.device) for side in (one, other))
    one_ranks, other_ranks = torch.ones_like(one_places), torch.ones_like(other_places)
    size = BLOCK if one.device.type == "cpu" else max(BLOCK, GPU_SCORES // max(1, len(other)))
    for start in range(0, len(one), size):
        block = slice(start, start + size)
        scores = one[block] @ other.T  # (a, B)
        one_ranks[block] += _ranked_before(scores, one_best[block, None], one_first[block, None], other_places).sum(1)
        other_ranks += _ranked_before(scores, other_best, other_first, one_places[block, None]).sum(0)
    return one_ranks, other_ranks


def pairs_of_equal_ids(one_ids: Tensor, other_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of all pairs that have the same id: (A,), (B,) -> (P,), (P,)"""
    ordered, order = other_ids.sort()
    starts, stops = torch.searchsorted(ordered, one_ids), torch.searchsorted(ordered, one_ids, right=True)
    counts = stops - starts
    one_index = torch.arange(len(one_ids), device=counts.device).repeat_interleave(counts)
    offsets = torch.arange(len(one_index), device=counts.device) - (counts.cumsum(0) - counts)[one_index]
    return one_index, order[starts[one_index] + offsets]


def _best_answers(count: int, queries: Tensor, answers: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return each query's best score of a correct answer, and the first candidate with this score.

    (P,), (P,), (P,) -> (count,), (count,)
    """
    best = scores.new_full((count,), -torch.inf).scatter_reduce(0, queries, scores, "amax")
    as_good = scores > best[queries] - ROUNDING
    first = answers.new_zeros(count).scatter_reduce(0, queries[as_good], answers[as_good], "amin", include_self=False)
    return best, first


def _ranked_before(scores: Tensor, best: Tensor, first: Tensor, places: Tensor) -> Tensor:
    """Mark the candidates that are ranked before the best correct answer.

    A candidate with an earlier place needs at least the same score, one with a later place needs a higher score.
    """
    return scores > torch.where(places < first, best - ROUNDING, best + ROUNDING)


def recalls(ranks: Tensor, at: tuple[int, ...] = AT) -> dict[int, float]:
    """Return the share of queries, in %, with a correct answer among the first K candidates."""
    return {k: 100 * float(fp64(ranks <= k).mean()) for k in at}


def always_found(pictures: int) -> list[str]:
    """Return the recalls that are 100 % for every model, because there are no more pictures than K."""
    return [f"R@{k}" for k in AT if k >= pictures]


def chance_recalls(answers: Tensor, candidates: int, at: tuple[int, ...] = AT) -> dict[int, float]:
    """Return the expected recalls in % when every order of the candidates is equally likely.

    `answers` (Q,) is the number of correct answers of each query. If r of C candidates are correct, the first K are all
    wrong with probability (C-r)/C · (C-r-1)/(C-1) · …
    """
    drawn = torch.arange(min(max(at), candidates), device=answers.device)  # (K,)
    wrong = (candidates - answers.double()[:, None] - drawn).clamp(min=0) / (candidates - drawn)  # (Q, K)
    missed = wrong.cumprod(1).mean(0)  # (K,)
    return {k: 100 * (1 - float(missed[min(k, len(missed)) - 1])) for k in at}
