"""Load a trained model from a model folder or a hub repo.

Encoders outside the folder must have the weights that the head was trained with: their hashes are compared.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch

from sclip.config import SpeechEncoderConfig
from sclip.device import check_device, configure_cuda
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder, open_speech
from sclip.encoders.source import find_folder
from sclip.errors import UserError
from sclip.heads.vocabulary import Vocabulary
from sclip.model.folder import (
    VOCABULARY_FILE,
    EncoderReference,
    check_files,
    encoder_path,
    read_config,
)
from sclip.model.listing import WEIGHTS_FILE
from sclip.model.speechclip import SpeechCLIP
from sclip.tensors import fill, read_tensors, with_prefix

# A repo's tensors, settings and card, and never its code.
REPO_FILES = ["*.json", "*.safetensors", "README.md"]
Encoder = TypeVar("Encoder", bound=AnySpeechEncoder | ClipEncoder)


def load(
    name: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu", **download: Any
) -> SpeechCLIP:
    """Load a model folder, or a hub repo that holds one. `download`: token, cache_dir and the like for the hub.

    This turns off TF32 and cuDNN's attention in the whole process, so that vectors of a GPU equal those of a CPU.
    """
    configure_cuda()
    check_device(device)
    folder, commit = find_folder(str(name), revision, REPO_FILES, **download)
    config = read_config(folder)
    check_files(folder, config)
    speech_path, clip_path = (
        encoder_path(reference.name, inside, folder, from_hub=commit is not None)
        for reference, inside in ((config.speech_encoder, "speech"), (config.clip_encoder, "clip"))
    )
    speech, clip = _open_speech(config.speech_encoder, speech_path), _open_clip(config.clip_encoder, clip_path)
    vocabulary = Vocabulary.load(folder / VOCABULARY_FILE) if config.head.keywords else None
    # A copy of the model must not depend on the folders around this one.
    inside = bool(speech_path or clip_path)
    try:
        model = SpeechCLIP(config.arch, config.architecture, speech, clip, vocabulary, config.origin, inside)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if model.head.sizes != config.sizes:
        raise UserError(f"{folder}: the head was made for {config.sizes}, found encoders of {model.head.sizes}")
    tensors = read_tensors(folder / WEIGHTS_FILE)
    fill(model.head, with_prefix(tensors, "head."), f"{folder / WEIGHTS_FILE}: head")
    fill(model.objective, with_prefix(tensors, "objective."), f"{folder / WEIGHTS_FILE}: objective")
    model.weights_digest = config.files[WEIGHTS_FILE]
    return model.to(device)


def _open_speech(reference: EncoderReference, path: str | None) -> AnySpeechEncoder:
    config = SpeechEncoderConfig(path or str(reference.name), reference.revision, reference.normalize_waveform)
    return _checked(open_speech(config), reference)


def _open_clip(reference: EncoderReference, path: str | None) -> ClipEncoder:
    name = str(reference.name) if path is None else f"local-dir:{path}"
    return _checked(ClipEncoder.from_pretrained(name, reference.revision), reference)


def _checked(encoder: Encoder, reference: EncoderReference) -> Encoder:
    found = encoder.fingerprint()
    if found != reference.hash:
        hashes = f"expected hash {reference.hash[:12]}…, found {found[:12]}…"
        raise UserError(
            f"encoder {encoder.source.name}: not the one that the head was trained with: {hashes}; "
            "use the encoder of its training"
        )
    return encoder
