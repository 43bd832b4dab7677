"""A device without hardware, named `rehearsal`. It computes on the CPU, and refuses and records what matters on a GPU.

- An operation on tensors of both devices raises an error, as CUDA does. Numbers (tensors without dimensions) may mix.
- `waits` counts what makes the CPU wait for the device: reading a number, a copy to the CPU, and results whose size
  depends on values.
- `blocking_copies` counts copies to the device that the CPU waits for, because they are not pinned or not
  `non_blocking`.
- Without `has_fp64` it refuses numbers in fp64, as Apple's GPUs do.

`waits` and `blocking_copies` name the function of the package that did it, or `backward`.
"""

import collections
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.masked_select, aten.equal}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("rehearsal", _Backend())
DEVICE = torch.device("rehearsal", 0)


class OnDevice(torch.Tensor):
    """A tensor whose device is `rehearsal`. `on_host` has its values."""

    @staticmethod
    def __new__(cls, on_host):
        layout = {"strides": on_host.stride(), "storage_offset": on_host.storage_offset(), "dtype": on_host.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, on_host.size(), device=DEVICE, **layout)
        tensor.on_host = on_host
        return tensor

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


class Rehearsal(TorchDispatchMode):
    """While this mode is active, tensors can be created on the device and moved to it."""

    active: "Rehearsal | None" = None

    def __init__(self):
        super().__init__()
        self.has_fp64 = True
        self.waits, self.blocking_copies = collections.Counter(), collections.Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


@contextmanager
def rehearsal(monkeypatch) -> Iterator[Rehearsal]:
    """Activate the device. In this context `pin_memory` marks a copy as pinned."""
    create = torch.tensor  # creates tensors of other devices without a dispatch
    monkeypatch.setattr(torch, "tensor", lambda data, device=None, **options: create(data, **options).to(device))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned_copy)
    Rehearsal.active = Rehearsal()
    try:
        with Rehearsal.active:
            yield Rehearsal.active
    finally:
        Rehearsal.active = None


def pinned_copy(tensor):
    copy = tensor.clone()
    copy.pinned = True
    return copy


def run(operation, args, kwargs):
    """Run an operation of either device."""
    on_device, on_cpu = [], []
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor):
            (on_device if isinstance(leaf, OnDevice) else on_cpu).append(leaf)
    is_copy = operation.overloadpacket in (aten._to_copy, aten.copy_)
    indices = args[1] if operation.overloadpacket in INDEXING else []  # may be on the CPU
    mixed = [tensor for tensor in on_cpu if tensor.dim() and not any(tensor is index for index in indices)]
    if on_device and mixed and not is_copy:
        raise RuntimeError(f"{operation}: tensors on both devices, of shapes {[t.shape for t in on_device + on_cpu]}")
    if operation.overloadpacket is aten.copy_:
        to_device = isinstance(args[0], OnDevice)
    elif kwargs.get("device") is not None:
        to_device = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = kwargs | {"device": torch.device("cpu")}
    else:
        to_device = bool(on_device)
    record(operation.overloadpacket, args, kwargs, on_device, to_device, is_copy)
    host_args, host_kwargs = tree_map(lambda x: x.on_host if isinstance(x, OnDevice) else x, (args, kwargs))
    if is_copy and operation.overloadpacket is aten._to_copy and bool(on_device) != to_device:
        host_args = (host_args[0].clone(), *host_args[1:])  # a move is always a copy
    results = operation(*host_args, **host_kwargs)
    originals = {id(tensor.on_host): tensor for tensor in on_device}  # in-place operations return their argument

    def on_its_device(leaf):
        if not (to_device and isinstance(leaf, torch.Tensor)):
            return leaf
        if leaf.dtype == torch.float64 and Rehearsal.active is not None and not Rehearsal.active.has_fp64:
            raise TypeError(f"{operation}: a device without fp64 cannot hold it")  # as on Apple's GPUs
        return originals[id(leaf)] if id(leaf) in originals else OnDevice(leaf)

    return tree_map(on_its_device, results)


def record(operation, args, kwargs, on_device, to_device, is_copy) -> None:
    """Count what makes the CPU wait."""
    mode = Rehearsal.active
    if mode is None:
        return
    source = args[1] if operation is aten.copy_ else args[0] if args else None
    is_asynchronous = kwargs.get("non_blocking") and getattr(source, "pinned", False)
    if is_copy and to_device and not isinstance(source, OnDevice) and source.dim() and not is_asynchronous:
        mode.blocking_copies[caller()] += 1
    masks = operation in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1])
    fills = masks and operation is not aten.index and args[2].numel() == 1  # one value, with a mask: does not wait
    if on_device and (operation in READS or (masks and not fills) or (is_copy and not to_device)):
        mode.waits[caller()] += 1


def caller() -> str:
    """Return the innermost function of the package on the stack, as file:function."""
    frame = sys._getframe(1)
    while frame is not None:
        _, package, path = frame.f_code.co_filename.partition("pipeline/sclip/")
        if package:
            return f"{path}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "backward"
