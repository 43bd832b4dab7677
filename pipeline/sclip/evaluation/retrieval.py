"""Retrieval between two sets of vectors: the rank of the first right answer, and what follows from it.

Right answers share an id, and any of them counts: an utterance has one picture, a picture several utterances. A rank
is one more than how many candidates stand before that answer, counted over blocks of queries, so memory stays
bounded and nothing is sorted. Equal scores, or unequal by rounding alone, keep the candidates' order, as in a stable
sort: vectors that are all the same retrieve at chance, in whatever batches they were computed.
"""

import torch
from torch import Tensor

from sclip.evaluation.bootstrap import Bootstrap, Estimate

ROUNDING = 1e-6  # of scores: the same keywords give vectors that differ by less from batch to batch
BLOCK = 1024  # queries at a time
AT = (1, 5, 10)


def first_ranks(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> Tensor:
    """(Q, D), (Q,), (C, D), (C,) -> (Q,): the best rank of any right answer, from 1; C + 1 where there is none."""
    ranks = []
    order = torch.arange(len(candidates), device=candidates.device)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ candidates.T  # (q, C)
        right = query_ids[start : start + BLOCK, None] == candidate_ids
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        first = (right & (scores >= best - ROUNDING)).int().argmax(1, keepdim=True)  # of the best right answers
        before = (scores > best + ROUNDING) | ((scores >= best - ROUNDING) & (order < first))
        ranks.append(torch.where(right.any(1), before.sum(1) + 1, len(candidates) + 1))
    return torch.cat(ranks)


def recalls(ranks: Tensor, at: tuple[int, ...] = AT) -> dict[int, float]:
    """The share of queries, in %, with a right answer among the first K."""
    return {k: 100 * float((ranks <= k).double().mean()) for k in at}


def chance_recalls(query_ids: Tensor, candidate_ids: Tensor, at: tuple[int, ...] = AT) -> dict[int, float]:
    """What `recalls` gives on average when every order of the candidates is as likely.

    All of the first K of C are wrong with probability (C-r)/C · (C-r-1)/(C-1) · …, where r of them are right.
    """
    ids, counts = torch.unique(candidate_ids, return_counts=True)
    place = torch.searchsorted(ids, query_ids).clamp(max=len(ids) - 1)
    right = torch.where(ids[place] == query_ids, counts[place], 0).double()[:, None]  # (Q, 1)
    drawn = torch.arange(min(max(at), len(candidate_ids)), device=right.device)  # (K,)
    wrong = (len(candidate_ids) - right - drawn).clamp(min=0) / (len(candidate_ids) - drawn)  # (Q, K)
    missed = wrong.cumprod(1).mean(0)  # (K,)
    return {k: 100 * (1 - float(missed[min(k, len(missed)) - 1])) for k in at}


def scores(ranks: Tensor, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Ranks (Q,) and their queries' pictures (Q,) -> recalls in %, mean and median rank"""
    found = {f"R@{k}": bootstrap.mean(100.0 * (ranks <= k), pictures) for k in AT}
    found["mean_rank"] = bootstrap.mean(ranks, pictures)
    found["median_rank"] = bootstrap.median(ranks, pictures)
    return found
