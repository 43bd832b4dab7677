"""Safetensors files: read them, write them atomically, and load their tensors into a module."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sclip.errors import UserError, one_line
from sclip.files import SPECIAL, UNFINISHED, flush_to_disk, is_special

METADATA = "sclip"  # the only key of the metadata; safetensors would write several keys in varying order


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Open a safetensors file. A tensor's bytes are read from the disk on first use."""
    return _open(path)[0]


def read_tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Open a file of `write_tensors`. A tensor's bytes are read from the disk on first use."""
    tensors, metadata = _open(path)
    try:
        data = json.loads(metadata[METADATA])
    except (KeyError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UserError(f"{path}: its metadata {METADATA!r} is missing or damaged")
    return tensors, data


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if is_special(path):
        raise UserError(f"{path}: {SPECIAL}")
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensors(), file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a damaged file can raise many kinds of errors
        raise UserError(f"{path}: not a complete safetensors file: {one_line(error)}") from None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file atomically."""
    # safetensors makes a temporary file next to its target, so the target is in a temporary folder.
    folder = path.with_name(path.name + UNFINISHED)
    shutil.rmtree(folder, ignore_errors=True)  # of a writer that was killed
    folder.mkdir()
    unfinished = folder / path.name
    try:
        save_tensors(unfinished, tensors, {METADATA: json.dumps(metadata, ensure_ascii=False)})
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    flush_to_disk(unfinished)
    unfinished.replace(path)
    folder.rmdir()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the usual access rights; safetensors alone would let only the owner read it."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))  # such as that of a full disk
        number = int(found[1]) if found else None
        raise OSError(number, str(error) if number is None else os.strerror(number), str(path)) from None
    path.chmod(mode)


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, and remove the prefix from the names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a module, and refuse missing, extra or mismatched ones. `where` prefixes names in errors."""
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(f"{where}.{name} is missing")
        loaded = tensors[name]
        if loaded.shape != tensor.shape:
            raise UserError(f"{where}.{name}: expected {tuple(tensor.shape)}, found {tuple(loaded.shape)}")
        if loaded.is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{where}.{name}: expected {tensor.dtype}, found {loaded.dtype}")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise UserError(f"{where}.{extra[0]}: no such tensor in this architecture")
    module.load_state_dict(dict(tensors))
