"""Verification of a results folder against its metrics.json, and against the model's present weights."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip import paths
from sclip.evaluation.metrics_file import check_other_files, read_metrics, wrong_owner
from sclip.features.verify import Finding
from sclip.model.listing import weights_digest


def verify_results(path: Path) -> list[Finding]:
    """Read a metrics.json and the files next to it. Raise an error if one of them is damaged."""
    metrics = read_metrics(path)
    check_other_files(path.parent, metrics)
    about = metrics.get("about", {})
    if owner := _wrong_owner(path.parent, metrics):
        return [Finding(str(path), owner)]
    if "model" in about:
        model = Path(about["model"])
    elif {"preset", "arch", "seed"} <= about.keys():
        model = paths.model_folder(about["preset"], about["arch"], about["seed"])
    else:
        return []
    now = weights_digest(model)  # None if there is no such model any more
    if now is None or about.get("weights") in (None, now):
        return []
    command = f"sclip evaluate {_options(path.parent, about)}"
    return [Finding(str(path), f"not the results of the weights that {model} has now; run `{command}` again")]


def _options(folder: Path, about: Mapping[str, Any]) -> str:
    """Return the options of `sclip evaluate` that write the results in a folder."""
    model = ["--model", about["model"]] if "model" in about else ["--arch", about["arch"], "--seed", about["seed"]]
    exact = ["--exact"] if folder in paths.run_folders(about["preset"], exact=True) else []
    return shlex.join(map(str, ["--preset", about["preset"], *model, *exact]))


def _wrong_owner(folder: Path, metrics: Mapping[str, Any]) -> str | None:
    """Compare the results of a model that was trained here with the preset, architecture and seed of their folder."""
    preset, _, arch, seed = folder.parts[-4:]
    if not seed.startswith("seed-"):  # imported
        return None
    return wrong_owner(metrics, preset, arch, int(seed.removeprefix("seed-")))
