"""Distributed computation by processes that torchrun starts. Without torchrun these functions do nothing.

- **Without dropout, N processes give the same result as one.** A batch is divided into N slices. The contrastive
  losses, BatchNorm, the quantity loss and the number of CIF slots depend on the full batch, and gather it from all
  processes. Each process draws its own dropout.
- **Gradients.** `gather_rows` and `all_sum` pass every process's gradient back to every process. Each process computes
  the loss of the full batch, so each slice gets N times its gradient, and the mean over the processes is correct.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as with_gradients

from sclip.files import locked

T = TypeVar("T")

# For the slowest process, such as the one that reads a large corpus alone. torchrun ends all processes if one fails.
LONGEST_WAIT = timedelta(hours=2)


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the process group if torchrun started this process, and leave it at the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def locked_by_main(folder: Path) -> Iterator[None]:
    """Lock a folder against other commands while these processes write to it. The main process holds the lock."""
    with locked(folder) if is_main() else nullcontext():
        yield


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return rank() == 0


def bar_disabled() -> bool | None:
    """Return tqdm's `disable`: on a terminal the main process shows a bar, and the others show none."""
    return None if is_main() else True


def barrier() -> None:
    """Wait until every process has reached this call."""
    if world_size() > 1:
        dist.barrier()


def rank_share(items: Sequence[T]) -> Sequence[T]:
    """Return every N-th item, starting at this process's rank, so that shares are similar even if items are sorted."""
    return items[rank() :: world_size()]


def rank_slice(rows: Tensor) -> Tensor:
    """Return this process's slice of a batch's rows."""
    return rows.chunk(world_size())[rank()]


def gather_objects(own: T) -> list[T]:
    """Gather plain data or CPU tensors from every process, in order of rank."""
    if world_size() == 1:
        return [own]
    objects: list[T | None] = [None] * world_size()
    dist.all_gather_object(objects, own)
    return objects  # type: ignore[return-value]


def all_max(number: int) -> int:
    """Return the largest number of all processes. They do not wait for their GPUs."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def gather_rows(rows: Tensor) -> Tensor:
    """Gather rows from every process, in order of rank: (B, ...) -> (N * B, ...). Every process has the same B."""
    if world_size() == 1:
        return rows
    if not rows.requires_grad:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)
    return torch.cat(with_gradients.all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]


def all_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes."""
    if world_size() == 1:
        return tensor
    return with_gradients.all_reduce(tensor.contiguous())  # type: ignore[no-untyped-call]


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in one all-reduce."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
