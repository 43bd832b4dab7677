"""Check the sizes that an encoder's configuration declares, before a model of such sizes is built.

A configuration of a few bytes can declare layers that take hours to build, or more memory than any machine has. So
each size has a bound, and all weights together cannot be more than the bytes of the weights files in the same folder.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from transformers import AutoConfig

from sclip.encoders.inputs import MELS, STACKED
from sclip.errors import UserError, one_line
from sclip.parsing import as_table, shortened

LARGEST = 10_000_000
MOST_LAYERS = 200
# Sizes of what has no weights, or few. The attention mask takes memory by the square of the context.
MOST = {
    "num_buckets": 10_000,
    "num_adapter_layers": 100,
    "adapter_kernel_size": 100,
    "adapter_attn_dim": 10_000,
    "output_hidden_size": 100_000,
    "attn_pooler_queries": 10_000,
    "context_length": 10_000,
    "mlp_ratio": 16,
    "max_source_positions": 100_000,
    "left_max_position_embeddings": 10_000,
    "right_max_position_embeddings": 10_000,
}
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}

Table = Mapping[str, Any]


def check_speech_sizes(config: Table, folder: Path, where: str) -> None:
    """Check the configuration of a model of the wav2vec 2.0 family, in transformers' format, in `folder`.

    `where` names the configuration in errors.
    """
    table = {**AutoConfig.for_model(config["model_type"]).to_dict(), **config}
    _check_bounds(table, where)
    if "conv_dim" not in table:
        _compare(_conformer_weights(table, where), folder, where)
        return
    layers, width = _size(table, "num_hidden_layers", where, MOST_LAYERS), _size(table, "hidden_size", where)
    channels, kernels = _sizes(table, "conv_dim", where), _sizes(table, "conv_kernel", where)
    positions = _size(table, "num_conv_pos_embeddings", where)
    if "conv_pos_kernel_size" in table:  # data2vec, where the number above is one of layers
        positions *= _size(table, "conv_pos_kernel_size", where)
    weights = layers * width * (4 * width + 2 * _size(table, "intermediate_size", where))
    weights += sum(a * b * kernel for a, b, kernel in zip((1, *channels), channels, kernels, strict=False))
    weights += width * width * positions // max(1, _size(table, "num_conv_pos_embedding_groups", where))
    _compare(weights, folder, where)


def _conformer_weights(table: Table, where: str) -> int:
    """Return how many weights W2V-BERT's layers have at least: attention, two networks and a convolution each."""
    if table["feature_projection_input_dim"] != STACKED * MELS:
        raise UserError(
            f"{where}: feature_projection_input_dim: expected {STACKED * MELS}, {STACKED} frames of {MELS} log-mel "
            f"bands; found {shortened(table['feature_projection_input_dim'])}"
        )
    layers, width = _size(table, "num_hidden_layers", where, MOST_LAYERS), _size(table, "hidden_size", where)
    kernel = _size(table, "conv_depthwise_kernel_size", where)
    return layers * width * (7 * width + 4 * _size(table, "intermediate_size", where) + kernel)


def check_whisper_sizes(config: Table, folder: Path, where: str) -> None:
    """Check the configuration of a Whisper, in transformers' format, in `folder`. `where` names it in errors."""
    table = {**AutoConfig.for_model("whisper").to_dict(), **config}
    width, weights = _size(table, "d_model", where), 0
    for part, attentions in (("encoder", 1), ("decoder", 2)):
        layers = _size(table, f"{part}_layers", where, MOST_LAYERS)
        weights += layers * width * (4 * attentions * width + 2 * _size(table, f"{part}_ffn_dim", where))
    for key in ("vocab_size", "max_source_positions", "max_target_positions"):
        weights += width * _size(table, key, where)
    _size(table, "num_mel_bins", where, 1000)
    _compare(weights, folder, where)


def check_clip_sizes(model_cfg: Table, folder: Path, where: str) -> None:
    """Check the `model_cfg` of the open_clip_config.json in `folder`, which `check_model_config` has accepted.

    `where` names it in errors.
    """
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    weights = _text_weights({**asdict(CLIPTextCfg()), **text}, f"{where}.text_cfg")
    if vision.get("timm_model_name") is None:
        weights += _vision_weights({**asdict(CLIPVisionCfg()), **vision}, f"{where}.vision_cfg")
    else:
        weights += _timm_weights(vision["timm_model_name"], f"{where}.vision_cfg")
    if "multimodal_cfg" in model_cfg:
        fusion = as_table(model_cfg["multimodal_cfg"], f"{where}.multimodal_cfg")
        weights += _block_weights({**asdict(CLIPTextCfg()), **fusion}, f"{where}.multimodal_cfg")
    _size(model_cfg, "embed_dim", where, 100_000)
    _compare(weights, folder, where)


def _vision_weights(table: Table, where: str) -> int:
    weights = _block_weights(table, where)
    if not isinstance(table["layers"], int):  # a ResNet, without patches; its pooling is an attention layer
        return weights + 3 * (32 * _size(table, "width", where)) ** 2
    patch = _size(table, "patch_size", where)
    patches = (max(_sizes(table, "image_size", where)) // max(1, patch)) ** 2
    return weights + _size(table, "width", where) * (3 * patch**2 + patches)


def _timm_weights(name: str, where: str) -> int:
    """Count the weights of one of timm's models, without memory for them."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except Exception as error:  # timm raises errors of many kinds
        raise UserError(f"{where}: timm_model_name: {name!r} cannot be used: {one_line(error)}") from None
    return sum(parameter.numel() for parameter in model.parameters())


def _text_weights(table: Table, where: str) -> int:
    return _block_weights(table, where) + _size(table, "width", where) * _size(table, "vocab_size", where)


def _block_weights(table: Table, where: str) -> int:
    """Return how many weights the blocks of one of open_clip's towers have at least; a ResNet has more."""
    _check_bounds(table, where)
    layers, width = sum(_sizes(table, "layers", where, MOST_LAYERS)), _size(table, "width", where)
    return int(layers * width * width * (4 + 2 * (table["mlp_ratio"] or 0)))


def _check_bounds(table: Table, where: str) -> None:
    for key, most in MOST.items():
        value = table.get(key)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= most):
            raise UserError(f"{where}: {key}: expected a number up to {most:,}, found {shortened(value)}")


def _size(table: Table, key: str, where: str, most: int = LARGEST) -> int:
    value = table.get(key)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise UserError(f"{where}: {key}: expected a whole number up to {most:,}, found {shortened(value)}")
    return value


def _sizes(table: Table, key: str, where: str, most: int = LARGEST) -> tuple[int, ...]:
    """Return a size, or a list of them, as a tuple."""
    value = table.get(key)
    if not isinstance(value, list | tuple):
        return (_size(table, key, where, most),)
    if not 1 <= len(value) <= MOST_LAYERS:
        raise UserError(f"{where}: {key}: expected 1 to {MOST_LAYERS} numbers, found {len(value)}")
    return tuple(_size({key: item}, key, where, most) for item in value)


def _compare(weights: int, folder: Path, where: str) -> None:
    """Refuse to build more weights than the weights files in the folder have bytes."""
    held = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    if held and weights > held:  # without a weights file nothing is built
        raise UserError(
            f"{where}: declares {weights:,} weights or more, but the weights files in its folder have only "
            f"{held:,} bytes"
        )
