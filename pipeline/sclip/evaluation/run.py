"""Open a model, evaluate it on the test split of a preset, and write its results folder."""

import logging
from dataclasses import dataclass
from pathlib import Path

from sclip import paths
from sclip.config import Flickr8kConfig, Params
from sclip.corpora.scenes.captions import SIZE_WORDS
from sclip.distributed import is_main
from sclip.errors import Problems, UserError
from sclip.evaluation.bootstrap import Estimate
from sclip.evaluation.data import open_test_split
from sclip.evaluation.evaluate import Annotations, evaluate
from sclip.evaluation.spotting import KeywordLabels
from sclip.features.dataset import Dataset
from sclip.features.transcripts import Transcripts
from sclip.model.loading import load
from sclip.model.speechclip import SpeechCLIP

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    folder: Path  # of the metrics
    recalls: dict[str, Estimate]  # R@10 of speech to image, by branch


def run_trained(
    params: Params, preset: str, arch: str, seed: int, device: str, problems: Problems, *, exact: bool = False
) -> EvaluationResult:
    """Evaluate the model that was trained here, on the stored hidden states, or with `exact` on exact ones."""
    folder = paths.model_folder(preset, arch, seed)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; `sclip train --preset {preset} --arch {arch} --seed {seed}` makes it"
        )
    model = load(folder, device=device)
    if model.name != arch:
        raise UserError(
            f"{folder}: expected a model of architecture {arch}, found one of {model.name}; move the folder to "
            f"{paths.model_folder(preset, model.name, seed)}, or evaluate it with `sclip evaluate --preset {preset} "
            f"--model {folder}`"
        )
    if model.architecture != params.experiment(preset, arch).architecture:
        raise UserError(
            f"{folder}: was trained with another architecture than {params.where} and -S describe; give the -S options "
            f"of its training, set the keys of {arch} back, or train it again with `sclip train --preset {preset} "
            f"--arch {arch} --seed {seed}`"
        )
    _warn_of_other_training(model, folder, preset, seed)
    dataset = open_test_split(params, preset, model, problems, exact)
    return _evaluate(params, preset, model, dataset, paths.results_folder(preset, arch, seed, exact), {"seed": seed})


def _warn_of_other_training(model: SpeechCLIP, folder: Path, preset: str, seed: int) -> None:
    """Log a warning if a model folder was copied or renamed: its results count as those of the new name."""
    trained = {key: model.origin.get(key) for key in ("preset", "seed")}
    if is_main() and trained != {"preset": preset, "seed": str(seed)} and None not in trained.values():
        log.warning(
            f"{folder}: this model was trained with preset {trained['preset']} and seed {trained['seed']}; its results "
            f"count as those of preset {preset}, seed {seed}"
        )


def run_imported(
    params: Params, preset: str, folder: Path, device: str, problems: Problems, *, exact: bool = False
) -> EvaluationResult:
    """Evaluate a model folder from anywhere. `exact` is that of `run_trained`."""
    model = load(folder, device=device)
    out = paths.imported_results_folder(preset, model.name, exact)
    dataset = open_test_split(params, preset, model, problems, exact)
    return _evaluate(params, preset, model, dataset, out, {"model": str(folder)})


def _evaluate(
    params: Params, preset: str, model: SpeechCLIP, dataset: Dataset, out: Path, about: dict[str, str | int]
) -> EvaluationResult:
    corpus = params.preset(preset).corpus
    annotations = Annotations(
        language=corpus.language,
        synonyms=list(SIZE_WORDS.values()) if corpus.kind == "scenes" else [],
        labels=KeywordLabels.find(Path(corpus.path)) if isinstance(corpus, Flickr8kConfig) else None,
        transcripts=Transcripts.find(dataset.rows, paths.transcripts(preset)),
    )
    about = {"preset": preset, **about}
    metrics = evaluate(model, dataset, model.device, out, about=about, annotations=annotations)
    branches = {branch: scores for branch, scores in metrics["speech_to_image"].items() if branch != "chance"}
    return EvaluationResult(out, {branch: scores["R@10"] for branch, scores in branches.items()})
