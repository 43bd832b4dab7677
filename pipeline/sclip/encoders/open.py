"""Encoders as params.yaml names them.

`random_seed` draws all weights anew, as the library starts its training: what a head learns from such an encoder, it
owes to the architecture and not to pre-training.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from open_clip.model import set_model_preprocess_cfg

from sclip.config import ClipEncoderConfig, SpeechEncoderConfig
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.mfcc import CONFIG_FILE, NAME, MfccEncoder
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError

AnySpeechEncoder = SpeechEncoder | MfccEncoder


def open_speech(config: SpeechEncoderConfig) -> AnySpeechEncoder:
    """`mfcc`, a folder that either kind was saved to, or a hub repo."""
    if config.name == NAME or (Path(config.name) / CONFIG_FILE).is_file():
        for option in ("revision", "normalize_waveform", "random_seed"):
            if getattr(config, option) is not None:
                raise UserError(f"speech encoder {config.name}: has no {option}, found {getattr(config, option)!r}")
        return MfccEncoder()
    encoder = SpeechEncoder.from_pretrained(config.name, config.revision, config.normalize_waveform)
    if config.random_seed is None:
        return encoder
    with _seeded(config.random_seed):
        model = type(encoder.model)(encoder.model.config)
    return SpeechEncoder(model, _random(encoder.source, config.random_seed), config.normalize_waveform)


def open_clip(config: ClipEncoderConfig) -> ClipEncoder:
    clip = ClipEncoder.from_pretrained(config.name, config.revision)
    if config.random_seed is None:
        return clip
    sizes = copy.deepcopy(clip.config["model_cfg"])
    sizes.pop("custom_text", None)  # chose the class
    with _seeded(config.random_seed):
        model = type(clip.model)(**sizes)
    set_model_preprocess_cfg(model, clip.model.visual.preprocess_cfg)
    return ClipEncoder(model, clip.config, clip.tokenizer, _random(clip.source, config.random_seed))


def _random(source: Source, seed: int) -> Source:
    """A name that loads no weights by mistake."""
    return Source(f"{source.name} (random weights, seed {seed})", source.revision)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights are drawn on the CPU; its generator goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
