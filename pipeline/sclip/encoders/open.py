"""Open the encoders that params.yaml names.

With `random_seed`, all weights are random, initialized as the library does before training. Comparing a trained encoder
with such an encoder shows how much the pre-training contributes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.model import set_model_preprocess_cfg
from transformers import HubertConfig, HubertModel

from sclip.config import ClipEncoderConfig, SpeechEncoderConfig
from sclip.encoders.clip import ClipEncoder, empty_clip, sizes_of_tag
from sclip.encoders.inputs import receptive_field
from sclip.encoders.mfcc import CONFIG_FILE, NAME, MfccEncoder
from sclip.encoders.source import Source, find_folder
from sclip.encoders.speech import CONFIG_FILE as SPEECH_CONFIG_FILE
from sclip.encoders.speech import SpeechEncoder, samples_of_a_frame
from sclip.errors import UserError

AnySpeechEncoder = SpeechEncoder | MfccEncoder


# What the papers' encoders are built from, for a rehearsal with random weights where nothing can be downloaded.
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
SPEECH_SIZES: dict[str, dict[str, Any]] = {"facebook/hubert-base-ls960": {}, "facebook/hubert-large-ll60k": LARGE}


def shortest_recording(config: SpeechEncoderConfig) -> int:
    """Return how many samples make one frame of an encoder, by its configuration alone. Nothing is downloaded.

    An encoder whose configuration is not on this machine is taken for one like HuBERT.
    """
    if _is_mfcc(config):
        return MfccEncoder.shortest
    try:
        folder, _ = find_folder(config.name, config.revision, [SPEECH_CONFIG_FILE], local_files_only=True)
        return samples_of_a_frame(folder)
    except UserError:
        return receptive_field(HubertConfig().conv_kernel, HubertConfig().conv_stride)


def _is_mfcc(config: SpeechEncoderConfig) -> bool:
    return config.name == NAME or (Path(config.name) / CONFIG_FILE).is_file()


def recorded_name(config: SpeechEncoderConfig | ClipEncoderConfig) -> str:
    """Return the name by which a cache records an encoder of params.yaml."""
    if isinstance(config, SpeechEncoderConfig) and _is_mfcc(config):
        return NAME
    source = Source(config.name.removeprefix("local-dir:"))
    return source.name if config.random_seed is None else source.with_random_weights(config.random_seed).name


def open_speech(config: SpeechEncoderConfig) -> AnySpeechEncoder:
    """Open `mfcc`, a folder of either kind of encoder, or a hub repo."""
    if _is_mfcc(config):
        for option in ("revision", "normalize_waveform", "random_seed"):
            if getattr(config, option) is not None:
                raise UserError(f"speech encoder {config.name}: has no {option}, found {getattr(config, option)!r}")
        return MfccEncoder()
    if config.random_seed is None:
        return SpeechEncoder.from_pretrained(config.name, config.revision, config.normalize_waveform)
    if config.name in SPEECH_SIZES and not Path(config.name).is_dir():
        kind, sizes, source = HubertModel, HubertConfig(**SPEECH_SIZES[config.name]), Source(config.name)
    else:
        encoder = SpeechEncoder.from_pretrained(config.name, config.revision, config.normalize_waveform)
        kind, sizes, source = type(encoder.model), encoder.model.config, encoder.source
    with _seeded(config.random_seed):
        model = kind(sizes)
    return SpeechEncoder(model, source.with_random_weights(config.random_seed), config.normalize_waveform)


def open_clip_encoder(config: ClipEncoderConfig) -> ClipEncoder:
    if config.random_seed is None:
        return ClipEncoder.from_pretrained(config.name, config.revision)
    if not config.name.startswith(("hf-hub:", "local-dir:")) and not Path(config.name).is_dir():
        sizes = sizes_of_tag(config.name)
        tokenizer = sizes["text_cfg"].get("hf_tokenizer_name")
        if tokenizer is not None:
            raise UserError(
                f"CLIP {config.name}: its tokenizer is in the hub repo {tokenizer}, so random weights need a folder "
                "with the tokenizer; give local-dir:FOLDER"
            )
        with _seeded(config.random_seed):
            tensors = empty_clip(sizes).state_dict()
        return ClipEncoder.from_tensors(
            sizes, tensors, Source(config.name).with_random_weights(config.random_seed).name
        )
    clip = ClipEncoder.from_pretrained(config.name, config.revision)
    with _seeded(config.random_seed):
        model = empty_clip(clip.config["model_cfg"])
    set_model_preprocess_cfg(model, clip.model.visual.preprocess_cfg)
    return ClipEncoder(model, clip.config, clip.tokenizer, clip.source.with_random_weights(config.random_seed))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator for the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
