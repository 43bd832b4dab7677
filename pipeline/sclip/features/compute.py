"""What extraction and embedding share: pieces of a sequence, and what a precision means."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from sclip.features.store import PRECISIONS

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def precision(device: str | torch.device, compute: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, PRECISIONS[compute], enabled=compute != "fp32")
