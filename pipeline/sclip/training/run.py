"""Run one experiment of params.yaml: open its encoders and data, initialize the head, and train it."""

import logging
from pathlib import Path

import torch

from sclip import paths
from sclip.config import ClipEncoderConfig, Experiment, Params, SpeechEncoderConfig
from sclip.distributed import is_main, locked_by_main
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import open_clip_encoder, open_speech
from sclip.errors import UserError, counted
from sclip.evaluation.retrieval import always_found
from sclip.features.dataset import Dataset
from sclip.features.encode import FeatureEncoder
from sclip.features.settings import check_settings, describe_states
from sclip.features.vectors import TokenVectors
from sclip.heads.vocabulary import Vocabulary
from sclip.model.folder import CLIP, SPEECH, STATES, TRAINING
from sclip.model.speechclip import SpeechCLIP
from sclip.training.loop import TrainingResult, train

log = logging.getLogger(__name__)


def run_training(
    params: Params, preset_name: str, arch: str, seed: int, device: str = "cpu", curves_folder: Path | None = None
) -> TrainingResult:
    """Train the head `arch` of a preset with one seed, and write it to the preset's model folder."""
    preset, experiment = params.preset(preset_name), params.experiment(preset_name, arch)
    manifest = paths.manifest(preset_name)
    features, vectors = paths.features_folder(preset_name), paths.vectors_folder(preset_name)
    speech, clip = open_speech(preset.encoders.speech), open_clip_encoder(preset.encoders.clip)
    encoder = FeatureEncoder(speech, None, preset.features, device)
    train_set, dev_set = Dataset.open_splits(manifest, features, vectors, ("train", "dev"), encoder)
    copy_encoders = _is_local(preset.encoders.speech) or _is_local(preset.encoders.clip)
    vocabulary = _vocabulary(train_set.tokens, experiment, clip, f"{manifest}: {arch}")
    check_settings(train_set.store.features, preset.features, features, preset_name)
    _warn_of_few_pictures(len(dev_set.images))
    origin = {"trained on": preset.corpus.kind, "preset": preset_name, "seed": str(seed)}
    if preset.corpus.language is not None:
        origin["language"] = preset.corpus.language
    origin[TRAINING] = experiment.training.describe(len(train_set))
    origin[STATES] = describe_states(train_set.store.features)
    if copy_encoders:  # the copies do not record what they were copied from
        origin |= {SPEECH: speech.source.name, CLIP: clip.source.name}
    torch.manual_seed(seed)
    model = SpeechCLIP(arch, experiment.architecture, speech, clip, vocabulary, origin, encoders_inside=copy_encoders)
    train_set.check_encoders(model.speech, model.clip, model.name)
    out, scratch = paths.model_folder(preset_name, arch, seed), paths.scratch_folder(preset_name, arch, seed)
    with locked_by_main(scratch):
        return train(train_set, dev_set, model, experiment.training, seed, device, out, scratch, curves_folder)


def _warn_of_few_pictures(pictures: int) -> None:
    if is_main() and "R@10" in always_found(pictures):
        log.warning(
            f"split dev has {counted(pictures, 'pictures')}, so R@10, which chooses the weights, hardly differs "
            "between steps, and the last of equally good ones is kept; give this split more pictures"
        )


def _is_local(encoder: SpeechEncoderConfig | ClipEncoderConfig) -> bool:
    """Return whether an encoder has random weights or comes from a folder.

    Nobody else can download such an encoder, so the model folder includes a copy.
    """
    return encoder.random_seed is not None or Path(encoder.name.removeprefix("local-dir:")).is_dir()


def _vocabulary(
    tokens: TokenVectors | None, experiment: Experiment, clip: ClipEncoder, where: str
) -> Vocabulary | None:
    """Return the tokens of the captions, most frequent first, or None if the architecture has no keywords."""
    if experiment.head.keywords is None:
        return None
    _ = clip.text_tower  # raises an error if this CLIP takes no keywords
    if tokens is None:
        raise UserError(
            f"{where}: keywords are words of captions, but no row of split train has text; "
            "add text to the manifest, or choose an architecture without keywords"
        )
    counts = dict(zip(tokens.ids, tokens.counts.tolist(), strict=True))
    if experiment.training.vocabulary == "train":
        counts = {token: count for token, count in counts.items() if count}
    return Vocabulary.from_counts(counts, clip)
