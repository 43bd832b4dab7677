"""The test split that a model is evaluated on, with checks that its states and vectors are of the right encoders."""

from sclip import paths
from sclip.config import Encoders, FeaturesConfig, Params
from sclip.encoders.open import recorded_name
from sclip.encoders.source import is_random
from sclip.errors import Problems, UserError
from sclip.features.dataset import Dataset
from sclip.features.encode import FeatureEncoder
from sclip.features.settings import check_settings
from sclip.model.speechclip import SpeechCLIP


def open_test_split(params: Params, preset: str, model: SpeechCLIP, problems: Problems, exact: bool) -> Dataset:
    """Open what the model is evaluated on: the stored hidden states, or with `exact` those of its own encoder."""
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
