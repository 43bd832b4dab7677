"""Convert the configuration in a published checkpoint to sclip's: architecture, objective and audio normalisation.

Only settings that the published runs use are read. A value that needs code that sclip does not have is refused, with
the name of the setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sclip.config import Architecture, AttentionConfig, CifConfig, HeadConfig, KeywordConfig, ObjectiveConfig
from sclip.errors import UserError

_BRANCHES = {
    "CascadedBranch": "cascaded",
    "CascadedBranch_dynamic": "cascaded-cif",
    "CascadedBranch_plus": "cascaded-cif",
    "HybridBranch": "hybrid",
    "HybridBranch_dynamic": "hybrid-cif",
    "HybridBranch_plus": "hybrid-cif",
}
# The published code ignores conv_cif_dropout and always uses 0.5.
_CIF_DROPOUT = 0.5
_MISSING = object()


class Settings:
    """Gives access to nested settings by dotted names."""

    def __init__(self, data: Any, where: str):
        self._data, self._where = data, where

    def get(self, name: str, default: Any = _MISSING) -> Any:
        value: Any = self._data
        for key in name.split("."):
            value = value.get(key, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is _MISSING:
            if default is _MISSING:
                raise UserError(f"{self._where}: {name} is missing from the configuration")
            return default
        return value

    def require(self, name: str, *supported: Any, default: Any = _MISSING) -> Any:
        """Return the value of a setting, and refuse values that sclip does not support."""
        value = self.get(name, default)
        if value not in supported:
            expected = " or ".join(repr(v) for v in supported)
            raise UserError(f"{self._where}: {name}: expected {expected}, found {value!r}")
        return value


@dataclass(frozen=True)
class PublishedSettings:
    """The settings of a published checkpoint, in sclip's terms."""

    arch: str
    architecture: Architecture
    normalize_waveform: bool
    speech_name: str
    clip_name: str


def published_settings(settings: Settings, tensors: Mapping[str, Tensor]) -> PublishedSettings:
    """Convert the settings. Widths come from `tensors`, because some published configurations have wrong ones."""
    _refuse_unsupported_parts(settings)
    arch = _architecture(settings)
    parallel = arch == "parallel"
    keywords = None if parallel else _keywords(settings, tensors, arch.endswith("cif"))
    head = HeadConfig(
        attention=_attention(settings, "parallel_branch" if parallel else "cascaded_branch"),
        utterance=parallel or arch.startswith("hybrid"),
        utterance_hidden=_hidden_widths(tensors, "cascaded_branch.parallel_proj."),
        keywords=keywords,
        normalize_states=bool(settings.get("audio_encoder.normalize_hiddenstates", False)),
    )
    return PublishedSettings(
        arch,
        Architecture(head, _objective(settings, head)),
        bool(settings.get("data.dataset.normalize_waveform", False)),
        settings.get("audio_encoder.name"),
        settings.get("clip.name"),
    )


def _refuse_unsupported_parts(settings: Settings) -> None:
    settings.require("audio_encoder.type", "FairseqHubert")
    settings.require("audio_encoder.feat_select_idx", "weighted_sum")
    settings.require("audio_encoder.normalize_type", "s3prl", default="s3prl")
    for extra in ("image_encoder_projection", "parallel_branch_projection", "cascaded_branch_projection"):
        settings.require(f"model_settings.{extra}", None, default=None)


def _architecture(settings: Settings) -> str:
    if settings.get("model_settings.cascaded_objective_weight") <= 0:
        return "parallel"
    kind = str(settings.get("model_settings.cascaded_branch.type"))
    name = _BRANCHES.get(kind.removeprefix("KW_"))
    if name is None:
        settings.require("model_settings.cascaded_branch.type", *_BRANCHES)
    assert name is not None
    if name.startswith("cascaded"):  # sclip has no model with an attention layer for each branch
        settings.require("model_settings.parallel_objective_weight", 0, default=0)
    return name


def _attention(settings: Settings, branch: str) -> AttentionConfig:
    section = f"model_settings.{branch}"
    arguments = f"{section}.transformer_args"
    # SpeechCLIP+ has the type inside the arguments, SpeechCLIP outside.
    inside = settings.get(f"{arguments}.type", None) is not None
    name = f"{arguments}.type" if inside else f"{section}.transformer_type"
    kind = settings.require(name, "TransformerEncoder", "MultiheadAttentionAndNorm")
    settings.require(f"{arguments}.n_layers", 1)
    settings.require(f"{arguments}.norm_first", False, default=False)
    settings.require(f"{arguments}.activation", "gelu", default="gelu")
    settings.require(f"{arguments}.layer_norm_eps", 1e-5, default=1e-5)
    ratio = settings.get(f"{arguments}.dim_feedforward") / settings.get(f"{arguments}.d_model")
    return AttentionConfig(
        heads=settings.get(f"{arguments}.nhead"),
        feed_forward=ratio if kind == "TransformerEncoder" else 0.0,
        dropout=settings.get(f"{arguments}.dropout", 0.1),
    )


def _keywords(settings: Settings, tensors: Mapping[str, Tensor], cif: bool) -> KeywordConfig:
    section = "model_settings.cascaded_branch"
    settings.require(f"{section}.vq.type", "SimpleVectorQuantizer")
    settings.require(f"{section}.vq.args.use_gumbel", False, default=False)
    settings.require(f"{section}.vq.args.hard", True, default=True)
    temperature = str(settings.get(f"{section}.vq.args.temp"))
    if not temperature.startswith("fixed="):
        settings.require(f"{section}.vq.args.temp", "fixed=0.1")
    if not cif:
        settings.require(f"{section}.keyword.batchnorms.type", "eachKw")
        settings.require(f"{section}.keyword.batchnorms.parallel", True)
    return KeywordConfig(
        slots=None if cif else settings.get(f"{section}.keyword.number", 8),
        cif=_cif(settings, tensors) if cif else None,
        hidden=_hidden_widths(tensors, "cascaded_branch.linear_proj."),
        dropout=settings.get(f"{section}.keyword.kw_projection.dropout", 0.1),
        temperature=float(temperature.removeprefix("fixed=")),
        norm_counts_padding=cif,
        scrambled_norm_start=not cif,
    )


def _cif(settings: Settings, tensors: Mapping[str, Tensor]) -> CifConfig:
    settings.require("model_settings.cascaded_branch.downsampling.type", "cif")
    section = "model_settings.cascaded_branch.downsampling.cif"
    settings.require(f"{section}.produce_weight_type", "conv", default="conv")
    settings.require(f"{section}.apply_tail_handling", True, default=True)
    prefix = "cascaded_branch.downsampling.conv."
    convolutions = [t for name, t in tensors.items() if name.startswith(prefix) and name.endswith(".weight")]
    steps = settings.get(f"{section}.scaling_step", -1) if settings.get(f"{section}.apply_scaling", True) else 0
    return CifConfig(
        layers=max(1, len(convolutions)),
        kernel=convolutions[0].shape[-1] if convolutions else 3,
        dropout=_CIF_DROPOUT,
        threshold=settings.get(f"{section}.cif_threshold", 1.0),
        tail=settings.get(f"{section}.tail_handling_firing_threshold", 0.5),
        scaled_steps=steps if steps >= 0 else 2**62,  # -1: for the entire training
    )


def _hidden_widths(tensors: Mapping[str, Tensor], prefix: str) -> tuple[int, ...]:
    """Return the widths of a projection's hidden layers. A single Linear has none."""
    weights = {
        int(name.split(".")[-2]): len(tensor)
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}sequential.") and name.endswith(".weight")
    }
    return tuple(weights[i] for i in sorted(weights))[:-1]


def _objective(settings: Settings, head: HeadConfig) -> ObjectiveConfig:
    settings.require("cl_loss.type", "MaskedContrastiveLoss")
    settings.require("cl_loss.args.dcl", False, default=False)
    for direction in ("a2b", "b2a"):
        settings.require(f"cl_loss.args.{direction}", True, default=True)
    cif = head.keywords is not None and head.keywords.cif is not None
    quantity = "model_settings.cascaded_branch.downsampling.cif.quantity_loss_weight"
    return ObjectiveConfig(
        parallel=settings.get("model_settings.parallel_objective_weight") if head.utterance else 0.0,
        cascaded=settings.get("model_settings.cascaded_objective_weight") if head.keywords else 0.0,
        quantity=settings.get(quantity, 1.0) if cif else 0.0,
        temperature=settings.get("cl_loss.args.temperature", 0.07),
        learn_temperature=settings.get("cl_loss.args.temperature_trainable", False),
        margin=settings.get("cl_loss.args.margin", 0.0),
    )
