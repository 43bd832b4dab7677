"""What extraction and embedding share: pieces of a sequence, and what a precision means."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch

from sclip.features.store import PRECISIONS

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


@contextmanager
def precision(device: str | torch.device, compute: str) -> Iterator[None]:
    kind = torch.device(device).type
    # Threads that compute beside each other on a CPU must not set what is one for all.
    exact = exact_fp32() if kind == "cuda" else nullcontext()
    with exact, torch.autocast(kind, PRECISIONS[compute], enabled=compute != "fp32"):
        yield


@contextmanager
def exact_fp32() -> Iterator[None]:
    """fp32 means fp32: CUDA's convolutions would take TF32, whose 10 bits of mantissa are fp16's."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
