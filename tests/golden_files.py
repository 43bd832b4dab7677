"""Load results of the published code from $SCLIP_GOLDEN, by default tests/golden."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(os.environ.get("SCLIP_GOLDEN", Path(__file__).parent / "golden"))
if not (GOLDEN / "meta.json").is_file():
    raise FileNotFoundError(f"SCLIP_GOLDEN: expected meta.json in {GOLDEN}, found no such file")


def load(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name)


def cases() -> list[str]:
    """Return the names of the heads in meta.json that have a file."""
    names = json.loads((GOLDEN / "meta.json").read_text())["cases"]
    return sorted(name for name in names if (GOLDEN / f"{name}.safetensors").is_file())


def checkpoints() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.ckpt"))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_close(actual: Tensor, expected: Tensor, name: str, tolerance: float = 1e-4) -> None:
    """Compare tensors, with a tolerance relative to the largest expected value."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = float((actual.detach() - expected).abs().max())
    largest = float(expected.abs().max())
    assert torch.isfinite(actual).all(), name
    assert error <= tolerance * largest, f"{name}: error {error:.2e}, largest expected value {largest:.2e}"


if not cases() and not checkpoints():  # without files all tests would be skipped, which looks like success
    raise FileNotFoundError(f"SCLIP_GOLDEN: expected heads or checkpoints in {GOLDEN}, found neither")
