"""Convolutions of speech encoders with several groups, which libraries compute wrongly on some CPUs and slowly on GPUs.

HuBERT's positional convolution is one of them.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip.device import as_autocast


def avoid_wrong_convolutions(model: nn.Module) -> None:
    """Compute some convolutions in fp32, whatever the precision, on CPUs with AMX (Intel's Xeons since 2023).

    Where a convolution has several groups of 2 to 15 channels, oneDNN computes wrong values in bf16 there, without an
    error (torch 2.8 to 2.14). In HuBERT's positional convolution a group has 48 channels or more, and is right. Small
    encoders have fewer.
    """
    for convolution in _grouped(model):
        if convolution.in_channels // convolution.groups < 16:
            convolution.forward = partial(_without_wrong_bf16, convolution.forward)  # type: ignore[method-assign]


def speed_up_convolutions(model: nn.Module) -> None:
    """Compute convolutions with several groups as matrix products on a GPU, where cuDNN is slow.

    In bf16, cuDNN's positional convolution takes as long as all the rest of HuBERT base.
    """
    for convolution in _grouped(model):
        if convolution.stride == convolution.dilation == (1,) and isinstance(convolution.padding, tuple):
            forward = partial(_on_gpu_by_products, convolution, convolution.forward)
            convolution.forward = forward  # type: ignore[method-assign]


def undo_speed_up(model: nn.Module) -> None:
    """Let a GPU compute convolutions as the library does. Benchmarks compare with it."""
    for convolution in _grouped(model):
        forward = convolution.forward
        if isinstance(forward, partial) and forward.func is _on_gpu_by_products:
            convolution.forward = forward.args[1]  # type: ignore[method-assign]


def _grouped(model: nn.Module) -> list[nn.Conv1d]:
    """Return the convolutions that have several groups of several channels."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
    return [module for module in convolutions if module.groups > 1 and module.in_channels > module.groups]


def _without_wrong_bf16(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or not torch.cpu._is_amx_tile_supported():
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())


def _on_gpu_by_products(convolution: nn.Conv1d, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return convolve_by_products(convolution, x) if x.is_cuda else forward(x)


def convolve_by_products(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """Convolve as `convolution` does, with one matrix product for each group: (B, C, T) -> (B, C, T).

    A product needs a copy of each frame's neighbours, which is K times as large as the frames. One group is computed
    after the other, so that only one group's copy is in memory.
    """
    (size,), padding = convolution.kernel_size, convolution.padding
    assert not isinstance(padding, str)
    padded = F.pad(as_autocast(x), (padding[0], padding[0]))
    channels = padded.chunk(convolution.groups, 1)  # each (B, C/G, T')
    weights = as_autocast(convolution.weight).flatten(1).chunk(convolution.groups)  # each (C/G, C/G * K)
    outputs = [
        F.linear(group.unfold(2, size, 1).transpose(1, 2).flatten(2), weight)  # (B, T, C/G)
        for group, weight in zip(channels, weights, strict=True)
    ]
    joined = torch.cat(outputs, 2)
    return (joined if convolution.bias is None else joined + convolution.bias.to(joined.dtype)).mT
