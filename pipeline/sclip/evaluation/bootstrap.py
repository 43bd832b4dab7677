"""95 % confidence intervals by the percentile bootstrap over pictures.

Errors of utterances of one picture are correlated, so whole pictures are drawn, with replacement. Only queries are
drawn; all candidates stay. So nothing is ranked again. Each metric (called a figure here) is a function of sums over
pictures, or a weighted median. One matrix product computes the sums of all resamples, on a GPU if the model is on
one. The same pictures are drawn on every device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sclip.device import WITHOUT_FP64

RESAMPLES = 1000
SEED = 0  # of all random choices of an evaluation, such as which pictures are drawn
LEVELS = (0.025, 0.975)
MEDIAN_BLOCK = 2**22  # weights at a time

Estimate = dict[str, float]  # value, low, high


class Bootstrap:
    def __init__(self, pictures: int, seed: int, device: str | torch.device = "cpu"):
        self.device = torch.device("cpu" if torch.device(device).type in WITHOUT_FP64 else device)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(pictures, (RESAMPLES, pictures), generator=generator, dtype=torch.int32)
        drawn = drawn.to(self.device).long()
        ones = torch.ones_like(drawn, dtype=torch.float64)
        # (R, I): how often each of R resamples draws each picture
        self.weights = torch.zeros_like(ones).scatter_add_(1, drawn, ones)

    def of_sums(self, amounts: Tensor, pictures: Tensor, figure: Callable[[Tensor], Tensor]) -> Estimate:
        """Estimate a figure of sums (..., K) -> (...) from the `amounts` (N, K) to sum and their `pictures` (N,)."""
        return estimate(*self._resample(amounts, pictures, figure))

    def mean(self, values: Tensor, pictures: Tensor, counted: Tensor | None = None) -> Estimate:
        """Estimate the mean of `values` (N,) of `pictures` (N,). `counted` (N,) marks those to include, if not all."""
        return estimate(*self.resampled_mean(values, pictures, counted))

    def resampled_mean(self, values: Tensor, pictures: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean that `mean` estimates, and that of each resample (R,)."""
        counts = torch.ones_like(values, dtype=torch.float64) if counted is None else counted.double()
        amounts = torch.stack([values.double() * counts, counts], 1)
        # 0 / 0 is not a number: a resample that draws none of the values that count has no mean.
        return self._resample(amounts, pictures, lambda sums: sums[..., 0] / sums[..., 1])

    def _resample(self, amounts: Tensor, pictures: Tensor, figure: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the figure of all pictures, and that of each resample (R,)."""
        sums = self.weights.new_zeros(self.weights.shape[1], amounts.shape[1])
        sums.index_add_(0, pictures.to(self.device), amounts.to(self.device).double())
        return figure(sums.sum(0)), figure(self.weights @ sums)

    def median(self, values: Tensor, pictures: Tensor) -> Estimate:
        """Estimate the median: the smallest value that at least half of the values do not exceed."""
        ordered, order = values.to(self.device).double().sort()
        owners = pictures.to(self.device)[order]

        def medians(weights: Tensor) -> Tensor:  # (R, I) -> (R,)
            reached = weights[:, owners].cumsum(1)  # (R, N)
            median = ordered[(reached < reached[:, -1:] / 2).sum(1)]
            return torch.where(reached[:, -1] > 0, median, torch.nan)  # a resample may draw none of the values

        blocks = torch.split(self.weights, max(1, MEDIAN_BLOCK // len(values)))
        everything = torch.ones_like(self.weights[:1])
        return estimate(medians(everything)[0], torch.cat([medians(block) for block in blocks]))


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where `whole` is 0."""
    return torch.where(whole > 0, part / whole.clamp(min=1e-12), 0.0)


def estimate(value: Tensor, resampled: Tensor) -> Estimate:
    """Return a figure with the 95 % interval of its resampled values (R,). Those that are not numbers do not count."""
    resampled = resampled.cpu()
    low, high = resampled.nanquantile(resampled.new_tensor(LEVELS)).nan_to_num(0).tolist()
    return {"value": float(value.nan_to_num(0)), "low": low, "high": high}
