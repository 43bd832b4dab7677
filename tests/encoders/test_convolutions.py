"""Convolutions with several groups as matrix products give the values of torch's. tests/gpu compares them on a GPU."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sclip.encoders.convolutions import convolve_by_products, speed_up_convolutions, undo_speed_up


@pytest.mark.parametrize(("size", "bias"), [(8, True), (3, False)])
def test_products_equal_the_convolution(size, bias):
    torch.manual_seed(0)
    convolution = nn.Conv1d(12, 12, size, padding=size // 2, groups=4, bias=bias)
    x = torch.randn(3, 12, 17)
    torch.testing.assert_close(convolve_by_products(convolution, x), convolution(x))
    with torch.autocast("cpu", torch.bfloat16):
        in_half = convolve_by_products(convolution, x)
    assert in_half.dtype == torch.bfloat16
    torch.testing.assert_close(in_half.float(), convolution(x), atol=0.05, rtol=0.05)


def test_only_a_gpu_computes_products(monkeypatch):
    convolution = nn.Conv1d(12, 12, 4, padding=2, groups=4)
    on_cpu, on_gpu = torch.randn(2, 12, 9), SimpleNamespace(is_cuda=True)
    speed_up_convolutions(convolution)
    monkeypatch.setattr("sclip.encoders.convolutions.convolve_by_products", lambda *arguments: arguments)
    assert convolution.forward(on_gpu) == (convolution, on_gpu)
    assert torch.equal(convolution(on_cpu), nn.Conv1d.forward(convolution, on_cpu))
    copied = copy.deepcopy(convolution)
    undo_speed_up(copied)
    assert copied.forward.__self__ is copied
    assert convolution.forward(on_gpu) == (convolution, on_gpu)
