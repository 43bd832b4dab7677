"""The speed limits of this machine, from which the least possible time of a benchmark is computed."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sclip.bench.timing import seconds_of
from sclip.device import PRECISIONS, computes_bf16


@dataclass(frozen=True)
class Machine:
    name: str
    bandwidth: float  # bytes read or written per second
    fp32: float  # operations per second in a large matrix product
    half: float  # the same in `half_type`
    half_type: str  # bf16, or fp32 on a device without instructions for bf16


def measure(device: torch.device) -> Machine:
    """Measure the bandwidth of a large copy and the rate of large matrix products."""
    size = 8192 if device.type == "cuda" else 2048
    numbers = torch.randn(size * size, device=device)
    target = torch.empty_like(numbers)
    bandwidth = 2 * numbers.nbytes / _median(lambda: target.copy_(numbers), device)
    half = "bf16" if computes_bf16(device) else "fp32"
    fp32_rate, half_rate = (_product_rate(size, PRECISIONS[precision], device) for precision in ("fp32", half))
    return Machine(_name(device), bandwidth, fp32_rate, half_rate, half)


def _product_rate(size: int, kind: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return 2 * size**3 / _median(lambda: a @ b, device)


def _median(run: Callable[[], object], device: torch.device) -> float:
    return statistics.median(seconds_of(run, device) for _ in range(7))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{models[0] if models else 'CPU'}, {torch.get_num_threads()} threads"
