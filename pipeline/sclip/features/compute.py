"""What extraction and embedding share: reading ahead of the encoder, and what a precision means."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from sclip.features.store import PRECISIONS

T = TypeVar("T")
R = TypeVar("R")
READERS = 8  # threads
AHEAD = 3  # batches being read while one is computed


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def read_ahead(batches: Iterable[Sequence[T]], read: Callable[[T], R]) -> Iterator[tuple[Sequence[T], list[R]]]:
    """Each batch with what `read` makes of its items, in order; never more than a few batches in memory."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Sequence[T], list[Future[R]]]] = deque()
        for batch in batches:
            waiting.append((batch, [pool.submit(read, item) for item in batch]))
            if len(waiting) > AHEAD:
                batch, futures = waiting.popleft()
                yield batch, [future.result() for future in futures]
        for batch, futures in waiting:
            yield batch, [future.result() for future in futures]


@contextmanager
def precision(device: str | torch.device, compute: str) -> Iterator[None]:
    with exact_fp32(), torch.autocast(torch.device(device).type, PRECISIONS[compute], enabled=compute != "fp32"):
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
