"""What training and evaluation left of a preset: every architecture and seed that is there."""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sclip import paths
from sclip.config import Params
from sclip.encoders.source import is_random
from sclip.errors import UserError
from sclip.parsing import read_json, read_text, shown
from sclip.paths import EXAMPLES, METRICS, WORDS

BRANCHES = ("parallel", "cascaded")
Curve = list[tuple[float, float]]  # step and what was measured then


@dataclass(frozen=True)
class Run:
    """One architecture, trained from one seed."""

    arch: str
    seed: int
    metrics: dict[str, Any]  # see evaluation/evaluate.py
    examples: dict[str, Any]  # see evaluation/examples.py
    words: dict[str, Any]  # see evaluation/words.py; empty without keywords
    curves: dict[str, Curve]  # `train/loss/total`, `dev/parallel` and the like; none for a model trained elsewhere


@dataclass(frozen=True)
class Line:
    """A learning curve."""

    name: str
    arch: str
    branch: str | None
    seed: int
    curve: Curve


@dataclass(frozen=True)
class Results:
    preset: str
    runs: dict[str, list[Run]]  # of each architecture, by seed
    missing: list[str]  # architectures of `run` in params.yaml that have none

    @property
    def every(self) -> list[Run]:
        return [run for runs in self.runs.values() for run in runs]

    @property
    def firsts(self) -> list[Run]:
        """Each architecture's, of several seeds."""
        return [runs[0] for runs in self.runs.values()]

    @property
    def first(self) -> Run:
        """For what is the same in all of them."""
        return self.firsts[0]

    @property
    def random_encoders(self) -> list[str]:
        """Those whose weights nobody trained."""
        return random_encoders(self.first.metrics)

    @property
    def losses(self) -> list[Line]:
        measured = [(run, run.curves.get("train/loss/total")) for run in self.every]
        return [Line(run.arch, run.arch, None, run.seed, curve) for run, curve in measured if curve]

    @property
    def developments(self) -> list[Line]:
        """On the development split."""
        measured = [(n, b, run, run.curves.get(f"dev/{b}")) for n, b, runs in self.branches for run in runs]
        return [Line(name, run.arch, branch, run.seed, curve) for name, branch, run, curve in measured if curve]

    @property
    def branches(self) -> list[tuple[str, str, list[Run]]]:
        """Every row of a table of retrieval: its name, its branch, its runs."""
        rows = []
        for arch, runs in self.runs.items():
            found = [branch for branch in BRANCHES if branch in runs[0].metrics["speech_to_image"]]
            rows += [(f"{arch}/{branch}" if len(found) > 1 else arch, branch, runs) for branch in found]
        return rows


def read_results(params: Params, preset: str) -> Results:
    """Those that params.yaml's `run` names: others that lie there may be of another corpus or training."""
    folder = paths.report_folder(preset) / "runs"
    found = defaultdict(list)
    for arch, seed in product(params.run.architectures, params.run.seeds):
        place = paths.results_folder(preset, arch, seed)
        if (place / METRICS).is_file():
            found[arch].append(_read(place, preset))
    if not found:
        command = f"sclip evaluate --preset {preset} --arch {params.run.architectures[0]}"
        raise UserError(f"{folder}: no {METRICS}; `{command}` writes an architecture's")
    runs = {arch: sorted(found[arch], key=lambda run: run.seed) for arch in params.arch if arch in found}
    results = Results(preset, runs, [arch for arch in params.run.architectures if arch not in runs])
    _check_alike(results)
    return results


def _read(folder: Path, preset: str) -> Run:
    arch, seed = folder.parent.name, int(folder.name.removeprefix("seed-"))
    command = f"sclip evaluate --preset {preset} --arch {arch} --seed {seed}"
    for name in (EXAMPLES, WORDS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; `{command}` writes it")
    metrics, examples, words = (read_json(folder / name) for name in (METRICS, EXAMPLES, WORDS))
    if "states" not in metrics["about"]:
        raise UserError(f"{folder / METRICS}: does not say which hidden states were scored; run `{command}` again")
    return Run(arch, seed, metrics, examples, words, read_curves(folder))


def random_encoders(metrics: dict[str, Any]) -> list[str]:
    return [name for name in metrics["about"]["encoders"].values() if is_random(name)]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Those of a run; none for a model trained elsewhere."""
    plots = folder / "curves/plots/metrics"
    return {path.relative_to(plots).with_suffix("").as_posix(): _curve(path) for path in plots.rglob("*.tsv")}


def _curve(path: Path) -> Curve:
    """Read DVCLive's file: a heading, then a step and a value on each line."""
    lines = list(enumerate(read_text(path).split("\n"), 1))[1:]
    return [_point(line, f"{path}: line {number}") for number, line in lines if line]


def _point(line: str, where: str) -> tuple[float, float]:
    try:
        step, value = map(float, line.split("\t"))
    except ValueError:
        step = value = math.nan
    if not math.isfinite(step + value):  # training leaves out what is not finite
        raise UserError(f"{where}: expected a step, a tab and a number, found {shown(line)}")
    return step, value


def _check_alike(results: Results) -> None:
    """Refuse to put runs side by side that were not measured on the same data in the same way."""

    def measured_on(run: Run) -> Any:
        utterances = [example["id"] for example in run.examples["examples"]]
        about = run.metrics["about"]
        return run.metrics["counts"], *(about[key] for key in ("encoders", "states", "stop_words")), utterances

    first = results.first
    for run in results.every:
        if measured_on(run) != measured_on(first):
            command = f"sclip evaluate --preset {results.preset} --arch {run.arch} --seed {run.seed}"
            raise UserError(
                f"preset {results.preset}: {run.arch}, seed {run.seed}, was not evaluated on the same utterances, "
                f"encoders, hidden states and stop words as {first.arch}, seed {first.seed}; `{command}` does it again"
            )
