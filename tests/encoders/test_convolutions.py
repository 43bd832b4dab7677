"""Convolutions with several groups as matrix products give the values of torch's. tests/gpu compares them on a GPU."""

import pytest
import torch
from torch import nn

from sclip.encoders.convolutions import convolve_by_products, speed_up_convolutions


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


def test_a_cpu_still_computes_the_convolution_itself():
    convolution = nn.Conv1d(12, 12, 4, padding=2, groups=4)
    x = torch.randn(2, 12, 9)
    expected = convolution(x)
    speed_up_convolutions(convolution)
    assert torch.equal(convolution(x), expected)
