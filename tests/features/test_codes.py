"""Codes of hidden states: their error, and weighted sums computed from them without decoding."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from sclip.corpora.recordings import Recording
from sclip.errors import Fault, UserError
from sclip.features.codes import Coded, Directions
from sclip.features.directions import _sample
from sclip.heads.weighting import LayerWeighting
from sclip.tensors import write_tensors

FAULTS = (None, None, Fault("silent"))

STATES, WIDTH, TRUE = 4, 12, 10


def frames(count: int, seed: int, noise: float = 0.0) -> torch.Tensor:
    """Return hidden states (N, L, D) of rank ten, with very different scales and with means far from zero."""
    mixing = torch.randn(TRUE, STATES, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    states = torch.einsum("nk,kld->nld", torch.randn(count, TRUE, generator=generator), mixing)
    states += noise * torch.randn(states.shape, generator=generator)
    return (states + 20) * torch.tensor([0.01, 1.0, 3.0, 100.0])[:, None]


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def fitted(components: int = TRUE, normalized: bool = False) -> Directions:
    return Directions.fit(torch.split(frames(3000, seed=1), 700), components, normalized)


def test_ten_codes_suffice_for_states_of_rank_ten():
    directions, new = fitted(), frames(500, seed=2)
    codes = directions.encode(new)
    assert (codes.dtype, codes.shape) == (torch.int8, (500, TRUE))
    error = (directions.decode(codes) - new).square().mean((0, 2)) / new.var((0, 2))
    assert error.max() < 1e-3  # for every state, whatever its scale


def test_codes_lose_only_the_variance_of_the_missing_components():
    states = frames(3000, seed=1, noise=0.1)
    x = ((states - states.mean(0)) / states.var(0).mean(-1).sqrt()[:, None]).flatten(1)
    variances = torch.linalg.svdvals(x).square()
    for components in (3, 6, 20):
        directions = Directions.fit([states], components, normalized=False)
        error = directions.decode(directions.encode(states)) - states
        lost = (error / directions.spread[:, None]).square().sum()
        assert lost / x.square().sum() == pytest.approx(float(variances[components:].sum() / variances.sum()), abs=2e-3)


def test_outliers_have_the_largest_code_of_their_sign():
    directions = Directions.fit([seeded(500, 1, 3)], 3, normalized=False)
    outliers = 100 * directions.unit.view(3, 1, 3)
    for sign in (1, -1):
        codes = directions.encode(directions.mean + sign * outliers)
        assert codes.diagonal().tolist() == [sign * 127] * 3


def test_mean_and_spread_are_of_all_frames_although_the_first_utterance_is_unusual():
    states = seeded(600, 2, 5)
    states[:50] += 30
    directions = Directions.fit(states.split(50), 3, normalized=False)
    torch.testing.assert_close(directions.mean, states.mean(0), rtol=1e-4, atol=1e-4)
    expected = states.var(0, correction=0).mean(-1).sqrt()
    torch.testing.assert_close(directions.spread, expected, rtol=1e-3, atol=1e-3)


def test_spread_of_states_far_from_zero_is_exact():
    states = seeded(600, 2, 5)
    near, far = (Directions.fit(x.split(50), 3, normalized=False).spread for x in (states, states + 1e4))
    torch.testing.assert_close(far, near, rtol=1e-2, atol=0)


def test_a_state_that_never_changes_is_decoded():
    states = seeded(300, 2, 3)
    states[:, 1] = 5
    directions = Directions.fit([states], 3, normalized=False)
    decoded = directions.decode(directions.encode(states))
    torch.testing.assert_close(decoded, states, rtol=0, atol=0.1)


@pytest.mark.parametrize("normalized", [False, True])
def test_stored_directions_are_read_as_they_were_fitted(normalized, tmp_path):
    fit, path = fitted(normalized=normalized), tmp_path / "directions.safetensors"
    write_tensors(path, fit.tensors(), {})
    stored, states = Directions.load(path, normalized), frames(20, seed=2)
    assert stored.normalized == normalized
    assert torch.equal(stored.encode(states), fit.encode(states))


@pytest.mark.parametrize("normalized", [False, True])
def test_weighted_sum_of_codes_and_its_gradient_equal_those_of_the_decoded_states(normalized):
    directions = fitted(TRUE + 2, normalized)
    codes = directions.encode(frames(15, seed=2)).view(3, 5, -1)
    layers, gradient = LayerWeighting(STATES, normalized), torch.randn(3, 5, WIDTH)
    torch.nn.init.normal_(layers.logits)
    summed = layers(Coded(codes, torch.tensor([5, 3, 1]), directions)).values
    summed.backward(gradient)
    logits = layers.logits.detach().clone().requires_grad_()
    states = directions.decode(codes.flatten(0, 1)).view(3, 5, STATES, WIDTH)
    expected = torch.einsum("l,btld->btd", logits.softmax(0), states)
    expected.backward(gradient)
    torch.testing.assert_close(summed, expected, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(layers.logits.grad, logits.grad, rtol=1e-4, atol=1e-2)
    if normalized:
        exact = F.layer_norm(frames(15, seed=2), (WIDTH,))
        assert (states.view(exact.shape) - exact).square().mean() < 0.02 * exact.var()


@pytest.mark.parametrize("pool", [2, 3])
def test_pooled_codes_are_the_means_of_the_frames(pool):
    directions = fitted(TRUE + 2)
    codes = directions.encode(frames(21, seed=2)).view(3, 7, -1)
    coded = Coded(codes, torch.tensor([7, 4, 1]), directions)
    layers, gradient = LayerWeighting(STATES, normalize=False), torch.randn(3, math.ceil(7 / pool), WIDTH)
    torch.nn.init.normal_(layers.logits)
    frames_of = layers(coded).mean_of(pool)
    pooled = layers(coded, pool)
    assert pooled.lengths.tolist() == frames_of.lengths.tolist() == [math.ceil(n / pool) for n in (7, 4, 1)]
    inside = pooled.valid[..., None]
    torch.testing.assert_close(pooled.values * inside, frames_of.values * inside, rtol=1e-4, atol=1e-3)
    found, expected = (
        torch.autograd.grad((frames.values * gradient * inside).sum(), layers.logits) for frames in (pooled, frames_of)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    exact = coded._mean_of(2, torch.float32).values
    assert torch.equal(coded._mean_of(2, torch.bfloat16).values.float(), exact)  # no code is rounded


def test_half_precision_stays_accurate_for_states_with_a_large_mean():
    """The frames are many standard deviations from zero, where bf16 would round by several hundredths of one."""
    directions, layers = fitted(), LayerWeighting(STATES, normalize=False)
    codes = Coded(directions.encode(frames(15, seed=2)).view(3, 5, -1), torch.tensor([5, 5, 5]), directions)
    exact = layers(codes).values
    with torch.autocast("cpu", torch.bfloat16):
        half = layers(codes).values
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)  # the products are in half precision
    assert (half - exact).abs().max() < 0.015 * exact.std((0, 1)).mean()


def test_directions_that_an_evaluation_used_first_can_be_trained_with():
    directions = Directions.fit([frames(300, seed=1)[:, :1]], 5, normalized=False)  # one state, as of MFCCs
    codes = Coded(directions.encode(frames(6, seed=2)[:, :1]).view(2, 3, -1), torch.tensor([3, 2]), directions)
    layers = LayerWeighting(1, normalize=False)
    with torch.inference_mode():
        evaluated = layers(codes).values
        moved = codes.to(torch.device("meta")).directions
    trained = layers(codes).values
    trained.sum().backward()
    assert torch.equal(trained, evaluated)
    assert not any(tensor.is_inference() for tensor in moved.tensors().values())


def test_a_head_that_normalises_states_refuses_codes_of_other_states():
    codes = Coded(torch.zeros(1, 5, TRUE, dtype=torch.int8), torch.tensor([5]), fitted())
    with pytest.raises(UserError, match=r"head.normalize_states is True, but the stored codes were computed with fea"):
        LayerWeighting(STATES, normalize=True)(codes)


def test_directions_are_fitted_to_the_recordings_with_the_smallest_hashes():
    """The sample ends with the recording that completes ten minutes. Equal hashes stay in the manifest's order."""
    choose = random.Random(0)
    for count in (1, 3, 200):
        recordings = [
            Recording(i, f"{choose.randrange(50):064x}", choose.randrange(60 * 16_000), fault=choose.choice(FAULTS))
            for i in range(count)
        ]
        expected, samples = [], 0
        for recording in sorted((r for r in recordings if r.fault is None), key=lambda r: r.hash):
            if samples < 600 * 16_000:
                expected.append(recording)
            samples += recording.samples
        if expected:
            assert _sample(recordings) == expected
    assert len(expected) < 100
