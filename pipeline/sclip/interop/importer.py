"""Convert a published SpeechCLIP or SpeechCLIP+ checkpoint to a model folder, without the code that wrote it.

CIF's option `convolves_padding`, which makes a result depend on the rest of the batch, stays off. Each utterance then
has one result, which can differ from the published one in the last digits.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import parse_hf_uri
from huggingface_hub.errors import HfUriError
from torch import Tensor
from transformers import HubertConfig, HubertModel

from sclip.encoders.clip import ClipEncoder
from sclip.encoders.source import Source, fetch_file
from sclip.encoders.speech import SpeechEncoder, declared_options
from sclip.errors import UserError, counted, one_line
from sclip.files import file_digest
from sclip.heads.vocabulary import Vocabulary
from sclip.interop.checkpoint import read_checkpoint
from sclip.interop.fairseq import PRETRAINING_TENSORS, hubert_config, hubert_name
from sclip.interop.published import TOKENS, head_name, head_tensors
from sclip.interop.settings import Settings, published_settings
from sclip.model.folder import CLIP as CLIP_KEY
from sclip.model.folder import SPEECH as SPEECH_KEY
from sclip.model.speechclip import SpeechCLIP
from sclip.parsing import read_json
from sclip.tensors import fill, with_prefix

# Rows of the reduced vocabulary that the published quantiser never chooses: padding, start, end.
BLOCKED_ROWS = (0, 2, 3)
HUBERT, CLIP = "audio_encoder.encoder.", "clip.model."
FULL_TABLE, TABLE = "clip.original_text_emb_weight", "clip.model.token_embedding.weight"
# The tensors that determine the sizes of an OpenAI vision transformer and its text tower.
SIZE_TENSORS = (
    "visual.conv1.weight",
    "visual.class_embedding",
    "visual.positional_embedding",
    "token_embedding.weight",
    "positional_embedding",
    "text_projection",
)
# The encoders of published configurations, by the names that params.yaml has for them.
SPEECH_NAMES = {
    "hubert": "facebook/hubert-base-ls960",
    "hubert_base": "facebook/hubert-base-ls960",
    "hubert_large_ll60k": "facebook/hubert-large-ll60k",
}
CLIP_NAMES = {
    "ViT-B/32": "ViT-B-32-quickgelu/openai",
    "ViT-B/16": "ViT-B-16-quickgelu/openai",
    "ViT-L/14": "ViT-L-14-quickgelu/openai",
}
CORPORA = {"flickr": "flickr8k", "coco": "spokencoco"}  # likewise
# Prefixes of tensors that sclip does not need, and what they are.
IGNORED_PREFIXES = (
    ("criterion.eye_mat", "the loss's identity matrices"),
    ("criterion.neg_eye_mat", "the loss's identity matrices"),
    ("cascaded_branch.clip.", "a second copy of CLIP"),
    ("cascaded_branch.vector_quantizer.", "the quantiser's temperature, read from the configuration"),
    *((HUBERT + name, "HuBERT's pre-training") for name in PRETRAINING_TENSORS),
)


@dataclass
class ImportReport:
    read: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def import_checkpoint(path: str | Path, out: str | Path, encoders: str | Path | None = None) -> ImportReport:
    """Convert the checkpoint at `path` to the model folder `out`.

    `path` may be a file of a hub repo, hf://ORG/REPO/FILE or hf://ORG/REPO@REVISION/FILE, or its page's address.
    Encoders of other than the published sizes need `encoders`: a JSON file with their configurations, `hubert` as in
    transformers' config.json and `clip` as in open_clip's model_cfg.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out}: already exists; choose another folder or remove it")
    path, where = _find_checkpoint(path)
    checkpoint = read_checkpoint(path)
    try:
        return _import(checkpoint, path, where, out, encoders)
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        # No check covers this configuration or tensor, because no published run has it.
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {one_line(error)}") from None


def _find_checkpoint(path: str | Path) -> tuple[Path, str]:
    """Return the checkpoint's file, which may have to be downloaded, and where it comes from."""
    if not str(path).startswith(("hf://", "https://")):
        return Path(path), Path(path).name
    try:
        uri = parse_hf_uri(str(path))
    except HfUriError as error:
        raise UserError(f"{path}: expected hf://ORG/REPO/FILE: {one_line(error)}") from None
    if uri.type != "model" or not uri.path_in_repo:
        raise UserError(f"{path}: expected a file of a model repo, hf://ORG/REPO/FILE")
    file, commit = fetch_file(uri.id, uri.path_in_repo, uri.revision)
    return file, f"hf://{uri.id}@{commit}/{uri.path_in_repo}"


def _import(
    checkpoint: Mapping[str, Any], path: Path, where: str, out: Path, encoders: str | Path | None
) -> ImportReport:
    tensors = _state_dict(checkpoint, path)
    settings = Settings(_configuration(checkpoint, path), str(path))
    sizes = _read_sizes(Path(encoders)) if encoders else {}
    published = published_settings(settings, tensors)
    _check_encoders(settings, tensors, bool(encoders), path)
    speech = _speech_encoder(tensors, sizes.get("hubert"), published.normalize_waveform, path)
    clip, vocabulary = _clip_encoder(tensors, sizes.get("clip"), path)
    has_keywords = published.architecture.head.keywords is not None
    model = SpeechCLIP(
        published.arch,
        published.architecture,
        speech,
        clip,
        vocabulary if has_keywords else None,
        _origin(checkpoint, path, where) | _published_origin(settings, bool(encoders)),
        encoders_inside=True,
    )
    _load_head(model, tensors, path)
    model.save(out)
    report = ImportReport([f"configuration: {published.arch}, {published.speech_name}, {published.clip_name}"])
    _report_tensors(tensors, published.architecture.objective.learn_temperature, report)
    if has_keywords:
        report.read.append(f"reduced vocabulary: {len(vocabulary)} of {len(clip.text_tower.table)} tokens")
    return report


def _check_encoders(settings: Settings, tensors: Mapping[str, Tensor], has_sizes: bool, path: Path) -> None:
    if settings.get("clip.reduce_subword_embbedding", None) is not None and FULL_TABLE not in tensors:
        raise UserError(f"{path}: {FULL_TABLE} is missing; a checkpoint with a reduced vocabulary must have it")
    if not has_sizes:  # the tensors determine the sizes only for these encoders
        settings.require("audio_encoder.name", *SPEECH_NAMES)
        settings.require("clip.name", *CLIP_NAMES)


def _load_head(model: SpeechCLIP, tensors: Mapping[str, Tensor], path: Path) -> None:
    _refuse_unknown_parts(tensors, path)
    head = head_tensors(tensors, model.architecture.head)
    if not len(model.head.tokens):  # a head with only a CIF branch has no learned tokens, so its tensor is empty
        head["tokens"] = model.head.tokens
    fill(model.head, head, f"{path}: sclip's head")
    if model.architecture.objective.learn_temperature:
        fill(model.objective, _log_scale(tensors), f"{path}: sclip's objective")


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
            raise UserError(f"{path}: state_dict.{name}: expected a name and a dense tensor in main memory")
    return {name: t.detach().float() if t.is_floating_point() else t for name, t in tensors.items()}


def _configuration(checkpoint: Mapping[str, Any], path: Path) -> Any:
    parameters = checkpoint.get("hyper_parameters")
    if not isinstance(parameters, dict) or "config" not in parameters:
        raise UserError(f"{path}: not a checkpoint of SpeechCLIP or SpeechCLIP+, it has no hyper_parameters.config")
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
        raise UserError(f"{path}: no HuBERT model has this configuration: {error}") from None
    renamed = {hubert_name(name) or name: t for name, t in hubert.items() if not name.startswith(PRETRAINING_TENSORS)}
    fill(model, renamed, f"{path}: transformers' hubert")
    # None: the model decides. Models with layer norms normalise the waveform even if the data set did not.
    return SpeechEncoder(model, Source("speech"), normalize or None)


def _clip_encoder(
    tensors: Mapping[str, Tensor], config: dict[str, Any] | None, path: Path
) -> tuple[ClipEncoder, Vocabulary]:
    clip = with_prefix(tensors, CLIP)
    for name in SIZE_TENSORS:
        if name not in clip:
            raise UserError(f"{path}: {CLIP}{name} is missing")
    reduced, full = tensors[TABLE], tensors.get(FULL_TABLE, tensors[TABLE])
    clip["token_embedding.weight"] = full
    encoder = ClipEncoder.from_tensors(config or clip_config(clip, path), clip, f"{path}: open_clip's clip")
    ids = find_vocabulary_rows(reduced, full, path)
    return encoder, Vocabulary(ids, tuple(encoder.piece(i) for i in ids), BLOCKED_ROWS)


def clip_config(clip: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the open_clip configuration of an OpenAI vision transformer. Their attention heads all have width 64."""
    width, _, patch, _ = clip["visual.conv1.weight"].shape
    context, text_width = clip["positional_embedding"].shape
    if width % 64 or text_width % 64:
        widths = f"{width} and {text_width}"
        raise UserError(f"{path}: expected multiples of 64 as CLIP's widths, found {widths}; give them with --encoders")
    grid = round((len(clip["visual.positional_embedding"]) - 1) ** 0.5)
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


def find_vocabulary_rows(reduced: Tensor, full: Tensor, path: Path) -> tuple[int, ...]:
    """Return the index in the full table of each row of the reduced table; equal rows have equal bits.

    (R, W), (V, W) -> R indices
    """
    index_of: dict[bytes, int] = {}
    for i, row in enumerate(full.numpy()):
        index_of.setdefault(row.tobytes(), i)
    ids = [index_of.get(row.tobytes()) for row in reduced.numpy()]
    if None in ids:
        raise UserError(f"{path}: {TABLE}: row {ids.index(None)} is not in {FULL_TABLE}")
    return tuple(i for i in ids if i is not None)


def _log_scale(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"log_scale": tensors["criterion.temperature"]} if "criterion.temperature" in tensors else {}


def _origin(checkpoint: Mapping[str, Any], path: Path, where: str) -> dict[str, str]:
    origin = {"imported from": where, "its SHA-256": file_digest(path)}
    for key in ("epoch", "global_step"):
        if key in checkpoint:
            origin[f"its {key}"] = str(checkpoint[key])
    return origin


def _published_origin(settings: Settings, has_sizes: bool) -> dict[str, str]:
    """Return what the configuration says about the corpus, and about the encoders where they have their usual sizes."""
    corpus = CORPORA.get(str(settings.get("data.dataset.name", None)))
    origin = {} if corpus is None else {"trained on": corpus}
    if not has_sizes:
        origin[SPEECH_KEY] = SPEECH_NAMES[settings.get("audio_encoder.name")]
        origin[CLIP_KEY] = CLIP_NAMES[settings.get("clip.name")]
    return origin


def _ignored_kind(name: str) -> str | None:
    """Return what a tensor is if sclip does not need it, or None if sclip needs it or does not know it."""
    return next((kind for prefix, kind in IGNORED_PREFIXES if name.startswith(prefix)), None)


def _refuse_unknown_parts(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise an error for a trained tensor that sclip does not have: without it, results would silently differ."""
    for name in tensors:
        known = head_name(name) or name in TOKENS or _ignored_kind(name)
        if name.startswith(("cascaded_branch.", "parallel_branch.")) and not known:
            raise UserError(f"{path}: {name}: unknown trained tensor, so sclip cannot import this checkpoint")


def _report_tensors(tensors: Mapping[str, Tensor], learned_temperature: bool, report: ImportReport) -> None:
    """Add to the report how many tensors of each kind were read and ignored."""
    read: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    for name in tensors:
        if kind := _ignored_kind(name):
            ignored[kind] += 1
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
    report.read += [f"{part}: {counted(count, 'tensors')}" for part, count in read.items()]
    report.ignored += [f"{kind}: {counted(count, 'tensors')}" for kind, count in ignored.items()]
    if not learned_temperature:
        report.missing.append("learned temperature: the configuration fixes the temperature")
