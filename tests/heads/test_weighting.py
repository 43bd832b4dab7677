import pytest
import torch
import torch.nn.functional as F

from sclip.heads import weighting
from sclip.heads.weighting import LayerWeighting
from sclip.padded import Padded


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_the_sum_and_its_gradient_are_exact_for_every_stored_precision(monkeypatch, normalize, stored):
    monkeypatch.setitem(weighting.CHUNK, "cpu", 2 * 4 * 6 * 8)  # chunks of two, two and one utterances
    states = (torch.randn(5, 4, 6, 8) + 3).to(stored)
    layers = LayerWeighting(4, normalize)
    torch.nn.init.normal_(layers.logits)
    gradient = torch.randn(5, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):  # must not change the precision
        summed = layers(Padded(states, torch.full((5,), 6))).values
    summed.backward(gradient)

    logits = layers.logits.detach().double().requires_grad_()
    exact = states.double()
    exact = F.layer_norm(exact, exact.shape[-1:]) if normalize else exact
    expected = torch.einsum("l,bltd->btd", logits.softmax(0), exact)
    expected.backward(gradient.double())
    assert summed.dtype == torch.float32
    torch.testing.assert_close(summed.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layers.logits.grad.double(), logits.grad, rtol=1e-5, atol=1e-5)


def test_all_states_have_the_same_weight_at_the_start():
    assert LayerWeighting(4, normalize=False).weights().tolist() == [0.25] * 4


def test_pooling_averages_neighbouring_frames_of_the_sum():
    states = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    layers = LayerWeighting(4, normalize=False)
    pooled = layers(Padded(states, torch.tensor([5, 3])), pool=2)
    assert pooled.lengths.tolist() == [3, 2]
    torch.testing.assert_close(pooled.values[:, 0], states[:, :, :2].mean((1, 2)))
