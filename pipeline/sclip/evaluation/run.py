"""From params.yaml to an evaluated model: opens what an experiment names, measures it, and says how good it is."""

from pathlib import Path
from typing import Any

from sclip import places, processes
from sclip.config import Params
from sclip.errors import UserError
from sclip.evaluation.evaluate import evaluate
from sclip.features.listen import Listener
from sclip.model import load
from sclip.training.data import Dataset


def run_trained(params: Params, preset: str, arch: str, seed: int, device: str) -> list[str]:
    """The model that was trained here."""
    folder = places.model_folder(preset, arch, seed)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; `sclip train --preset {preset} --arch {arch} --seed {seed}` makes it"
        )
    return _run(params, preset, folder, places.results_folder(preset, arch, seed), device, {"seed": seed})


def run_imported(params: Params, preset: str, folder: Path, device: str) -> list[str]:
    """A model folder from anywhere."""
    return _run(params, preset, folder, None, device, {"model": str(folder)})


def _run(
    params: Params, preset: str, folder: Path, out: Path | None, device: str, about: dict[str, str | int]
) -> list[str]:
    model = load(folder, device=device)
    listener = Listener(model.speech, None, params.preset(preset).features, model.device)
    manifest, features, vectors = places.manifest(preset), places.features_folder(preset), places.vectors_folder(preset)
    dataset = Dataset.open(manifest, features, vectors, "test", listener)
    dataset.check_encoders(model)
    out = out or places.imported_results_folder(preset, model.name)
    with processes.joined(str(model.device)):
        language = params.preset(preset).corpus.language
        metrics = evaluate(model, dataset, model.device, out, about={"preset": preset, **about}, language=language)
        return _told(metrics, out) if processes.is_first() else []


def _told(metrics: dict[str, Any], out: Path) -> list[str]:
    recalls = {branch: scores["R@10"] for branch, scores in metrics["speech_to_image"].items() if branch != "chance"}
    return [
        f"{out}: {branch}: speech to image R@10 {found['value']} [{found['low']}, {found['high']}]"
        for branch, found in recalls.items()
    ]
