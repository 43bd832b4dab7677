"""Read what training and evaluation wrote for a preset: the metrics, examples and curves of each run."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclip import paths
from sclip.config import BRANCHES, Params
from sclip.encoders.source import is_random
from sclip.errors import UserError
from sclip.evaluation.metrics_file import check_other_files, read_metrics, wrong_owner
from sclip.fingerprints import differing_keys
from sclip.parsing import read_json, read_text, shortened
from sclip.paths import EXAMPLES, METRICS, WORDS

log = logging.getLogger(__name__)

Points = list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class EvaluatedRun:
    """The results of one architecture that was trained with one seed."""

    arch: str
    seed: int
    metrics: dict[str, Any]  # see evaluation/evaluate.py
    examples: dict[str, Any]  # see evaluation/examples.py
    words: dict[str, Any]  # see evaluation/words.py; empty for models without keywords
    curves: dict[str, Points]  # by name: `train/loss/total`, `dev/parallel`, ...; empty if trained elsewhere


@dataclass(frozen=True)
class LearningCurve:
    name: str
    arch: str
    branch: str | None
    seed: int
    points: Points


@dataclass(frozen=True)
class Results:
    preset: str
    runs: dict[str, list[EvaluatedRun]]  # by architecture; sorted by seed
    missing: list[str]  # architectures of `run` in params.yaml that have no results

    @property
    def all_runs(self) -> list[EvaluatedRun]:
        return [run for runs in self.runs.values() for run in runs]

    @property
    def first_runs(self) -> list[EvaluatedRun]:
        """Return the run with the lowest seed of each architecture."""
        return [runs[0] for runs in self.runs.values()]

    @property
    def first_run(self) -> EvaluatedRun:
        """Return one run, for values that are the same in all runs."""
        return self.first_runs[0]

    @property
    def random_encoders(self) -> list[str]:
        """Return the names of the encoders that have random weights."""
        return random_encoders(self.first_run.metrics)

    @property
    def trainings(self) -> dict[str, dict[str, list[int]]]:
        """Return the seeds of each architecture by the settings of their training, as the models recorded them."""
        trainings: dict[str, dict[str, list[int]]] = {}
        for run in self.all_runs:
            trainings.setdefault(training_of(run), {}).setdefault(run.arch, []).append(run.seed)
        return trainings

    @property
    def loss_curves(self) -> list[LearningCurve]:
        curves = [(run, run.curves.get("train/loss/total")) for run in self.all_runs]
        return [LearningCurve(run.arch, run.arch, None, run.seed, points) for run, points in curves if points]

    @property
    def development_curves(self) -> list[LearningCurve]:
        """Return the recall curves on the development split."""
        curves = [(n, b, run, run.curves.get(f"dev/{b}")) for n, b, runs in self.branches for run in runs]
        return [LearningCurve(name, run.arch, branch, run.seed, pts) for name, branch, run, pts in curves if pts]

    @property
    def branches(self) -> list[tuple[str, str, list[EvaluatedRun]]]:
        """Return the name, the branch and the runs of each row of a retrieval table."""
        rows = []
        for arch, runs in self.runs.items():
            branches = [branch for branch in BRANCHES if branch in runs[0].metrics["speech_to_image"]]
            rows += [(f"{arch}/{branch}" if len(branches) > 1 else arch, branch, runs) for branch in branches]
        return rows


def read_results(params: Params, preset: str) -> Results:
    """Read the results of the architectures and seeds that `run` in params.yaml names.

    Other results in the folder are named and left out: they may come from another corpus or another training.
    """
    runs: dict[str, list[EvaluatedRun]] = {}
    for arch in params.experiments[preset]:
        seeds = sorted(params.run.seeds) if arch in params.run.architectures else ()
        evaluated = [seed for seed in seeds if (paths.results_folder(preset, arch, seed) / METRICS).is_file()]
        if evaluated:
            runs[arch] = [_read(preset, arch, seed) for seed in evaluated]
    if not runs:
        command = f"sclip evaluate --preset {preset} --arch {params.run.architectures[0]}"
        raise UserError(
            f"{paths.report_folder(preset) / 'runs'}: no {METRICS} of the architectures and seeds that `run` in "
            f"params.yaml names ({', '.join(params.run.architectures)}; {', '.join(map(str, params.run.seeds))}); run "
            f"`{command}` to write one architecture's"
        )
    results = Results(preset, runs, [arch for arch in params.run.architectures if arch not in runs])
    _check_comparable(results)
    _log_other_results(results)
    return results


def _log_other_results(results: Results) -> None:
    """Log the results of other architectures and seeds, so that nobody looks for them in the report."""
    read = {paths.results_folder(results.preset, run.arch, run.seed) for run in results.all_runs}
    evaluated = [folder for folder in paths.run_folders(results.preset) if (folder / METRICS).is_file()]
    if others := [f"{folder.parent.name}/{folder.name}" for folder in evaluated if folder not in read]:
        log.info(f"not in the report, because `run` in params.yaml does not name them: {', '.join(others)}")


def _read(preset: str, arch: str, seed: int) -> EvaluatedRun:
    folder = paths.results_folder(preset, arch, seed)
    command = f"sclip evaluate --preset {preset} --arch {arch} --seed {seed}"
    for name in (EXAMPLES, WORDS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; run `{command}` to write it")
    metrics = read_run_metrics(preset, arch, seed)
    check_other_files(folder, metrics)
    examples, words = read_json(folder / EXAMPLES), read_json(folder / WORDS)
    return EvaluatedRun(arch, seed, metrics, examples, words, read_curves(folder))


def read_run_metrics(preset: str, arch: str, seed: int) -> dict[str, Any]:
    """Read the metrics of an architecture and seed. Refuse those of another one in its folder."""
    path = paths.results_folder(preset, arch, seed) / METRICS
    metrics = read_metrics(path)
    if owner := wrong_owner(metrics, preset, arch, seed):
        raise UserError(f"{path}: {owner}")
    return metrics


def training_of(run: EvaluatedRun) -> str:
    """Return the settings of a run's training, as its model recorded them."""
    return str(run.metrics["about"].get("training", "settings not recorded"))


def differing_settings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return the settings of the head and of its losses that differ between runs, as far as they are recorded."""
    recorded = [run.metrics["about"]["architecture"] for run in runs if "architecture" in run.metrics["about"]]
    return list(dict.fromkeys(key for other in recorded for key, *_ in differing_keys(recorded[0], other)))


def random_encoders(metrics: dict[str, Any]) -> list[str]:
    """Return the names of the encoders with random weights in a run's metrics."""
    return [name for name in metrics["about"]["encoders"].values() if is_random(name)]


def read_curves(folder: Path) -> dict[str, Points]:
    """Read a run's curves by name. A model that was trained elsewhere has none."""
    plots = folder / "curves/plots/metrics"
    return {path.relative_to(plots).with_suffix("").as_posix(): _curve(path) for path in plots.rglob("*.tsv")}


def _curve(path: Path) -> Points:
    """Read a DVCLive file: a header line, then one step and one value per line."""
    lines = list(enumerate(read_text(path).split("\n"), 1))[1:]
    return [_point(line, f"{path}: line {number}") for number, line in lines if line]


def _point(line: str, where: str) -> tuple[float, float]:
    try:
        step, value = map(float, line.split("\t"))
    except ValueError:
        step = value = math.nan
    if not math.isfinite(step + value):  # training writes no values that are not finite
        raise UserError(f"{where}: expected a step, a tab and a number, found {shortened(line)}")
    return step, value


def _check_comparable(results: Results) -> None:
    """Refuse runs that were evaluated on different data or in different ways."""
    first = results.first_run
    for run in results.all_runs:
        different = differing_conditions(first.metrics, run.metrics)
        if _example_ids(first) != _example_ids(run):
            different.append("examples")
        if different:
            command = f"sclip evaluate --preset {results.preset} --arch {run.arch} --seed {run.seed}"
            raise UserError(
                f"preset {results.preset}: {run.arch}, seed {run.seed}, was evaluated with other "
                f"{', '.join(different)} than {first.arch}, seed {first.seed}; run `{command}` again"
            )


def differing_conditions(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return in what two evaluations differ whose figures cannot be compared for this reason."""
    ours, theirs = _conditions(first), _conditions(second)
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]


def _conditions(metrics: dict[str, Any]) -> dict[str, Any]:
    about = metrics["about"]
    return {
        **{name.replace("_", " "): count for name, count in metrics["counts"].items()},
        "encoders": about["encoders"],
        "weights of the encoders": about["encoder_hashes"],
        "hidden states": about["states"],
        "stop words": about["stop_words"],
        "speech recogniser": about.get("transcripts"),
        "test data": about["test_data"],
    }


def _example_ids(run: EvaluatedRun) -> list[list[str]]:
    return [[entry["id"] for entry in run.examples[key]] for key in ("examples", "utterances")]
