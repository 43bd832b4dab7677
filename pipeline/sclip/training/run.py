"""Run one experiment of params.yaml: open its encoders and data, initialize the head, and train it."""

import logging
from pathlib import Path

import torch

from sclip import paths
from sclip.config import ClipEncoderConfig, Params, SpeechEncoderConfig
from sclip.distributed import is_main, locked_by_main
from sclip.encoders.open import open_clip_encoder, open_speech
from sclip.errors import counted
from sclip.evaluation.retrieval import always_found
from sclip.features.dataset import Dataset
from sclip.features.encode import FeatureEncoder
from sclip.features.settings import check_settings, describe_states
from sclip.model.folder import CLIP, SPEECH, STATES, TRAINING
from sclip.model.speechclip import SpeechCLIP
from sclip.training.loop import TrainingResult, train
from sclip.training.start import start_from, warn_of_replacement
from sclip.training.vocabulary import caption_vocabulary

log = logging.getLogger(__name__)


def run_training(
    params: Params,
    preset_name: str,
    arch: str,
    seed: int,
    device: str = "cpu",
    curves_folder: Path | None = None,
    start: Path | str | None = None,
) -> TrainingResult:
    """Train the head `arch` of a preset with one seed, and write it to the preset's model folder.

    The weights are drawn at random, or are those of the trained model `start`.
    """
    preset, experiment = params.preset(preset_name), params.experiment(preset_name, arch)
    manifest = paths.manifest(preset_name)
    features, vectors = paths.features_folder(preset_name), paths.vectors_folder(preset_name)
    speech, clip = open_speech(preset.encoders.speech), open_clip_encoder(preset.encoders.clip)
    encoder = FeatureEncoder(speech, None, preset.features, device)
    train_set, dev_set = Dataset.open_splits(manifest, features, vectors, ("train", "dev"), encoder)
    copy_encoders = _is_local(preset.encoders.speech) or _is_local(preset.encoders.clip)
    vocabulary = caption_vocabulary(train_set.tokens, experiment, clip, f"{manifest}: {arch}")
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
    if start is not None:
        start_from(model, start)
    out, scratch = paths.model_folder(preset_name, arch, seed), paths.scratch_folder(preset_name, arch, seed)
    with locked_by_main(scratch):
        if is_main():
            warn_of_replacement(model, out)
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
