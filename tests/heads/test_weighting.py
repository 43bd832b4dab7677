import pytest
import torch
import torch.nn.functional as F

from sclip.heads import weighting
from sclip.heads.weighting import LayerWeighting
from sclip.padded import Padded


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kept", [torch.float16, torch.float32])
def test_the_sum_and_its_gradient_are_exact_however_states_were_kept(monkeypatch, normalize, kept):
    monkeypatch.setitem(weighting.CHUNK, "cpu", 2 * 4 * 6 * 8)  # two utterances at a time, and one at the end
    states = (torch.randn(5, 4, 6, 8) + 3).to(kept)
    layers = LayerWeighting(4, normalize)
    torch.nn.init.normal_(layers.logits)
    gradient = torch.randn(5, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):  # has no say in it
        found = layers(Padded(states, torch.full((5,), 6))).values
    found.backward(gradient)

    logits = layers.logits.detach().double().requires_grad_()
    exact = states.double()
    exact = F.layer_norm(exact, exact.shape[-1:]) if normalize else exact
    wanted = torch.einsum("l,bltd->btd", logits.softmax(0), exact)
    wanted.backward(gradient.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layers.logits.grad.double(), logits.grad, rtol=1e-5, atol=1e-5)
