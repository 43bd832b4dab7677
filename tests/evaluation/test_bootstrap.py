"""Intervals: the same every time, as wide as they should be, and wider where errors come in clusters."""

import pytest
import torch

from sclip.evaluation.bootstrap import RESAMPLES, Bootstrap


def test_intervals_equal_those_by_hand():
    bootstrap = Bootstrap(3, seed=0)
    values, pictures = torch.tensor([1.0, 3.0, 8.0, 100.0]), torch.tensor([0, 0, 2, 1])
    found = bootstrap.mean(values, pictures, counted=torch.tensor([True, True, True, False]))
    assert found["value"] == 4
    # Only the first picture, and only the last one. A draw of the uncounted picture alone has no mean.
    assert (found["low"], found["high"]) == (2, 8)
    assert bootstrap.median(values, pictures)["value"] == 3
    assert bootstrap.median(values[:3], pictures[:3])["value"] == 3
    assert bootstrap.weights.shape == (RESAMPLES, 3)
    assert (bootstrap.weights.sum(1) == 3).all()


def test_weighted_resamples_equal_repeated_rows():
    """Compare with a loop that repeats the rows of every drawn picture."""
    generator = torch.Generator().manual_seed(1)
    bootstrap = Bootstrap(7, seed=3)
    bootstrap.weights = bootstrap.weights[:40]
    values, pictures = torch.randint(50, (30,), generator=generator), torch.arange(30) % 7
    means, medians = [], []
    for weights in bootstrap.weights.long():
        drawn = values.repeat_interleave(weights[pictures]).double()
        means.append(drawn.mean())
        medians.append(drawn.median())
    levels = torch.tensor([0.025, 0.975]).double()
    for found, expected in (
        (bootstrap.mean(values, pictures), torch.stack(means)),
        (bootstrap.median(values, pictures), torch.stack(medians)),
    ):
        assert [found["low"], found["high"]] == pytest.approx(expected.quantile(levels).tolist())


def test_intervals_depend_on_the_seed_alone():
    values, pictures = torch.arange(50.0), torch.arange(50)
    first = Bootstrap(50, seed=0).mean(values, pictures)
    assert Bootstrap(50, seed=0).mean(values, pictures) == first
    assert Bootstrap(50, seed=1).mean(values, pictures) != first


def test_intervals_contain_the_true_mean_in_95_percent_of_samples():
    """Count over 200 samples. Copies of a picture do not change its interval."""
    generator = torch.Generator().manual_seed(0)
    samples, alone = torch.randn(200, 60, generator=generator), torch.arange(60)
    bootstrap = Bootstrap(60, seed=0)
    found = [bootstrap.mean(sample, alone) for sample in samples]
    assert 0.88 < sum(f["low"] < 0 < f["high"] for f in found) / 200 < 0.99
    copies = bootstrap.mean(samples[0].repeat(5), alone.repeat(5))
    assert copies == pytest.approx(found[0])


def test_draws_without_a_counted_value_are_left_out():
    interval = Bootstrap(100, seed=0).mean(torch.tensor([4.0, 4.0, 4.0]), torch.tensor([5, 6, 7]))
    assert interval == {"value": 4, "low": 4, "high": 4}
    nothing = torch.zeros(3, dtype=torch.bool)
    assert Bootstrap(9, seed=0).mean(torch.ones(3), torch.arange(3), nothing) == {"value": 0, "low": 0, "high": 0}
    # Two pictures of which one has no values: in a quarter of the resamples only that one is drawn.
    assert Bootstrap(2, seed=0).median(torch.tensor([5, 7, 9]), torch.zeros(3, dtype=torch.long))["low"] == 7
