"""A published SpeechCLIP or SpeechCLIP+ checkpoint into a model folder, without the code that wrote it.

What makes an utterance's result depend on its batch stays off (config.py names it): a published number that was
measured with it can move in the last digits, and one utterance gives one result.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from sclip.encoders.clip import ClipEncoder
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder, declared_options
from sclip.errors import UserError
from sclip.heads.vocabulary import Vocabulary
from sclip.interop.checkpoint import read_checkpoint
from sclip.interop.fairseq import DROPPED, hubert_config, hubert_name
from sclip.interop.published import TOKENS, head_name, head_tensors
from sclip.interop.settings import Settings, published_settings
from sclip.model.speechclip import SpeechCLIP
from sclip.parsing import read_json
from sclip.tensors import fill, with_prefix

# Rows of the reduced vocabulary that the published quantiser never chooses: padding, start, end.
BLOCKED_ROWS = (0, 2, 3)
HUBERT, CLIP = "audio_encoder.encoder.", "clip.model."
FULL_TABLE, TABLE = "clip.original_text_emb_weight", "clip.model.token_embedding.weight"
# What tells the sizes of an OpenAI vision transformer and its text tower.
SIZED_BY = (
    "visual.conv1.weight",
    "visual.class_embedding",
    "visual.positional_embedding",
    "token_embedding.weight",
    "positional_embedding",
    "text_projection",
)
# Tensors that mean nothing here, and why.
IGNORED = (
    ("criterion.eye_mat", "the loss's identity matrices"),
    ("criterion.neg_eye_mat", "the loss's identity matrices"),
    ("cascaded_branch.clip.", "a second copy of CLIP"),
    ("cascaded_branch.vector_quantizer.", "the quantiser's temperature, read from the configuration"),
    *((HUBERT + name, "HuBERT's pre-training") for name in DROPPED),
)


@dataclass
class ImportReport:
    read: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def import_checkpoint(path: str | Path, out: str | Path, encoders: str | Path | None = None) -> ImportReport:
    """`encoders`: a JSON file with the encoders' configurations, `hubert` as in transformers' config.json and `clip`
    as in open_clip's model_cfg, where they are not of the published sizes."""
    path, out = Path(path), Path(out)
    if out.exists():
        raise UserError(f"{out}: already exists")
    checkpoint = read_checkpoint(path)
    try:
        return _import(checkpoint, path, out, encoders)
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        # A configuration or a tensor that no published run has, and no check above expects.
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be made into a model: {type(error).__name__}: {reason}") from None


def _import(checkpoint: Mapping[str, Any], path: Path, out: Path, encoders: str | Path | None) -> ImportReport:
    tensors = _state_dict(checkpoint, path)
    settings = Settings(_configuration(checkpoint, path), str(path))
    sizes = _read_sizes(Path(encoders)) if encoders else {}
    published = published_settings(settings, tensors)
    if settings.get("clip.reduce_subword_embbedding", None) is not None and FULL_TABLE not in tensors:
        raise UserError(f"{path}: {FULL_TABLE} is missing, and the vocabulary was reduced")
    if not encoders:  # whose sizes can be told from the tensors
        settings.only("audio_encoder.name", "hubert", "hubert_base", "hubert_large_ll60k")
        settings.only("clip.name", "ViT-B/32", "ViT-B/16", "ViT-L/14")
    report = ImportReport()
    report.read.append(f"configuration: {published.arch}, {published.speech_name}, {published.clip_name}")

    speech = _speech_encoder(tensors, sizes.get("hubert"), published.normalize_waveform, path)
    clip, vocabulary = _clip_encoder(tensors, sizes.get("clip"), path)
    has_keywords = published.architecture.head.keywords is not None
    model = SpeechCLIP(
        published.arch,
        published.architecture,
        speech,
        clip,
        vocabulary if has_keywords else None,
        _origin(checkpoint, path),
        encoders_inside=True,
    )
    _refuse_unknown_parts(tensors, path)
    ours = head_tensors(tensors, published.architecture.head)
    if not len(model.head.tokens):  # CIF alone has no learned tokens
        ours["tokens"] = model.head.tokens
    fill(model.head, ours, f"{path}: sclip's head")
    if published.architecture.objective.learn_temperature:
        fill(model.objective, _log_scale(tensors), f"{path}: sclip's objective")
    model.save(out)
    _account(tensors, published.architecture.objective.learn_temperature, report)
    if has_keywords:
        report.read.append(f"reduced vocabulary: {len(vocabulary)} of {len(clip.text_tower.table)} tokens")
    return report


def _read_sizes(path: Path) -> dict[str, Any]:
    sizes = read_json(path)
    try:
        return {part: dict(sizes[part]) for part in ("hubert", "clip")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected the tables hubert and clip: {error!r}") from None


def _state_dict(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    tensors = checkpoint.get("state_dict")
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"{path}: expected tensors under state_dict, found {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UserError(f"{path}: state_dict.{name}: expected a plain tensor by a name")
    return {name: t.detach().float() if t.is_floating_point() else t for name, t in tensors.items()}


def _configuration(checkpoint: Mapping[str, Any], path: Path) -> Any:
    parameters = checkpoint.get("hyper_parameters")
    if not isinstance(parameters, dict) or "config" not in parameters:
        raise UserError(f"{path}: no hyper_parameters.config: not a checkpoint of SpeechCLIP or SpeechCLIP+")
    return parameters["config"]


def _speech_encoder(
    tensors: Mapping[str, Tensor], config: dict[str, Any] | None, normalize: bool, path: Path
) -> SpeechEncoder:
    hubert = with_prefix(tensors, HUBERT)
    try:
        config = declared_options(HubertConfig, config or hubert_config(hubert))
        model = HubertModel(HubertConfig(**{**config, "apply_spec_augment": False}))
    except KeyError as error:
        raise UserError(f"{path}: {HUBERT}{error.args[0]} is missing") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: no HuBERT has this configuration: {error}") from None
    theirs = {name: tensor for name, tensor in hubert.items() if not name.startswith(DROPPED)}
    renamed = {hubert_name(name) or name: tensor for name, tensor in theirs.items()}
    fill(model, renamed, f"{path}: transformers' hubert")
    # Models with layer norms normalise the waveform by themselves, whatever the data set did.
    return SpeechEncoder(model, Source("speech"), normalize or None)


def _clip_encoder(
    tensors: Mapping[str, Tensor], config: dict[str, Any] | None, path: Path
) -> tuple[ClipEncoder, Vocabulary]:
    clip = with_prefix(tensors, CLIP)
    for name in SIZED_BY:
        if name not in clip:
            raise UserError(f"{path}: {CLIP}{name} is missing")
    reduced, full = tensors[TABLE], tensors.get(FULL_TABLE, tensors[TABLE])
    clip["token_embedding.weight"] = full
    encoder = ClipEncoder.from_tensors(config or clip_config(clip, path), clip, f"{path}: open_clip's clip")
    ids = find_rows(reduced, full, path)
    return encoder, Vocabulary(ids, tuple(encoder.piece(i) for i in ids), BLOCKED_ROWS)


def clip_config(clip: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """open_clip's configuration of one of OpenAI's vision transformers, whose heads are all 64 wide."""
    width, _, patch, _ = clip["visual.conv1.weight"].shape
    if width % 64 or clip["positional_embedding"].shape[1] % 64:
        raise UserError(f"{path}: its CLIP is not of a published width, and the sizes of its heads cannot be told")
    grid = round((len(clip["visual.positional_embedding"]) - 1) ** 0.5)
    context, text_width = clip["positional_embedding"].shape
    return {
        "embed_dim": clip["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": {
            "layers": sum(name.endswith("attn.in_proj_weight") for name in clip if name.startswith("visual.")),
            "width": width,
            "patch_size": patch,
            "image_size": grid * patch,
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": len(clip["token_embedding.weight"]),
            "width": text_width,
            "heads": text_width // 64,
            "layers": sum(name.endswith("attn.in_proj_weight") for name in clip if name.startswith("transformer.")),
        },
    }


def find_rows(reduced: Tensor, full: Tensor, path: Path) -> tuple[int, ...]:
    """Which row of the full table (V, W) each row of the reduced one (R, W) is, bit for bit."""
    places: dict[bytes, int] = {}
    for i, row in enumerate(full.numpy()):
        places.setdefault(row.tobytes(), i)
    ids = [places.get(row.tobytes()) for row in reduced.numpy()]
    if None in ids:
        raise UserError(f"{path}: {TABLE}: row {ids.index(None)} is not in {FULL_TABLE}")
    return tuple(i for i in ids if i is not None)


def _log_scale(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"log_scale": tensors["criterion.temperature"]} if "criterion.temperature" in tensors else {}


def _origin(checkpoint: Mapping[str, Any], path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"imported from": path.name, "its SHA-256": digest}
    for key in ("epoch", "global_step"):
        if key in checkpoint:
            origin[f"its {key}"] = str(checkpoint[key])
    return origin


def _ignored(name: str) -> str | None:
    """Why a tensor means nothing here, if it does not."""
    return next((why for prefix, why in IGNORED if name.startswith(prefix)), None)


def _refuse_unknown_parts(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A trained part that sclip does not have would be missed in silence."""
    for name in tensors:
        known = head_name(name) or name in TOKENS or _ignored(name)
        if name.startswith(("cascaded_branch.", "parallel_branch.")) and not known:
            raise UserError(f"{path}: {name}: unknown, and part of what was trained")


def _account(tensors: Mapping[str, Tensor], learned_temperature: bool, report: ImportReport) -> None:
    """Every tensor of the checkpoint, as read or as ignored."""
    read: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for name in tensors:
        if reason := _ignored(name):
            ignored[reason] += 1
        elif name.startswith(HUBERT):
            read["HuBERT"] += 1
        elif name.startswith(CLIP) or name == FULL_TABLE:
            read["CLIP"] += 1
        elif head_name(name) or name in TOKENS:
            read["head"] += 1
        elif name == "criterion.temperature" and learned_temperature:
            read["temperature"] += 1
        else:
            ignored[f"unknown: {name}"] += 1
    report.read += [f"{part}: {count} tensors" for part, count in read.items()]
    report.ignored += [f"{why}: {count} tensors" for why, count in ignored.items()]
    if not learned_temperature:
        report.missing.append("a learned temperature: it is fixed, by the configuration")
