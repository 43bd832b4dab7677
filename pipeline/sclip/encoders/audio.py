"""Recordings as the encoders hear them: mono, 16 kHz, fp32, checked."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio.functional
from torch import Tensor

from sclip.errors import UserError

SAMPLE_RATE = 16_000


def read_audio(path: str | Path) -> Tensor:
    """Any wav, flac, ogg or mp3 -> (N,)"""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (N, channels)
    except (OSError, RuntimeError) as error:
        raise UserError(f"audio {path}: cannot be read: {error}") from None
    return _check(_resample(torch.from_numpy(samples).mean(1), rate), f"audio {path}")


def as_waveform(audio: Any, rate: int, name: str) -> Tensor:
    """A path, or samples (N,) or (channels, N), as floats or whole numbers of full scale, at `rate` -> (N,)"""
    if isinstance(audio, str | Path):
        return read_audio(audio)
    samples = audio.detach().cpu() if isinstance(audio, Tensor) else _as_tensor(audio, name)
    if not samples.is_floating_point():
        samples = samples.float() / (torch.iinfo(samples.dtype).max + 1)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and len(samples) > samples.shape[1]):
        raise UserError(f"{name}: expected (samples,) or (channels, samples), found {tuple(samples.shape)}")
    if samples.ndim == 2:
        samples = samples.mean(0, dtype=torch.float32)
    return _check(_resample(samples.float(), rate), name)


def _as_tensor(audio: Any, name: str) -> Tensor:
    try:
        array = np.asarray(audio)
        if array.dtype.kind not in "fi":
            raise TypeError(f"{type(audio).__name__} of {array.dtype}")
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: expected a path, or samples as floats or signed integers; found {error}") from None
    return torch.from_numpy(array)


def _resample(samples: Tensor, rate: int) -> Tensor:
    return samples if rate == SAMPLE_RATE else torchaudio.functional.resample(samples, rate, SAMPLE_RATE)


def _check(samples: Tensor, name: str) -> Tensor:
    if samples.numel() == 0:
        raise UserError(f"{name}: no samples")
    if not bool(samples.isfinite().all()):
        raise UserError(f"{name}: {int((~samples.isfinite()).sum())} samples are not finite numbers")
    return samples
