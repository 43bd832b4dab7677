"""Convert the head's tensors from the published SpeechCLIP and SpeechCLIP+ code to sclip.

One table of patterns maps the names. Two tensors also change their layout: the published code stores the learned
tokens of a hybrid head as two tensors, sclip as one; and it orders the BatchNorm of fixed slots by width first, sclip
by slot first.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sclip.config import HeadConfig
from sclip.interop.fairseq import renamed

_ATTENTION = r"(?:parallel|cascaded)_branch\.self_att\.(?:multihead_attn_layer|model\.layers\.0\.self_attn)\."
_ENCODER = r"(?:parallel|cascaded)_branch\.self_att\.model\."
HEAD_NAMES: tuple[tuple[str, str], ...] = (
    (r"audio_encoder\.weightedsum_layer\.weights", r"weighting.logits"),
    (_ATTENTION + r"in_proj_(weight|bias)", r"attention.qkv.\1"),
    (_ATTENTION + r"out_proj\.(weight|bias)", r"attention.out.\1"),
    (r"(?:parallel|cascaded)_branch\.self_att\.attentionBlock_Norm\.(weight|bias)", r"attention.norm.\1"),
    (_ENCODER + r"layers\.0\.norm1\.(weight|bias)", r"attention.norm.\1"),
    (_ENCODER + r"layers\.0\.linear1\.(weight|bias)", r"attention.feed_forward.up.\1"),
    (_ENCODER + r"layers\.0\.linear2\.(weight|bias)", r"attention.feed_forward.down.\1"),
    (_ENCODER + r"layers\.0\.norm2\.(weight|bias)", r"attention.feed_forward.norm.\1"),
    (_ENCODER + r"norm\.(weight|bias)", r"attention.feed_forward.last_norm.\1"),
    (r"(?:parallel_branch\.linear_proj|cascaded_branch\.parallel_proj)\.(weight|bias)", r"utterance.0.\1"),
    (r"cascaded_branch\.parallel_proj\.sequential\.(\d+)\.(weight|bias)", r"utterance.\1.\2"),
    (r"cascaded_branch\.linear_proj\.(weight|bias)", r"keywords.project.0.\1"),
    (r"cascaded_branch\.linear_proj\.sequential\.(\d+)\.(weight|bias)", r"keywords.project.\1.\2"),
    (r"cascaded_branch\.bn_layer\.bn_layer\.(\w+)", r"keywords.norm.norm.\1"),
    (r"cascaded_branch\.downsampling\.weight_proj\.1\.(weight|bias)", r"cif.score.\1"),
)
# The published code numbers the convolution, its dropout and its ReLU as three modules.
_CONVOLUTION = r"cascaded_branch\.downsampling\.conv\.(\d+)\.(weight|bias)"
TOKENS = (
    "parallel_branch.cls",
    "cascaded_branch.parallel_cls",
    "cascaded_branch.cls",
    "cascaded_branch.cascaded_cls",
)


def head_tensors(published: Mapping[str, Tensor], config: HeadConfig) -> dict[str, Tensor]:
    """Return the head's tensors of a published state dict, or their gradients, under sclip's names."""
    converted: dict[str, Tensor] = {}
    for name, tensor in published.items():
        ours = head_name(name)
        if ours is not None:
            slots = config.keywords.slots if config.keywords else None
            if ours.startswith("keywords.norm.") and slots and tensor.numel() % slots == 0:
                tensor = tensor.view(-1, slots).T.reshape(-1)  # width first -> slot first
            converted[ours] = tensor
    tokens = [published[name][0] for name in TOKENS if name in published]
    if tokens:
        converted["tokens"] = torch.cat(tokens)
    return converted


def head_name(name: str) -> str | None:
    """Return sclip's name of a published head tensor, or None for learned tokens and other tensors."""
    if match := re.fullmatch(_CONVOLUTION, name):
        return f"cif.convolutions.{int(match[1]) // 3}.{match[2]}"
    return renamed(name, HEAD_NAMES)
