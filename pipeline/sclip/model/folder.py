"""The configuration of a model folder, and checks of its files."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sclip import __version__
from sclip.config import Architecture, HeadConfig, ObjectiveConfig, require_folder_name
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.clip_folder import CONFIG_FILE as CLIP_CONFIG_FILE
from sclip.encoders.open import AnySpeechEncoder
from sclip.encoders.speech import FAMILY, SpeechEncoder
from sclip.errors import UserError
from sclip.files import check_digest, file_digest
from sclip.fingerprints import data_fingerprint
from sclip.formats import VERSION, check_format
from sclip.heads.head import EncoderSizes
from sclip.model.listing import CONFIG_FILE, WEIGHTS_FILE, find_models
from sclip.parsing import parse, read_json, read_table
from sclip.tensors import save_tensors

FORMAT = "sclip model 2"
SPEECH, CLIP = "speech encoder", "CLIP"  # the keys of `origin` with the names of encoders that were copied
STATES = "states in training"  # the key of `origin` that says which hidden states the head was trained on
TRAINING = "training"  # the key of `origin` that says with which settings the head was trained
VOCABULARY_FILE = "vocabulary.json"
ENCODERS = ("speech", "clip")  # the folders of encoders inside a model folder
MAX_MODELS = 5  # models in an error
EXPECTED = "name a folder with a trained model; `sclip list models` lists them"


@dataclass(frozen=True)
class EncoderReference:
    """An encoder in a model folder's config.json."""

    # A hub repo, a tag, a path, or `../FOLDER` for a folder next to the model folder; None: it is in the model folder.
    name: str | None
    revision: str | None
    hash: str  # of weights and configuration
    normalize_waveform: bool | None = None


@dataclass(frozen=True)
class ModelConfig:
    """A model folder's config.json."""

    format: str
    arch: str  # the architecture's name
    head: HeadConfig
    objective: ObjectiveConfig
    sizes: EncoderSizes
    speech_encoder: EncoderReference
    clip_encoder: EncoderReference
    origin: dict[str, str]  # where the weights come from
    files: dict[str, str]  # the SHA-256 of files in the folder
    version: str | None = None  # of sclip
    digest: str | None = None  # of what decides results; see `settings_digest`

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.head, self.objective)

    def __post_init__(self) -> None:
        require_folder_name("arch", self.arch)
        _ = self.architecture  # the two must fit


def read_config(folder: Path) -> ModelConfig:
    path = folder / CONFIG_FILE
    data = read_json(path) if path.is_file() else {}
    if isinstance(data, dict) and "format" not in data:
        raise _not_a_model(folder)
    check_format(path, data, FORMAT, "download the model again, or train or import it again")
    config = parse(ModelConfig, data, str(path))
    if config.digest is not None and config.digest != settings_digest(data):
        raise UserError(
            f"{path}: its digest is not that of its settings; the file is damaged or was edited; "
            "copy it again, or remove `digest` to accept an edit"
        )
    return config


def reference(encoder: AnySpeechEncoder | ClipEncoder, *, inside: bool) -> EncoderReference:
    """Describe an encoder that lies inside the model folder, or that is named by its place."""
    normalize = encoder.normalize_waveform if isinstance(encoder, SpeechEncoder) else None
    name, revision = (None, None) if inside else (encoder.source.name, encoder.source.revision)
    return EncoderReference(name, revision, encoder.fingerprint(), normalize)


def write_config(folder: Path, config: ModelConfig) -> None:
    data = json.loads(json.dumps(dataclasses.asdict(config) | {VERSION: __version__}))
    text = json.dumps(data | {"digest": settings_digest(data)}, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def settings_digest(data: dict[str, Any]) -> str:
    """Return the SHA-256 of the settings that decide results.

    These are all settings except the origin, the version, and the encoders' names and revisions. Their keys are those
    that are written, because later versions may have more keys with defaults.
    """
    settings = {key: value for key, value in data.items() if key not in ("origin", VERSION, "digest")}
    for encoder in ("speech_encoder", "clip_encoder"):
        settings[encoder] = {key: data[encoder][key] for key in data[encoder] if key not in ("name", "revision")}
    return data_fingerprint(settings)


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the trained tensors, in the form that transformers reads."""
    save_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})


def written_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a model's files, for its configuration. Encoders' weights have a hash of their own."""
    names = [name for name in (WEIGHTS_FILE, VOCABULARY_FILE) if (folder / name).is_file()]
    settings = [path for encoder in ENCODERS for path in sorted(folder.glob(f"{encoder}/*.json"))]
    names += [f"{path.parent.name}/{path.name}" for path in settings]
    return {name: file_digest(folder / name) for name in names}


def encoder_path(name: str | None, inside: str, folder: Path, *, from_hub: bool) -> str | None:
    """Return the path of an encoder that lies in or next to a model folder, or None if `name` says where it is."""
    if name is None:
        return _existing(folder / inside, folder, "copy the model again, with all its folders")
    path = Path(name.removeprefix("local-dir:"))
    if from_hub and not path.is_absolute() and ".." not in path.parts:
        return None
    if not from_hub and not name.startswith("../"):
        return None
    if from_hub or not re.fullmatch(r"\.\./[\w-][\w.-]*", name):
        raise UserError(
            f"{folder / CONFIG_FILE}: encoder {name!r}: expected the name of a folder next to a local model folder, "
            "such as ../mini-clip"
        )
    beside = folder.resolve().parent / name.removeprefix("../")
    return _existing(beside, folder, "move this encoder together with the model, or copy it there")


def _existing(encoder: Path, folder: Path, advice: str) -> str:
    if not encoder.is_dir():
        raise UserError(f"{folder / CONFIG_FILE}: names an encoder in the folder {encoder}, which is missing; {advice}")
    return str(encoder)


def check_files(folder: Path, config: ModelConfig) -> None:
    """Refuse files that are not those of config.json. Only weights and vocabulary must exist."""
    names = [WEIGHTS_FILE] if config.head.keywords is None else [WEIGHTS_FILE, VOCABULARY_FILE]
    # Not any name: a model from elsewhere must not make this read all files of the machine.
    others = rf"({'|'.join(ENCODERS)})/\w[\w.-]*"
    names += [name for name in config.files if re.fullmatch(others, name) and (folder / name).is_file()]
    for name in names:
        check_digest(folder / name, config.files.get(name), CONFIG_FILE, "copy the model again, or train it again")


def _not_a_model(folder: Path) -> UserError:
    """Return an error that says what a folder without a model's configuration is, and what to load instead."""
    models = [str(model.folder) for model in find_models(folder, depth=2)][:MAX_MODELS]
    if models:
        return UserError(f"{folder}: not a model folder, but models are below it; load one of {', '.join(models)}")
    if (folder / CLIP_CONFIG_FILE).is_file():
        found = ", but a CLIP model in open_clip's format"
    elif str(read_table(folder / CONFIG_FILE).get("model_type")) in FAMILY:
        found = ", but a speech encoder in transformers' format"
    elif (folder / CONFIG_FILE).is_file():
        found = f" ({folder / CONFIG_FILE}: format: expected {FORMAT!r}, found None)"
    else:
        found = f" ({folder / CONFIG_FILE}: no such file)"
    return UserError(f"{folder}: not a model folder{found}; {EXPECTED}")
