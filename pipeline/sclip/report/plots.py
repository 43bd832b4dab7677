"""What `dvc metrics` and `dvc plots` read: a few flat numbers, and rows of all architectures together.

The templates in .dvc/plots draw a line or a bar for each `run`, whatever architectures there are.
"""

from typing import Any

from sclip.report.results import Line, Results, Run
from sclip.report.tables import Figure, figure


def recall(runs: list[Run], branch: str) -> Figure:
    """The figure by which architectures are compared."""
    found = figure(runs, "speech_to_image", branch, "R@10")
    assert found is not None
    return found


def summary(results: Results) -> dict[str, float]:
    """R@10 of speech to image: the best, what CLIP does with captions in writing, chance, and each architecture's."""
    recalls = {f"R@10/{name}": recall(runs, branch).value for name, branch, runs in results.branches}
    best = max(recalls.values())
    numbers = {"R@10/best": best}
    topline = figure([results.first], "text_to_image", "clip", "R@10")
    if topline is not None and topline.value:
        numbers |= {"R@10/topline": topline.value, "best/topline": 100 * best / topline.value}
    numbers["R@10/chance"] = recall([results.first], "chance").value
    return {name: round(number, 2) for name, number in (numbers | recalls).items()}


def plots(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Files' names, and the rows in them."""
    bars = [{"run": name, "R@10": recall(runs, branch).value} for name, branch, runs in results.branches]
    return {
        "loss": _rows(results.losses, "loss"),
        "development": _rows(results.developments, "R@10"),
        "recall": bars,
        "slots": [
            {"run": run.arch, "seed": run.seed, "slots": row["slots"], "hit rate": row["hit_rate"]["value"]}
            for run in results.every
            for row in run.words.get("slots", ())
        ],
    }


def _rows(lines: list[Line], measured: str) -> list[dict[str, Any]]:
    return [
        {"run": line.name, "seed": line.seed, "step": step, measured: round(value, 4)}
        for line in lines
        for step, value in line.curve
    ]
