"""The layer at its own tokens gives what the whole layer gives there, for a fraction of the work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sclip.config import AttentionConfig
from sclip.heads.attention import AttentionLayer
from sclip.padded import Padded

LENGTHS = torch.tensor([30, 1, 17])


def layer_and_input(tokens: int, heads: int, feed_forward: float, width: int = 48):
    torch.manual_seed(0)
    layer = AttentionLayer(width, AttentionConfig(heads, feed_forward, dropout=0.1)).eval()
    torch.nn.init.normal_(layer.qkv.bias)
    torch.nn.init.normal_(layer.out.bias)
    frames = Padded(3 * torch.randn(3, 33, width), LENGTHS)
    return layer, torch.randn(tokens, width), frames


@pytest.mark.parametrize(("tokens", "heads", "feed_forward"), [(1, 8, 4.0), (8, 1, 0.0), (9, 1, 0.0), (3, 4, 1.5)])
def test_tokens_alone_are_the_whole_layers(tokens, heads, feed_forward):
    layer, learned, frames = layer_and_input(tokens, heads, feed_forward)
    whole, _ = layer(learned, frames)
    alone = layer.at_tokens(learned, frames)
    assert (alone - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_gradients_are_the_whole_layers():
    layer, learned, frames = layer_and_input(9, 3, 2.0)
    learned.requires_grad_()
    probe = torch.randn(3, 9, 48)
    parameters = [learned, *layer.parameters()]
    whole = torch.autograd.grad((layer(learned, frames)[0] * probe).sum(), parameters)
    alone = torch.autograd.grad((layer.at_tokens(learned, frames) * probe).sum(), parameters)
    for a, b in zip(alone, whole, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_dropout_means_the_same():
    """Dropped weights no longer sum to one: the values' bias must shrink with them."""
    layer, learned, frames = layer_and_input(2, 1, 0.0)
    layer.dropout = 0.5
    layer.norm = torch.nn.Identity()
    many = Padded(frames.values[2:].expand(4000, -1, -1), LENGTHS[2:].expand(4000))
    layer.train()
    whole, alone = layer(learned, many)[0], layer.at_tokens(learned, many)
    for statistic in (torch.mean, torch.std):
        a, b = statistic(alone, 0), statistic(whole, 0)
        assert (a - b).abs().max() < 0.05 * b.abs().max()


@pytest.mark.parametrize(("tokens", "heads", "feed_forward"), [(1, 8, 4.0), (8, 1, 0.0), (9, 1, 0.0)])
def test_a_frame_costs_less_than_a_hundredth(tokens, heads, feed_forward):
    """At the published base sizes. What is left is the tokens' own, a few rows an utterance."""
    layer = AttentionLayer(768, AttentionConfig(heads, feed_forward)).eval()

    def operations(run, time: int) -> int:
        learned, frames = torch.randn(tokens, 768), Padded(torch.randn(2, time, 768), torch.full((2,), time))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(learned, frames)
        return counter.get_total_flops()

    whole, alone = (operations(run, 350) - operations(run, 250) for run in (layer, layer.at_tokens))
    assert whole > 100 * alone, whole / alone


def test_padding_is_not_attended_to():
    layer, learned, frames = layer_and_input(2, 4, 0.0)
    other = Padded(torch.where(frames.valid[..., None], frames.values, 1e3), LENGTHS)
    assert torch.equal(layer.at_tokens(learned, frames), layer.at_tokens(learned, other))
    for a, b in zip(layer(learned, frames)[1], layer(learned, other)[1], strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_utterance_is_finite_without_tokens():
    layer, learned, frames = layer_and_input(0, 1, 0.0)
    _, attended = layer(learned, Padded(frames.values, torch.tensor([30, 0, 17])))
    assert attended.values.isfinite().all()
