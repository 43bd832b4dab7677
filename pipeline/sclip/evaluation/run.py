"""Open the model and the data of an experiment in params.yaml, and evaluate the model on the test split."""

from dataclasses import dataclass
from pathlib import Path

from sclip import paths
from sclip.config import Encoders, FeaturesConfig, Flickr8kConfig, Params
from sclip.corpora.scenes.captions import SIZE_WORDS
from sclip.encoders.open import recorded_name
from sclip.encoders.source import is_random
from sclip.errors import Problems, UserError
from sclip.evaluation.bootstrap import Estimate
from sclip.evaluation.evaluate import Annotations, evaluate
from sclip.evaluation.spotting import KeywordLabels
from sclip.features.dataset import Dataset
from sclip.features.encode import FeatureEncoder
from sclip.features.settings import check_settings
from sclip.features.transcripts import Transcripts
from sclip.model.loading import load
from sclip.model.speechclip import SpeechCLIP


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
    if model.architecture != params.experiment(preset, arch).architecture:
        raise UserError(
            f"{folder}: was trained with another architecture than {params.where} and -S describe; give the -S options "
            f"of its training, set the keys of {arch} back, or train it again with `sclip train --preset {preset} "
            f"--arch {arch} --seed {seed}`"
        )
    dataset = _dataset(params, preset, model, problems, exact)
    return _evaluate(params, preset, model, dataset, paths.results_folder(preset, arch, seed, exact), {"seed": seed})


def run_imported(
    params: Params, preset: str, folder: Path, device: str, problems: Problems, *, exact: bool = False
) -> EvaluationResult:
    """Evaluate a model folder from anywhere. `exact` is that of `run_trained`."""
    model = load(folder, device=device)
    out = paths.imported_results_folder(preset, model.name, exact)
    dataset = _dataset(params, preset, model, problems, exact)
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


def _dataset(params: Params, preset: str, model: SpeechCLIP, problems: Problems, exact: bool) -> Dataset:
    if exact:
        return _exact_dataset(params, preset, model, problems)
    return _stored_dataset(params, preset, model)


def _stored_dataset(params: Params, preset: str, model: SpeechCLIP) -> Dataset:
    """Open the states that the feature index records: stored ones, or computed online in its precision."""
    config, features = params.preset(preset).features, paths.features_folder(preset)
    encoder = FeatureEncoder(model.speech, None, config, model.device)
    dataset = Dataset.open(paths.manifest(preset), features, paths.vectors_folder(preset), "test", encoder)
    dataset.check_encoders(model.speech, model.clip, model.name)
    check_settings(dataset.store.features, config, features, preset)
    _check_encoder_names(dataset, params.preset(preset).encoders, preset)
    return dataset.with_pinned_batches(model.device)


def _check_encoder_names(dataset: Dataset, encoders: Encoders, preset: str) -> None:
    """Refuse encoder settings, overrides included, other than those of the stored states and vectors.

    States of an encoder of this name with random weights (`--random-encoders`) are a rehearsal, and accepted.
    """
    features = dataset.store.features
    settings = [
        ("speech.name", features["encoder"], recorded_name(encoders.speech)),
        ("speech.normalize_waveform", features["normalize_waveform"], encoders.speech.normalize_waveform),
        ("clip.name", dataset.clip["name"], recorded_name(encoders.clip)),
    ]
    for key, stored, wanted in settings:
        is_rehearsal = isinstance(stored, str) and is_random(stored) and stored.startswith(f"{wanted} (")
        if wanted is not None and stored != wanted and not is_rehearsal:
            raise UserError(
                f"presets.{preset}.encoders.{key}: found {wanted!r}, but what is stored was computed with {stored!r}; "
                "set it back, or run extract-features, embed-clip and train with it first"
            )


def _exact_dataset(params: Params, preset: str, model: SpeechCLIP, problems: Problems) -> Dataset:
    """Open states that the model's own speech encoder computes from the recordings in fp32, as `encode_speech` does."""
    seconds = params.preset(preset).features.batch_seconds
    config = FeaturesConfig(online=True, compute="fp32", precision="fp32", batch_seconds=seconds)
    encoder = FeatureEncoder(model.speech, None, config, model.device)
    manifest, vectors = paths.manifest(preset), paths.vectors_folder(preset)
    dataset = Dataset.open_exact(manifest, vectors, "test", encoder, problems)
    dataset.check_encoders(model.speech, model.clip, model.name)
    return dataset
