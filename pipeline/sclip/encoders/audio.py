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
    """Any wav, flac, ogg or mp3 -> (N,)

    In numpy, all but what must be resampled: several threads read ahead of the encoder, and torch would give each of
    them a team of threads, which wait for work on the very cores that the encoder computes on.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (N, channels)
    except (OSError, RuntimeError, TypeError) as error:  # the last of a file that is named .raw
        raise UserError(f"audio {path}: cannot be read: {error}") from None
    return _check(_resample(torch.from_numpy(samples.mean(1)), rate), f"audio {path}")


def as_waveform(audio: Any, rate: int, name: str) -> Tensor:
    """A path, or samples (N,) or (channels, N) at `rate`: floats, or 16- or 32-bit numbers of full scale -> (N,)"""
    if isinstance(audio, str | Path):
        return read_audio(audio)
    samples = _as_floats(audio, name)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and len(samples) > samples.shape[1]):
        raise UserError(f"{name}: expected (samples,) or (channels, samples), found {tuple(samples.shape)}")
    if samples.ndim == 2:
        samples = samples.mean(0)
    return _check(_resample(samples, rate), name)


def _as_floats(audio: Any, name: str) -> Tensor:
    """An array, a tensor or a list of floats, as it is; whole numbers scaled to -1..1."""
    try:
        array = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
    except (TypeError, ValueError) as error:  # bf16, ragged lists
        raise UserError(f"{name}: not samples: {error}") from None
    if array.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if array.dtype.kind == "i" and array.dtype.itemsize in (2, 4):
        return torch.from_numpy(np.ascontiguousarray(array / 2 ** (8 * array.dtype.itemsize - 1), np.float32))
    kind = f"{type(audio).__name__} of {array.dtype}"
    raise UserError(f"{name}: expected a path, or samples as floats, int16 or int32; found {kind}")


def _resample(samples: Tensor, rate: int) -> Tensor:
    if not isinstance(rate, int) or rate < 1:
        raise UserError(f"sample rate: expected a whole number of samples a second, found {rate!r}")
    return samples if rate == SAMPLE_RATE else torchaudio.functional.resample(samples, rate, SAMPLE_RATE)


def _check(samples: Tensor, name: str) -> Tensor:
    if samples.numel() == 0:
        raise UserError(f"{name}: no samples")
    if not np.isfinite(samples.numpy()).all():
        raise UserError(f"{name}: {int((~samples.isfinite()).sum())} samples are not finite numbers")
    return samples
