"""Several processes that compute as one, started by torchrun. In a single process all of this does nothing.

- **N processes give the result of one.** A batch is cut into N slices. What needs the whole batch (the contrastive
  losses, BatchNorm, the quantity loss, the number of CIF slots) gathers it from all processes.
- **Gradients.** `gather_rows` and `all_sum` pass every process's gradient back to every process. Each process's loss
  is the loss of the whole batch, so each slice gets N times its gradient, and the mean over the processes is right.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as with_gradients

from sclip.files import locked

T = TypeVar("T")


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the group that torchrun started this process in."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def locked_by_main(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder while these processes do."""
    with locked(folder) if is_main() else nullcontext():
        yield


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return rank() == 0


def bar_disabled() -> bool | None:
    """Return tqdm's `disable`: the main process has a bar where there is a terminal, the others have none."""
    return None if is_main() else True


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def rank_share(items: Sequence[T]) -> Sequence[T]:
    """Return every N-th item from this process's rank on, so that shares are similar however items are sorted."""
    return items[rank() :: world_size()]


def rank_slice(rows: Tensor) -> Tensor:
    """Return this process's slice of a batch's rows."""
    return rows.chunk(world_size())[rank()]


def gather_objects(own: T) -> list[T]:
    """Return every process's plain data, or tensors on the CPU, by rank."""
    if world_size() == 1:
        return [own]
    objects: list[T | None] = [None] * world_size()
    dist.all_gather_object(objects, own)
    return objects  # type: ignore[return-value]


def all_max(number: int, device: torch.device) -> int:
    """Return the largest of all processes' numbers."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def gather_rows(rows: Tensor) -> Tensor:
    """(B, ...) of this process -> (N * B, ...) of all, by rank. Every process has the same B."""
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
    """Replace each tensor by its mean over all processes. All travel in one message."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
