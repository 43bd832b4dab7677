"""The figures of a direction of retrieval in metrics.json, with intervals.

Training does not import this module. A new figure here changes no trained model.
"""

from torch import Tensor

from sclip.evaluation.bootstrap import Bootstrap, Estimate
from sclip.evaluation.retrieval import AT


def scores(ranks: Tensor, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Return recalls in %, mean rank and median rank for `ranks` (Q,), with intervals over `pictures` (Q,)."""
    estimates = {f"R@{k}": bootstrap.mean(100.0 * (ranks <= k), pictures) for k in AT}
    estimates["mean_rank"] = bootstrap.mean(ranks, pictures)
    estimates["median_rank"] = bootstrap.median(ranks, pictures)
    return estimates
