"""The files that the published code's results are in: $SCLIP_GOLDEN, or tests/golden."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(os.environ.get("SCLIP_GOLDEN", Path(__file__).parent / "golden"))
if not (GOLDEN / "meta.json").is_file():
    raise FileNotFoundError(f"SCLIP_GOLDEN: no meta.json in {GOLDEN}")


def load(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / name)


def cases() -> list[str]:
    """The heads of meta.json whose files are there."""
    names = json.loads((GOLDEN / "meta.json").read_text())["cases"]
    return sorted(name for name in names if (GOLDEN / f"{name}.safetensors").is_file())


def checkpoints() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.ckpt"))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_close(found: Tensor, expected: Tensor, name: str, tolerance: float = 1e-4) -> None:
    """Against the tensor's largest value."""
    assert found.shape == expected.shape, f"{name}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    error = float((found.detach() - expected).abs().max())
    largest = float(expected.abs().max())
    assert torch.isfinite(found).all(), name
    assert error <= tolerance * largest, f"{name}: off by {error:.2e} where the largest value is {largest:.2e}"


if not cases() and not checkpoints():  # tests over no files would all be skipped, and look green
    raise FileNotFoundError(f"SCLIP_GOLDEN: neither a head nor a checkpoint in {GOLDEN}")
