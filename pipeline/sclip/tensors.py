"""Named tensors: read and save files of them, put them into a module, hash them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sclip.errors import UserError


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Open a safetensors file: its tensors, whose bytes are read when they are used, and its metadata."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensors(), file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a damaged file fails in whatever way it is damaged
        raise UserError(f"{path}: not a complete safetensors file: {' '.join(str(error).split())}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    return read_file(path)[0]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """For whoever may read any new file: safetensors by itself writes one that its owner alone may."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:  # such as a disk that is full
        raise OSError(f"{path}: {error}") from None
    path.chmod(mode)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor that the module has, and no other."""
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(f"{where}.{name} is missing")
        found = tensors[name]
        if found.shape != tensor.shape:
            raise UserError(f"{where}.{name}: expected {tuple(tensor.shape)}, found {tuple(found.shape)}")
        if found.is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{where}.{name}: expected {tensor.dtype}, found {found.dtype}")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise UserError(f"{where}.{extra[0]}: no such tensor in this architecture")
    module.load_state_dict(dict(tensors))


def fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a module's weights, whatever file they came from, and its configuration."""
    return fingerprint_of_tensors(module.state_dict(), config)


def fingerprint_of_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a configuration and over tensors' names, types, shapes and values."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
