"""Integrate-and-fire: properties that hold for all weights, and edge cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sclip.config import CifConfig
from sclip.heads.cif import Cif, integrate_and_fire, slot_weights
from sclip.padded import Padded

MAX_SLOTS = 6
# Sums of sixteenths are not rounded, so some of them equal the threshold exactly.
SIXTEENTHS = st.integers(0, 40).map(lambda n: n / 16)
WEIGHTS = st.one_of(SIXTEENTHS, st.floats(0, 2.5, width=32))


@st.composite
def batches(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw frames (B, T, D) and their weights (B, T), zero for padding. A row may be all padding."""
    rows = draw(st.lists(st.lists(WEIGHTS, max_size=14), min_size=1, max_size=4))
    time = max(1, *map(len, rows)) if rows else 1
    alpha = torch.tensor([row + [0.0] * (time - len(row)) for row in rows], dtype=torch.float32)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return torch.randn(len(rows), time, 3, generator=generator), alpha


def loop_over_frames(frames, alpha, threshold, tail):
    """Integrate one utterance in a loop: frames (T, D), weights (T,) -> the slots, and the frame where each fired."""
    total, held, slots, fired_at = 0.0, [torch.zeros_like(frames[0])], [], []
    weight_held = 0.0 * alpha.sum()
    for t, (x, a) in enumerate(zip(frames, alpha, strict=True)):
        rest = a
        total += float(a.detach())
        while total >= (len(slots) + 1) * threshold:
            taken = threshold - weight_held  # the weight that the open slot is missing
            slots.append(held[-1] + taken * x)
            fired_at.append(t)
            held.append(torch.zeros_like(x))
            rest, weight_held = rest - taken, 0.0 * rest
        held[-1] = held[-1] + rest * x
        weight_held = weight_held + rest
    left = float(weight_held.detach())
    if not slots:
        slots.append(held[-1])
    elif tail is not None and left >= tail:
        slots.append(held[-1] * (threshold / left))
    return slots[:MAX_SLOTS], fired_at


@settings(max_examples=200, deadline=None)
@given(batches(), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([None, 0.5]))
def test_slots_and_gradients_equal_those_of_a_loop(batch, threshold, tail):
    frames, alpha = batch
    if tail is not None:  # rounding decides whether a remainder close to `tail` fires
        left = alpha.double().sum(1) % threshold
        alpha = alpha * ((left - tail).abs() > 1e-4)[:, None]
    frames.requires_grad_()
    alpha.requires_grad_()
    firing = integrate_and_fire(frames, alpha, threshold, MAX_SLOTS, tail)
    expected = [loop_over_frames(x, a, threshold, tail)[0] for x, a in zip(frames, alpha, strict=True)]
    assert firing.slots.lengths.tolist() == [len(slots) for slots in expected]
    probe = torch.randn(MAX_SLOTS, 3, generator=torch.Generator().manual_seed(7))
    loss = expected_loss = 0.0 * (frames.sum() + alpha.sum())
    for actual, slots in zip(firing.slots, expected, strict=True):
        torch.testing.assert_close(actual, torch.stack(slots), rtol=1e-5, atol=1e-5)
        loss = loss + (actual * probe[: len(slots)]).sum()
        expected_loss = expected_loss + (torch.stack(slots) * probe[: len(slots)]).sum()
    if tail is None:  # with a tail, gradients differ: the scale of the remainder is a constant in the loop
        gradients = torch.autograd.grad(loss, [frames, alpha], retain_graph=True)
        for a, b in zip(gradients, torch.autograd.grad(expected_loss, [frames, alpha]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(batches(), st.integers(1, 40))
def test_weights_in_slots_sum_to_alpha(batch, slots):
    """The last row holds the weight that does not fit into the slots, so the columns sum to α."""
    _, alpha = batch
    weights, _ = slot_weights(alpha.double().cumsum(-1), alpha.double(), 1.0, slots)
    torch.testing.assert_close(weights.sum(1), alpha.double(), rtol=0, atol=1e-9)
    assert weights.min() >= -1e-9
    full = weights[:, :-1].sum(-1)
    assert full.max() <= 1 + 1e-9
    counted = alpha.double().sum(1).floor().clamp(max=slots)
    torch.testing.assert_close((full >= 1 - 1e-9).sum(1).double(), counted)


@settings(max_examples=100, deadline=None)
@given(batches(), st.sampled_from([None, 0.5]), st.data())
def test_a_slot_does_not_depend_on_frames_after_its_firing(batch, tail, data):
    frames, alpha = batch
    firing = integrate_and_fire(frames, alpha, 1.0, MAX_SLOTS, tail)
    row = data.draw(st.integers(0, len(frames) - 1))
    fired_at = loop_over_frames(frames[row], alpha[row], 1.0, tail)[1][:MAX_SLOTS]
    if not fired_at:
        return
    slot = data.draw(st.integers(0, len(fired_at) - 1))
    after = fired_at[slot] + 1
    frames, alpha = frames.clone(), alpha.clone()
    frames[row, after:] += 5
    alpha[row, after:] = (alpha[row, after:] + 0.7) % 1
    again = integrate_and_fire(frames, alpha, 1.0, MAX_SLOTS, tail)
    torch.testing.assert_close(again.slots.values[row, slot], firing.slots.values[row, slot])


def fire(alpha: list[float], **options):
    frames = torch.arange(1.0, len(alpha) + 1)[None, :, None]
    return integrate_and_fire(frames, torch.tensor([alpha]), **options)


@pytest.mark.parametrize("tail", [None, 0.5])
def test_one_slot_remains_if_nothing_fires(tail):
    """The slot is the weighted sum of all frames, not scaled."""
    firing = fire([0.25, 0.5, 0.125], tail=tail)
    assert firing.slots.lengths.tolist() == [1]
    assert firing.slots.values.flatten().tolist() == [0.25 + 1.0 + 0.375]
    assert not firing.fired.any()


def test_an_empty_utterance_gives_one_zero_slot():
    frames, alpha = torch.randn(2, 5, 3), torch.tensor([[0.0] * 5, [0.5] * 5]).requires_grad_()
    firing = integrate_and_fire(frames, alpha, tail=0.5)
    assert firing.slots.lengths.tolist() == [1, 3]
    assert firing.slots.values[0].eq(0).all()
    firing.slots.values.sum().backward()
    assert alpha.grad.isfinite().all()


def test_one_frame_gives_one_slot():
    assert fire([0.75], tail=0.5).slots.values.flatten().tolist() == [0.75]
    assert fire([1.0]).slots.values.flatten().tolist() == [1.0]


def test_a_slot_fires_exactly_at_the_threshold():
    """The next slot gets no weight from the frame that makes a slot fire."""
    firing = fire([0.5, 0.5, 0.25, 0.75], tail=0.5)
    assert firing.slots.lengths.tolist() == [2]
    assert firing.fired.tolist() == [[False, True, False, True]]
    assert firing.slots.values.flatten().tolist() == [1.5, 0.25 * 3 + 0.75 * 4]


def test_a_remainder_of_exactly_half_fires_and_is_scaled_up():
    firing = fire([1.0, 0.25, 0.25], tail=0.5)
    assert firing.slots.lengths.tolist() == [2]
    assert firing.slots.values.flatten().tolist() == [1.0, 2 * (0.25 * 2 + 0.25 * 3)]
    assert fire([1.0, 0.25, 0.125], tail=0.5).slots.lengths.tolist() == [1]


def test_the_number_of_slots_is_limited():
    for tail in (None, 0.5):
        firing = fire([0.9] * 100, tail=tail)
        assert firing.slots.lengths.tolist() == [75]
        torch.testing.assert_close(firing.weights.sum(-1), torch.ones(1, 75))
        assert firing.truncated.tolist() == [True]


@pytest.mark.parametrize(("weights", "tail", "truncated"), [(75, None, False), (76, None, True), (75, 0.5, False)])
def test_truncation_is_reported_if_a_slot_does_not_fit(weights, tail, truncated):
    assert fire([1.0] * weights, tail=tail).truncated.tolist() == [truncated]
    assert fire([1.0] * 75 + [0.5], tail=0.5).truncated.tolist() == [True]  # the remainder would fire too
    assert fire([1.0] * 75 + [0.4], tail=0.5).truncated.tolist() == [False]


@pytest.mark.parametrize("tail", [None, 0.5])
def test_nan_weights_give_nan_slots(tail):
    """The training loop can then report that the loss is not finite."""
    assert not fire([0.5, math.nan, 0.5], tail=tail).slots.values.isfinite().all()


def test_the_remainder_in_training_is_stored_but_not_counted():
    alpha = torch.tensor([[1.0, 0.75, 0.0], [1.0, 1.0, 1.0]])
    firing = integrate_and_fire(torch.ones(2, 3, 1), alpha)
    assert firing.slots.lengths.tolist() == [1, 3]
    assert firing.slots.values[0].flatten().tolist() == [1.0, 0.75, 0.0]


def test_long_sums_are_exact():
    """The last slot depends on a thousand weights of 1e-6 after forty full slots. A sum in fp32 would lose them."""
    firing = fire([40.0, *[1e-6] * 1000, 0.9995])
    assert firing.slots.lengths.tolist() == [41]
    assert firing.fired[0].nonzero().flatten().tolist() == [0, 1001]
    # Rounded to fp32, this sum would be 41.
    assert fire([40.0, 0.5, 0.4999999]).slots.lengths.tolist() == [40]


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_scaling_reaches_every_target(threshold):
    """A sum in fp32 would lose the last slot of long utterances. A target of 0 gives one slot, which has not fired."""
    torch.manual_seed(0)
    cif = Cif(4, CifConfig(dropout=0.0, threshold=threshold)).train()
    lengths = torch.tensor([1500, 1499, 1000, 640, 50, 9, 1])
    frames = Padded(torch.randn(len(lengths), 1500, 4), lengths)
    output = cif(frames, step=0)
    assert output.target.tolist() == [75, 75, 50, 32, 2, 0, 0]  # rounded half to even: 50 / 20 gives 2
    assert output.firing.slots.lengths.tolist() == [75, 75, 50, 32, 2, 1, 1]
    assert output.firing.fired.sum(1).tolist() == [75, 75, 50, 32, 2, 0, 0]
    torch.testing.assert_close(output.firing.alpha.sum(1), threshold * output.target + 1e-5, rtol=1e-5, atol=1e-6)
    unscaled = cif(frames, step=5000)
    torch.testing.assert_close(unscaled.firing.alpha.sum(1), unscaled.quantity)


def test_dropout_in_training_comes_once_between_layers_and_twice_before_the_score():
    torch.manual_seed(0)
    cif = Cif(8, CifConfig(layers=2, dropout=0.5)).train()
    for convolution in cif.convolutions:
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.ones_(convolution.bias)
    shares = []  # of numbers that are kept
    for module in (cif.convolutions[1], cif.score):
        module.register_forward_pre_hook(lambda _, inputs: shares.append(float((inputs[0] != 0).double().mean())))
    cif.alpha(Padded(torch.zeros(4, 1000, 8), torch.full((4,), 1000)))
    assert shares == pytest.approx([0.5, 0.25], abs=0.02)


def test_only_convolves_padding_lets_padding_change_weights():
    """If the option is on, as in the published code, the weights of the last frames depend on the padding."""
    torch.manual_seed(0)
    values = torch.randn(1, 12, 4)
    for layers, convolves, differing in ((1, False, []), (2, False, []), (1, True, [7]), (2, True, [6, 7])):
        cif = Cif(4, CifConfig(layers=layers, convolves_padding=convolves)).eval()
        unpadded = cif.alpha(Padded(values[:, :8], torch.tensor([8])))[0].tolist()
        padded = cif.alpha(Padded(values, torch.tensor([8])))[0, :8].tolist()
        assert [t for t in range(8) if not math.isclose(unpadded[t], padded[t], rel_tol=1e-5)] == differing
