"""Run the benchmarks one after the other, and write all results as JSON."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sclip.bench.cases import PAPERS, SCENES, Case, Workload
from sclip.bench.evaluation import evaluation_case
from sclip.bench.extraction import extraction_case
from sclip.bench.heads import attention_case, cif_case, vocabulary_case
from sclip.bench.index import index_cases
from sclip.bench.long_training import long_training_case
from sclip.bench.machine import Machine, measure
from sclip.bench.manifest import manifest_case
from sclip.bench.models import random_model
from sclip.bench.stored import write_random_dataset
from sclip.bench.training import training_case
from sclip.config import Params
from sclip.encoders.open import open_clip_encoder, open_speech
from sclip.files import write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchResult:
    machine: Machine
    cases: list[Case]
    file: Path


def run_bench(params: Params, device_name: str, only: Sequence[str], out: Path) -> BenchResult:
    """Run the benchmarks in `only`, and write the results to `out`, after each of them."""
    device = torch.device(device_name)
    workload = PAPERS if device.type == "cuda" else SCENES
    machine = measure(device)
    finished: list[Case] = []
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sclip-bench-") as folder:
        for case in cases(params, workload, only, machine, device, Path(folder)):
            finished.append(case)
            about = {"machine": asdict(machine), "torch": torch.__version__, "sizes": asdict(workload)}
            write_json(out / "bench.json", {**about, "cases": [asdict(one) for one in finished]})
            log.info(f"{case.name}: done")
    return BenchResult(machine, finished, out / "bench.json")


def describe(result: BenchResult) -> Iterator[str]:
    """Yield the lines that `sclip bench` prints."""
    machine = result.machine
    rates = f"{machine.fp32 / 1e9:,.0f} (fp32) and {machine.half / 1e9:,.0f} ({machine.half_type}) GFLOP/s"
    yield f"{machine.name}: {machine.bandwidth / 1e9:,.1f} GB/s, {rates}"
    for case in result.cases:
        yield from _lines(case)
    yield str(result.file)


def cases(
    params: Params, workload: Workload, only: Sequence[str], machine: Machine, device: torch.device, folder: Path
) -> Iterator[Case]:
    """Run the benchmarks in `only` and yield their results."""
    speech, clip = open_speech(workload.speech), open_clip_encoder(workload.clip)
    if "manifest" in only:
        yield manifest_case(folder / "manifest", device)
    if "extraction" in only:
        yield extraction_case(workload, speech, folder / "extraction", device)
    if "attention" in only:
        yield attention_case(workload, speech.width, device)
    if "cif" in only:
        yield cif_case(workload, speech.width, machine, device)
    if "vocabulary" in only:
        yield vocabulary_case(workload, 8000, clip.text_tower.table.shape[1], machine, device)
    if "evaluation" in only:
        yield evaluation_case(device)
    if "long-training" in only:
        yield long_training_case(params, workload, speech, clip, device)
    if "index" in only:
        model = random_model("parallel", params.experiment(workload.preset, "parallel"), speech, clip)
        yield from index_cases(model, folder / "index", device)
    if "training" in only:
        speech, clip = speech.to(device), clip.to(device)
        datasets = {
            name: write_random_dataset(workload, speech, clip.joint_width, folder / name, name == "codes", device)
            for name in ("states", "codes")
        }
        for arch in params.experiments[workload.preset]:
            experiment = params.experiment(workload.preset, arch)
            training = replace(experiment.training, batch=workload.batch, precision=workload.precision)
            experiment = replace(experiment, training=training)
            yield training_case(workload, experiment, arch, (speech, clip), datasets, machine, device)


def _lines(case: Case) -> Iterator[str]:
    yield f"\n{case.question}"
    for row in case.rows:
        timed = row.timed
        spread = f"[{timed.ratio_low:.3g}, {timed.ratio_high:.3g}]"
        floor = f"   {timed.seconds / row.floor:.1f} times the floor" if row.floor else ""
        times = f"{1000 * timed.seconds:12,.1f} ms   x {timed.ratio:.3g} {spread}"
        yield f"  {timed.name:44} {times}{floor}   {row.rate}".rstrip()
    for name, value in case.notes.items():
        yield f"  {name}: {value}"
