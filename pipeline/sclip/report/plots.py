"""Compute what `dvc metrics` and `dvc plots` read: a few flat numbers, and rows for all architectures.

The templates in .dvc/plots draw one line or bar for each value of `run`, so a new architecture needs no new template.
"""

from typing import Any

from sclip.report.results import EvaluatedRun, LearningCurve, Results
from sclip.report.table import Measurement, measure


def recall(runs: list[EvaluatedRun], branch: str) -> Measurement:
    """Return R@10 of speech to image, the number by which architectures are compared."""
    measured = measure(runs, "speech_to_image", branch, "R@10")
    assert measured is not None
    return measured


def summary(results: Results) -> dict[str, float]:
    """Return R@10 of speech to image: the highest of these runs, the topline (written captions), chance, and each."""
    recalls = {f"R@10/{name}": recall(runs, branch).value for name, branch, runs in results.branches}
    best = max(recalls.values())
    numbers = {"R@10/best": best}
    topline = measure([results.first_run], "text_to_image", "clip", "R@10")
    if topline is not None and topline.value:
        numbers |= {"R@10/topline": topline.value, "best/topline": 100 * best / topline.value}
    numbers["R@10/chance"] = recall([results.first_run], "chance").value
    return {name: round(number, 2) for name, number in (numbers | recalls).items()}


def plots(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each plot file, by file name."""
    bars = [{"run": name, "R@10": recall(runs, branch).value} for name, branch, runs in results.branches]
    return {
        "loss": _rows(results.loss_curves, "loss"),
        "development": _rows(results.development_curves, "R@10"),
        "recall": bars,
        "slots": [
            {"run": run.arch, "seed": run.seed, "slots": row["slots"], "hit rate": row["hit_rate"]["value"]}
            for run in results.all_runs
            for row in run.words.get("slots", ())
        ],
    }


def _rows(curves: list[LearningCurve], quantity: str) -> list[dict[str, Any]]:
    return [
        {"run": curve.name, "seed": curve.seed, "step": step, quantity: round(value, 4)}
        for curve in curves
        for step, value in curve.points
    ]
