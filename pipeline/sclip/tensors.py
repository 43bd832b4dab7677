"""Named tensors: read, put into a module, told apart. One clear line for whatever is wrong with them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sclip.errors import UserError


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from None


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor that the module has, and no other."""
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(f"{where}.{name} is missing")
        if tensors[name].shape != tensor.shape:
            raise UserError(f"{where}.{name}: expected {tuple(tensor.shape)}, found {tuple(tensors[name].shape)}")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise UserError(f"{where}.{extra[0]}: no such tensor in this architecture")
    module.load_state_dict(dict(tensors))


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values: what computes, whatever file it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
