"""Verification of a results folder against its metrics.json, and against the model's present weights."""

from pathlib import Path

from sclip import paths
from sclip.evaluation.metrics_file import check_other_files, read_metrics
from sclip.features.verify import Finding
from sclip.model.listing import weights_digest


def verify_results(path: Path) -> list[Finding]:
    """Read a metrics.json and the files next to it. Raise an error if one of them is damaged."""
    metrics = read_metrics(path)
    check_other_files(path.parent, metrics)
    about = metrics.get("about", {})
    if "model" in about:
        model = Path(about["model"])
    elif {"preset", "arch", "seed"} <= about.keys():
        model = paths.model_folder(about["preset"], about["arch"], about["seed"])
    else:
        return []
    now = weights_digest(model)  # None if there is no such model any more
    if now is None or about.get("weights") in (None, now):
        return []
    return [Finding(str(path), f"not the results of the weights that {model} has now; run `sclip evaluate` again")]
