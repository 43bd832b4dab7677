"""Retrieval by speaker and by language, as the manifest names them.

The part `groups` of metrics.json has a table for each of these columns that names at least two groups:

    count     the number of groups
    groups    the largest ones, at most 100; for each its name, the number of its utterances, and for each branch R@1
              and R@10 of speech to image, in %

Each utterance is a query among all pictures of the split, as for the figures of the whole split. Rows without a value
in the column belong to no group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sclip.corpora.rows import Row
from sclip.evaluation.retrieval import recalls

COLUMNS = ("speaker", "language")
MOST_GROUPS = 100
AT = (1, 10)


def group_scores(rows: Sequence[Row], ranks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the table of each column with several groups. `ranks` are those (N,) of speech to image by branch."""
    tables = {column: _table([getattr(row, column) for row in rows], ranks) for column in COLUMNS}
    return {column: table for column, table in tables.items() if table["count"] > 1}


def _table(names: Sequence[str | None], ranks: Mapping[str, Tensor]) -> dict[str, Any]:
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if name is not None:
            members.setdefault(name, []).append(i)
    largest = sorted(members, key=lambda name: (-len(members[name]), name))[:MOST_GROUPS]
    return {"count": len(members), "groups": [_group(name, members[name], ranks) for name in largest]}


def _group(name: str, members: list[int], ranks: Mapping[str, Tensor]) -> dict[str, Any]:
    chosen = torch.tensor(members)
    scores = {
        branch: {f"R@{k}": recall for k, recall in recalls(branch_ranks[chosen], AT).items()}
        for branch, branch_ranks in ranks.items()
    }
    return {"name": name, "utterances": len(members), **scores}
