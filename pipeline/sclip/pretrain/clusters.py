"""k-means clustering, and the purity of clusters."""

import torch
from torch import Tensor

ROUNDS = 30


def cluster(points: Tensor, count: int) -> Tensor:
    """Compute cluster centres with Lloyd's algorithm: (N, D) -> (count, D).

    The first centres are random points. A centre without points is replaced by another random point.
    """
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count].to(points.device)].clone()
    for _ in range(ROUNDS):
        nearest = assign(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=len(centres))
        empty = counts == 0
        centres = sums / counts.clamp(min=1)[:, None]
        others = torch.randint(len(points), (int(empty.sum()),), generator=generator)
        centres[empty] = points[others.to(points.device)]
    return centres


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """Return the number of each point's nearest centre: (N, D), (K, D) -> (N,)."""
    return torch.cat(
        [(centres.square().sum(1) - 2 * part @ centres.T).argmin(1) for part in torch.split(points, 50_000)]
    )


def purity(clusters: Tensor, classes: Tensor) -> float:
    """Return the share of points whose class is the most frequent one of their cluster."""
    table = torch.zeros(int(clusters.max()) + 1, int(classes.max()) + 1)
    table.index_put_((clusters, classes), torch.ones(len(clusters)), accumulate=True)
    return float(table.amax(1).sum() / len(clusters))
