"""Several processes as one, started by torchrun; alone, all of this does nothing.

- **N processes give the result of one**: a batch is cut into as many slices, and whatever reads the whole batch (the
  contrastive losses, BatchNorm, the quantity loss, how wide CIF's slots are) is given the whole batch
- gradients: what is gathered or summed here hands every process's gradient back to every process. Each counts the
  whole loss, so slices' gradients come N times, and their mean over the processes is the gradient of the one loss
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as with_gradients

from sclip.errors import UserError

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[None]:
    """The group that torchrun started this process in."""
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
def alone(folder: Path) -> Iterator[None]:
    """While these processes write to the folder no other command may. The lock ends with who holds it. Disks that
    machines share often lock no folders; there nobody is kept out."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if is_first():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder}: another command is writing there") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    return rank() == 0


def quiet() -> bool | None:
    """For tqdm's `disable`: one process has a bar, where there is a terminal."""
    return None if is_first() else True


def wait() -> None:
    """For all."""
    if count() > 1:
        dist.barrier()


def share(items: Sequence[T]) -> Sequence[T]:
    """Every N-th, from this process's own on: all have about as many, however items are sorted."""
    return items[rank() :: count()]


def part(items: Tensor) -> Tensor:
    """This process's slice of a batch's rows."""
    return items.chunk(count())[rank()]


def everyones(own: T) -> list[T]:
    """Plain data or tensors on the CPU, by rank."""
    if count() == 1:
        return [own]
    found: list[T | None] = [None] * count()
    dist.all_gather_object(found, own)
    return found  # type: ignore[return-value]


def most(number: int, device: torch.device) -> int:
    if count() == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gathered(rows: Tensor) -> Tensor:
    """(B, ...) of this process -> (N * B, ...) of all, by rank; every process has as many."""
    if count() == 1:
        return rows
    if not rows.requires_grad:
        found = [torch.empty_like(rows) for _ in range(count())]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)
    return torch.cat(with_gradients.all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]


def summed(tensor: Tensor) -> Tensor:
    """Over all processes."""
    return tensor if count() == 1 else with_gradients.all_reduce(tensor.contiguous())  # type: ignore[no-untyped-call]


def average_(tensors: Sequence[Tensor]) -> None:
    """Each in place, over all processes; in one message."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
