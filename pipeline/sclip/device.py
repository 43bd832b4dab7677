"""Where to compute, and in which precision."""

import ctypes
import os
import sys
import textwrap

import torch

from sclip.errors import UserError

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# glibc's mallopt: its numbers for the threshold of trimming, the padding of the heap, and how many blocks to map.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def choose_device(name: str) -> str:
    """`auto`: the first GPU if there is one; of several processes on a machine each has its own. Sets what torch has
    one of for the whole process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: {textwrap.shorten(str(error).splitlines()[0], 200)}") from None
    exact_fp32()
    if device.type == "cpu" and sys.platform == "linux":
        _keep_freed_memory()
    return name


def autocast(device: str | torch.device, precision: str) -> torch.autocast:
    """Compute matrix products in a precision; fp32 changes nothing."""
    return torch.autocast(torch.device(device).type, PRECISIONS[precision], enabled=precision != "fp32")


def exact_fp32() -> None:
    """fp32 means fp32: CUDA's convolutions would take TF32, whose 10 bits of mantissa are fp16's."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _keep_freed_memory() -> None:
    """By default every batch's tensors are given back to the kernel and come back page by page, zeroed: on two cores
    that took a third of a training step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(TOP_PAD, 2**27)
