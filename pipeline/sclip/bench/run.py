"""All cases one after the other, told as they come, and kept as JSON and as a drawing."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sclip.bench.cases import PAPERS, SCENES, Case, Sizes
from sclip.bench.evaluation import evaluation_case
from sclip.bench.extraction import extraction_case
from sclip.bench.heads import cif_case, vocabulary_case
from sclip.bench.kept import keep
from sclip.bench.machine import Machine, measure
from sclip.bench.plot import drawing
from sclip.bench.training import training_case
from sclip.config import Params
from sclip.encoders.open import open_clip, open_speech
from sclip.files import write_json


def run_bench(params: Params, device: str, only: Sequence[str], out: Path) -> Iterator[str]:
    """Lines for people, as cases are done."""
    where = torch.device(device)
    sizes = PAPERS if where.type == "cuda" else SCENES
    machine = measure(where)
    rates = f"{machine.fp32 / 1e9:,.0f} (fp32) and {machine.half / 1e9:,.0f} (bf16) GFLOP/s"
    yield f"{machine.name}: {machine.bandwidth / 1e9:,.1f} GB/s, {rates}"
    done: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="sclip-bench-") as folder:
        for case in cases(params, sizes, only, machine, where, Path(folder)):
            done.append(case)
            yield from _lines(case)
    data = {"machine": machine, "torch": torch.__version__, "sizes": sizes, "cases": done}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bench.json", _plain(data))
    (out / "bench.svg").write_text(drawing(done, machine.name), encoding="utf-8")
    yield f"{out / 'bench.json'}, {out / 'bench.svg'}"


def cases(
    params: Params, sizes: Sizes, only: Sequence[str], machine: Machine, device: torch.device, folder: Path
) -> Iterator[Case]:
    speech, clip = open_speech(sizes.speech), open_clip(sizes.clip)
    if "extraction" in only:
        yield extraction_case(sizes, speech, folder / "extraction", device)
    if "cif" in only:
        yield cif_case(sizes, speech.width, machine, device)
    if "vocabulary" in only:
        yield vocabulary_case(sizes, 8000, clip.text_tower.table.shape[1], machine, device)
    if "evaluation" in only:
        yield evaluation_case(device)
    if "training" in only:
        speech, clip = speech.to(device), clip.to(device)
        kept = {
            name: keep(sizes, speech, clip.joint_width, folder / name, coded=name == "codes")
            for name in ("states", "codes")
        }
        for arch in params.arch:
            experiment = params.experiment(sizes.preset, arch)
            training = dataclasses.replace(experiment.training, batch=sizes.batch, precision=sizes.precision)
            experiment = dataclasses.replace(experiment, training=training)
            yield training_case(sizes, experiment, arch, (speech, clip), kept, machine, device)


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


def _plain(data: Any) -> Any:
    """Dataclasses as tables, seconds to a microsecond."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: _plain(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    return round(data, 6) if isinstance(data, float) else data
