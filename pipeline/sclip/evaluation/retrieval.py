"""Retrieval between two sets of vectors: the rank of the first right answer, and what follows from it.

Right answers share an id, and any of them counts: an utterance has one picture, a picture several utterances. A rank
is one more than how many wrong candidates score higher, counted over blocks of queries, so memory stays bounded and
nothing is sorted.
"""

import torch
from torch import Tensor

BLOCK = 1024  # queries at a time


def first_ranks(queries: Tensor, query_ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> Tensor:
    """(Q, D), (Q,), (C, D), (C,) -> (Q,): the best rank of any right answer, from 1; C + 1 where there is none.

    A wrong candidate that scores the same as the best right one does not count against it.
    """
    ranks = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ candidates.T  # (q, C)
        right = query_ids[start : start + BLOCK, None] == candidate_ids
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        rank = ((scores > best) & ~right).sum(1) + 1
        ranks.append(torch.where(right.any(1), rank, len(candidates) + 1))
    return torch.cat(ranks)


def recalls(ranks: Tensor, at: tuple[int, ...] = (1, 5, 10)) -> dict[int, float]:
    """The share of queries, in %, with a right answer among the first K."""
    return {k: 100 * float((ranks <= k).double().mean()) for k in at}
