"""`at_tokens` gives the same token outputs as the full layer, and costs a fraction of it."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sclip.config import AttentionConfig
from sclip.heads.attention import AttentionLayer, FeedForward, attend_by_products, attend_with_mask
from sclip.padded import Padded, valid_mask

LENGTHS = torch.tensor([30, 1, 17])


def layer_and_input(tokens: int, heads: int, feed_forward: float, width: int = 48):
    torch.manual_seed(0)
    layer = AttentionLayer(width, AttentionConfig(heads, feed_forward, dropout=0.1)).eval()
    torch.nn.init.normal_(layer.qkv.bias)
    torch.nn.init.normal_(layer.out.bias)
    frames = Padded(3 * torch.randn(3, 33, width), LENGTHS)
    return layer, torch.randn(tokens, width), frames


@pytest.mark.parametrize(("tokens", "heads", "feed_forward"), [(1, 8, 4.0), (8, 1, 0.0), (9, 1, 0.0), (3, 4, 1.5)])
def test_at_tokens_equals_the_full_layer(tokens, heads, feed_forward):
    layer, learned_tokens, frames = layer_and_input(tokens, heads, feed_forward)
    full, _ = layer(learned_tokens, frames)
    tokens_only, weights = layer.at_tokens(learned_tokens, frames)
    assert (tokens_only - full).abs().max() <= 1e-5 * full.abs().max()
    assert weights.shape == (3, tokens, 33)
    assert (weights[~frames.valid[:, None].expand_as(weights)] == 0).all()
    assert ((weights.sum(-1) > 0) & (weights.sum(-1) < 1)).all()  # the tokens get the rest


@pytest.mark.parametrize("heads", [1, 4])
def test_products_equal_the_attention_of_torch(heads):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 3, 33, heads, 48, generator=generator).requires_grad_()
    attended = valid_mask(LENGTHS, 33)
    expected = attend_with_mask(query, key, value, attended, dropout=0.0)
    actual = attend_by_products(query, key, value, attended, dropout=0.0)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(expected.shape, generator=generator)
    gradients = [torch.autograd.grad((output * weights).sum(), (query, key, value)) for output in (actual, expected)]
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs)


def test_gradients_of_at_tokens_equal_those_of_the_full_layer():
    layer, learned_tokens, frames = layer_and_input(9, 3, 2.0)
    learned_tokens.requires_grad_()
    probe = torch.randn(3, 9, 48)
    parameters = [learned_tokens, *layer.parameters()]
    full = torch.autograd.grad((layer(learned_tokens, frames)[0] * probe).sum(), parameters)
    tokens_only = torch.autograd.grad((layer.at_tokens(learned_tokens, frames)[0] * probe).sum(), parameters)
    for a, b in zip(tokens_only, full, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_dropout_has_the_same_statistics():
    """After dropout the attention weights do not sum to one, and the bias of the values must be scaled by their sum."""
    layer, learned_tokens, frames = layer_and_input(2, 1, 0.0)
    layer.dropout = 0.5
    layer.norm = torch.nn.Identity()
    many = Padded(frames.values[2:].expand(4000, -1, -1), LENGTHS[2:].expand(4000))
    layer.train()
    full, tokens_only = layer(learned_tokens, many)[0], layer.at_tokens(learned_tokens, many)[0]
    for statistic in (torch.mean, torch.std):
        a, b = statistic(tokens_only, 0), statistic(full, 0)
        assert (a - b).abs().max() < 0.05 * b.abs().max()


@pytest.mark.parametrize("run", [AttentionLayer.forward, AttentionLayer.at_tokens])
def test_training_drops_outputs_of_the_attention_before_the_feed_forward_part(run):
    torch.manual_seed(0)
    layer = AttentionLayer(50, AttentionConfig(heads=1, feed_forward=1.0, dropout=0.5))
    layer.norm = layer.feed_forward.norm = layer.feed_forward.last_norm = torch.nn.Identity()
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(layer.out.bias)
    tokens, _ = run(layer, torch.zeros(40, 50), Padded(torch.zeros(3, 2, 50), torch.tensor([2, 2, 2])))
    assert tokens.unique().tolist() == [0, 2]
    assert float((tokens != 0).double().mean()) == pytest.approx(0.5, abs=0.05)


def test_training_drops_numbers_inside_and_after_the_feed_forward_part():
    torch.manual_seed(0)
    part = FeedForward(50, AttentionConfig(heads=1, feed_forward=1.0, dropout=0.5))
    part.norm = part.last_norm = torch.nn.Identity()
    for parameter in part.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(part.up.bias, 9)
    torch.nn.init.eye_(part.down.weight)
    outputs = part(torch.zeros(200, 50))
    assert outputs.unique().tolist() == [0, 4 * 9]
    assert float((outputs != 0).double().mean()) == pytest.approx(0.25, abs=0.03)


def test_attention_starts_with_the_published_distribution():
    """As in torch's MultiheadAttention, queries, keys and values are drawn together, and biases are zero."""
    torch.manual_seed(0)
    layer = AttentionLayer(64, AttentionConfig(heads=4))
    bound = math.sqrt(6 / (64 + 3 * 64))
    assert 0.99 * bound < layer.qkv.weight.abs().max() <= bound
    assert not layer.qkv.bias.any() and not layer.out.bias.any()


@pytest.mark.parametrize(("tokens", "heads", "feed_forward"), [(1, 8, 4.0), (8, 1, 0.0), (9, 1, 0.0)])
def test_a_frame_costs_at_tokens_less_than_a_hundredth(tokens, heads, feed_forward):
    """Compare the operations per frame at the sizes of the published base models."""
    layer = AttentionLayer(768, AttentionConfig(heads, feed_forward)).eval()

    def operations(run, time: int) -> int:
        learned_tokens, frames = torch.randn(tokens, 768), Padded(torch.randn(2, time, 768), torch.full((2,), time))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(learned_tokens, frames)
        return counter.get_total_flops()

    full, tokens_only = (operations(run, 350) - operations(run, 250) for run in (layer, layer.at_tokens))
    assert full > 100 * tokens_only, full / tokens_only


def test_padding_is_not_attended_to():
    layer, learned_tokens, frames = layer_and_input(2, 4, 0.0)
    other = Padded(torch.where(frames.valid[..., None], frames.values, 1e3), LENGTHS)
    assert torch.equal(layer.at_tokens(learned_tokens, frames)[0], layer.at_tokens(learned_tokens, other)[0])
    for a, b in zip(layer(learned_tokens, frames)[1], layer(learned_tokens, other)[1], strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_utterance_gives_finite_frames_without_tokens():
    layer, learned_tokens, frames = layer_and_input(0, 1, 0.0)
    _, attended = layer(learned_tokens, Padded(frames.values, torch.tensor([30, 0, 17])))
    assert attended.values.isfinite().all()
