"""Convert the names and sizes of fairseq's HuBERT to those of transformers."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers import HubertConfig

# Tensors that only pre-training uses.
PRETRAINING_TENSORS = ("final_proj.", "label_embs_concat")
HEAD_WIDTH = 64  # in HuBERT base and large, the only published sizes

_NAMES: tuple[tuple[str, str], ...] = (
    (r"mask_emb", r"masked_spec_embed"),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(\w+)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(\w+)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"layer_norm\.(\w+)", r"feature_projection.layer_norm.\1"),
    (r"post_extract_proj\.(\w+)", r"feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.weight_g", r"encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", r"encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"encoder\.pos_conv\.0\.bias", r"encoder.pos_conv_embed.conv.bias"),
    (r"encoder\.layer_norm\.(\w+)", r"encoder.layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.+)", r"encoder.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(\w+)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(\w+)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(\w+)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(\w+)", r"encoder.layers.\1.final_layer_norm.\2"),
)


def hubert_name(name: str) -> str | None:
    return renamed(name, _NAMES)


def renamed(name: str, patterns: Iterable[tuple[str, str]]) -> str | None:
    """Return a name in the form of the first pattern that it fits, or None if it fits none."""
    for pattern, replacement in patterns:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def hubert_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the transformers configuration of HuBERT base or large, from tensors with fairseq's names."""
    convolutions = _count(tensors, r"feature_extractor\.conv_layers\.(\d+)\.0\.weight")
    shapes = [tensors[f"feature_extractor.conv_layers.{i}.0.weight"].shape for i in range(convolutions)]
    layer_norms = "feature_extractor.conv_layers.0.2.1.weight" in tensors
    width, group_width, kernel = tensors["encoder.pos_conv.0.weight_v"].shape
    if width % HEAD_WIDTH:
        raise ValueError(f"expected a multiple of {HEAD_WIDTH} as width, found {width}; give the sizes with --encoders")
    config = HubertConfig(
        hidden_size=width,
        num_hidden_layers=_count(tensors, r"encoder\.layers\.(\d+)\.fc1\.weight"),
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=len(tensors["encoder.layers.0.fc1.weight"]),
        conv_dim=tuple(shape[0] for shape in shapes),
        conv_kernel=tuple(shape[2] for shape in shapes),
        conv_bias="feature_extractor.conv_layers.0.0.bias" in tensors,
        feat_extract_norm="layer" if layer_norms else "group",
        do_stable_layer_norm=layer_norms,
        num_conv_pos_embeddings=kernel,
        num_conv_pos_embedding_groups=width // group_width,
    )
    return config.to_dict()


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)
