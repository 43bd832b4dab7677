"""Retrieval between two sets of vectors: the rank of the first right answer, and what follows from it.

Right answers share an id, and any of them counts: an utterance has one picture, a picture several utterances. A rank
is one more than how many candidates stand before that answer, counted over blocks of queries, so memory stays
bounded and nothing is sorted. Equal scores keep the candidates' order, as in a stable sort: vectors that are all the
same retrieve at chance.
"""

import torch
from torch import Tensor

BLOCK = 1024  # queries at a time


def first_ranks(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> Tensor:
    """(Q, D), (Q,), (C, D), (C,) -> (Q,): the best rank of any right answer, from 1; C + 1 where there is none."""
    ranks = []
    order = torch.arange(len(candidates), device=candidates.device)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ candidates.T  # (q, C)
        right = query_ids[start : start + BLOCK, None] == candidate_ids
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        first = (right & (scores == best)).int().argmax(1, keepdim=True)  # the first of the best right answers
        before = (scores > best) | ((scores == best) & (order < first))
        ranks.append(torch.where(right.any(1), before.sum(1) + 1, len(candidates) + 1))
    return torch.cat(ranks)


def recalls(ranks: Tensor, at: tuple[int, ...] = (1, 5, 10)) -> dict[int, float]:
    """The share of queries, in %, with a right answer among the first K."""
    return {k: 100 * float((ranks <= k).double().mean()) for k in at}
