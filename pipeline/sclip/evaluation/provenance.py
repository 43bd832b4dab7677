"""What metrics.json says about an evaluation: the model, the data, and what is needed to run it again."""

import dataclasses
from typing import Any

import torch

import sclip
from sclip.evaluation.bootstrap import RESAMPLES, SEED
from sclip.evaluation.keywords import describe_stop_words
from sclip.features.dataset import Dataset
from sclip.features.settings import describe_states
from sclip.model.folder import STATES, TRAINING
from sclip.model.speechclip import SpeechCLIP


def describe_run(model: SpeechCLIP, dataset: Dataset, language: str | None) -> dict[str, Any]:
    """Return a description of the model, the data and the environment."""
    is_cuda = model.device.type == "cuda"
    return {
        "arch": model.name,
        "architecture": dataclasses.asdict(model.architecture),
        **({"weights": model.weights_digest} if model.weights_digest is not None else {}),
        "encoders": _encoders(dataset),
        "encoder_hashes": {"speech": dataset.store.features["hash"], "clip": dataset.clip["hash"]},
        "states": describe_states(dataset.store.features),
        **({"training_states": model.origin[STATES]} if STATES in model.origin else {}),
        **({"training": model.origin[TRAINING]} if TRAINING in model.origin else {}),
        "stop_words": describe_stop_words(language),
        "sclip": sclip.__version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(model.device) if is_cuda else model.device.type,
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED},
    }


def _encoders(dataset: Dataset) -> dict[str, str]:
    """Return the names and revisions of the encoders that computed the hidden states and the vectors."""
    speech, clip = dataset.store.features, dataset.clip
    revisions = {"speech": (speech["encoder"], speech["revision"]), "clip": (clip["name"], clip["revision"])}
    return {encoder: f"{name} at {revision}" if revision else name for encoder, (name, revision) in revisions.items()}
