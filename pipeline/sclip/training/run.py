"""From params.yaml to a trained model: opens what an experiment names, draws the head, trains it."""

from collections.abc import Iterable
from pathlib import Path

import torch

from sclip import paths
from sclip.config import Architecture, ClipEncoderConfig, Params, SpeechEncoderConfig
from sclip.corpora.manifest import Row
from sclip.distributed import locked_by_main
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import open_clip, open_speech
from sclip.errors import UserError
from sclip.features.dataset import Dataset
from sclip.features.encode import FeatureEncoder
from sclip.features.settings import check_settings, describe_states
from sclip.heads.vocabulary import Vocabulary
from sclip.model.folder import STATES
from sclip.model.speechclip import SpeechCLIP
from sclip.training.loop import TrainingResult, train


def run_training(
    params: Params, preset_name: str, arch: str, seed: int, device: str = "cpu", curves_folder: Path | None = None
) -> TrainingResult:
    preset, experiment = params.preset(preset_name), params.experiment(preset_name, arch)
    manifest = paths.manifest(preset_name)
    features, vectors = paths.features_folder(preset_name), paths.vectors_folder(preset_name)
    speech, clip = open_speech(preset.encoders.speech), open_clip(preset.encoders.clip)
    encoder = FeatureEncoder(speech, None, preset.features, device)
    train_set, dev_set = Dataset.open_splits(manifest, features, vectors, ("train", "dev"), encoder)
    inside = _only_here(preset.encoders.speech) or _only_here(preset.encoders.clip)
    vocabulary = _vocabulary(train_set.rows, experiment.architecture, clip, f"{manifest}: {arch}")
    check_settings(train_set.store.features, preset.features, features, preset_name)
    origin = {"trained on": preset.corpus.kind, "preset": preset_name, "seed": str(seed)}
    origin[STATES] = describe_states(train_set.store.features)
    if inside:  # the copies do not say what they are copies of
        origin |= {"speech encoder": speech.source.name, "CLIP": clip.source.name}
    torch.manual_seed(seed)
    model = SpeechCLIP(arch, experiment.architecture, speech, clip, vocabulary, origin, encoders_inside=inside)
    train_set.check_encoders(model.speech, model.clip, model.name)
    out, scratch = paths.model_folder(preset_name, arch, seed), paths.scratch_folder(preset_name, arch, seed)
    with locked_by_main(scratch):
        return train(train_set, dev_set, model, experiment.training, seed, device, out, scratch, curves_folder)


def _only_here(encoder: SpeechEncoderConfig | ClipEncoderConfig) -> bool:
    """Weights drawn at random and folders cannot be had elsewhere: the model's folder takes a copy."""
    return encoder.random_seed is not None or Path(encoder.name.removeprefix("local-dir:")).is_dir()


def _vocabulary(rows: Iterable[Row], architecture: Architecture, clip: ClipEncoder, where: str) -> Vocabulary | None:
    """The tokens that the training captions use."""
    if architecture.head.keywords is None:
        return None
    captions = [row.text for row in rows if row.text is not None]
    if not captions:
        raise UserError(f"{where}: keywords are words of the training captions, and no row of split train has text")
    return Vocabulary.from_captions(captions, clip)
