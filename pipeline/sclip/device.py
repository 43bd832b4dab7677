"""Choice of the device and of the precision."""

import ctypes
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sclip.errors import UserError

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
AMPERE = (8, 0)  # the first of NVIDIA's compute capabilities with instructions for bf16
WITHOUT_FP64 = {"mps"}  # types of devices; mps are Apple's GPUs
# Option numbers of glibc's mallopt.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def choose_device(name: str) -> str:
    """Check a device and configure torch and the allocator of this process for it; return the device's name.

    `auto` means `cuda` if there is a GPU, else `cpu`. `cuda` means the GPU whose number is LOCAL_RANK, so that each
    process of a machine gets its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = check_device(name, "--device")
    configure_cuda()
    if device.type == "cpu" and sys.platform == "linux":
        _keep_freed_memory()
    return name


def check_device(name: str | torch.device, option: str = "device") -> torch.device:
    """Return a device, or raise an error if this machine does not have it. `option` is what chose it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error).splitlines()[0], 200).rstrip(".")
        raise UserError(f"{option} {name}: {reason}; use {option} cpu") from None
    return device


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """Return a context in which matrix products use a precision; fp32 changes nothing.

    On a device without instructions for bf16, bf16 changes nothing either, because torch imitates them slowly. It takes
    up to ten times as long as in fp32 on a CPU.
    """
    device = torch.device(device)
    return torch.autocast(device.type, PRECISIONS[precision], enabled=_is_lowered(device, precision))


def _is_lowered(device: torch.device, precision: str) -> bool:
    return precision != "fp32" and (precision != "bf16" or computes_bf16(device))


@contextmanager
def weights_cast_once(module: nn.Module, device: str | torch.device, precision: str) -> Iterator[None]:
    """Cast the weights of a frozen module's linear layers and convolutions to what `autocast` computes with.

    The results are the same. Without this, `autocast` casts every weight again in every batch, and for HuBERT base on a
    GPU a fifth of a batch's kernels are such casts. At the end the module has its own weights again. Convolutions with
    several groups keep theirs, because encoders/convolutions.py computes some of them in fp32.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv1d)]
    ungrouped = [layer for layer in layers if getattr(layer, "groups", 1) == 1]
    weights = [weight for layer in ungrouped for weight in layer.parameters(recurse=False)]
    own = [weight.data for weight in weights]
    if _is_lowered(torch.device(device), precision):
        for weight in weights:
            weight.data = weight.data.to(PRECISIONS[precision])
    try:
        yield
    finally:
        for weight, data in zip(weights, own, strict=True):
            weight.data = data


def as_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the precision that matrix products are computed in at the moment."""
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16.

    NVIDIA's GPUs have them since Ampere. ARM's CPUs do not count.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the CPU and of a device.

    torch.manual_seed does so too, but it also formats a stack trace for each kind of device that is not in use. That
    takes as long as launching ten kernels, and in a training step the GPU would wait for it.
    """
    if device.type == "cuda":
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)
    else:
        torch.manual_seed(seed)


def fp64(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in fp64, on its own device or, if the device has no fp64, on the CPU."""
    return (tensor.cpu() if tensor.device.type in WITHOUT_FP64 else tensor).double()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device. The CPU does not wait for a GPU, which reads pinned memory on its own."""
    return pin(tensor, device).to(device, non_blocking=_has_own_memory(device))


def pin(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to pinned memory, if `device` is a GPU that reads it. A pinned one is returned as is."""
    return tensor.pin_memory() if tensor.device.type == "cpu" and _has_own_memory(device) else tensor


def _has_own_memory(device: torch.device) -> bool:
    return device.type not in ("cpu", *WITHOUT_FP64)  # Apple's GPUs share the CPU's memory


def configure_cuda() -> None:
    """Turn off TF32 and cuDNN's attention in this process.

    Convolutions use TF32 by default, and its mantissa has 10 bits, like that of fp16. cuDNN's attention rounds dropout
    to multiples of 1/16 in some kernels (pytorch/pytorch#174245). It also prepares an execution plan for each new shape
    of a batch, and nearly every batch of recordings has a shape of its own.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def _keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the kernel.

    By default the memory of every batch is returned, and the kernel maps and zeroes new pages for the next one. On two
    cores that took a third of a training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(TOP_PAD, 2**27)


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """Use plain matrix products for attention on a CPU, where torch's fused attention is slower, above all backward.

    By default torch computes these products in fp32 whatever the precision is, so lower precision is allowed here.
    """
    if device.type != "cpu":
        yield
        return
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)  # the default
