"""The settings that decide hidden states: record them in an index, describe them, and compare them with a preset."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip.config import FeaturesConfig
from sclip.distributed import is_main
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import UserError
from sclip.features.store import CODES, FORMAT
from sclip.fingerprints import FEATURES, code_fingerprint

log = logging.getLogger(__name__)


def describe(encoder: AnySpeechEncoder, config: FeaturesConfig) -> dict[str, Any]:
    """Return everything besides the recording that decides hidden states. The store's fingerprint covers it."""
    special: dict[str, Any] = {"online": True} if config.online else {}
    if config.components is not None:
        check_components(encoder, config.components)
        special = {"precision": CODES, "components": config.components, "normalized": config.normalize_states}
    return {
        "format": FORMAT,
        "encoder": encoder.source.name,
        "revision": encoder.source.revision,
        "hash": encoder.fingerprint(),
        "normalize_waveform": encoder.normalize_waveform,
        "code": code_fingerprint(FEATURES),
        "compute": config.compute,
        "precision": config.precision,
        "states": encoder.states,
        "width": encoder.width,
        "frame_seconds": encoder.frame_seconds,
        **special,
    }


def check_components(encoder: AnySpeechEncoder, components: int) -> None:
    """Refuse more components than a frame has numbers."""
    most = encoder.states * encoder.width
    if components > most:
        raise UserError(
            f"features.components: expected at most {most}, the numbers of a frame, found {components}, which the "
            "preset may have inherited; set a smaller number, or null to store hidden states"
        )


def describe_states(features: Mapping[str, Any]) -> str:
    """Describe in English which hidden states an index's `features` stand for."""
    compute, precision = features["compute"], features["precision"]
    if "components" in features:
        states = "normalised hidden states" if features["normalized"] else "hidden states"
        return f"8-bit codes along {features['components']} directions of {states} computed in {compute}"
    if "online" not in features:
        return f"hidden states stored in {precision}, computed in {compute}"
    if compute == precision == "fp32":
        return "exact hidden states, computed online in fp32"
    return f"hidden states computed online in {compute}, rounded to {precision}"


def check_settings(features: Mapping[str, Any], config: FeaturesConfig, folder: Path, preset: str) -> None:
    """Raise an error if the states in `folder` have other settings than those of the preset and its overrides.

    Log a warning if they were computed by other code.
    """
    stored = {
        "online": features.get("online", False),
        "components": features.get("components"),
        "normalize_states": features.get("normalized", False),
        "precision": features["precision"],
        "compute": features["compute"],
    }
    if config.components is not None or stored["components"] is not None:
        del stored["precision"]  # codes are always int8
    wanted = {key: getattr(config, key) for key in stored}
    differing = [key for key in stored if stored[key] != wanted[key]]
    if not differing:
        if is_main() and "online" not in features and features["code"] != code_fingerprint(FEATURES):
            log.warning(
                f"{folder}: its hidden states were computed by another version of sclip's code; `sclip "
                f"extract-features --preset {preset}` computes them again"
            )
        return
    found, expected = (
        ", ".join(f"{key} {_as_yaml(settings[key])}" for key in differing) for settings in (stored, wanted)
    )
    options = " ".join(f"-S presets.{preset}.features.{key}={_as_yaml(wanted[key])}" for key in differing)
    raise UserError(
        f"{folder}: holds {describe_states(features)} (features: {found}), and presets.{preset}.features asks for "
        f"{expected}; run `sclip extract-features --preset {preset} {options}` to compute them again, or set these "
        f"keys back"
    )


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
