"""Recordings in any form that a caller may have them in, as waveforms: mono, 16 kHz, fp32, checked."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclip.encoders.audio import (
    SAMPLE_RATE,
    AudioFile,
    Samples,
    check_length,
    checked,
    open_audio,
    read_audio,
    resample,
)
from sclip.errors import UserError


def as_waveform(audio: Any, rate: int, name: str) -> Tensor:
    """Return a file's or an array's waveform -> (N,)

    `audio` is a path, a file in memory, or samples (N,) or (channels, N) at `rate`: floats, or 16- or 32-bit integers
    of full scale.
    """
    if isinstance(audio, AudioFile):
        return torch.from_numpy(read_audio(audio, _file_name(audio, name)))
    samples = as_floats(audio, name)
    check_length(samples.shape[-1], rate, name)
    samples = resample(samples if samples.ndim == 1 else samples.mean(0), rate)
    return torch.from_numpy(checked(samples, name))


def count_samples(audio: Any, rate: int, name: str) -> int:
    """Return the number of samples of a recording at 16 kHz. Of a file, only the header is read."""
    name = _file_name(audio, name)
    samples, rate = measure(audio, rate, name)
    check_length(samples, rate, name)
    return samples * SAMPLE_RATE // rate


def measure(audio: Any, rate: int, name: str) -> tuple[int, int]:
    """Return the number of samples and the sample rate of a recording. For a file, they come from its header."""
    if not isinstance(audio, AudioFile):
        return as_floats(audio, name).shape[-1], rate
    with open_audio(audio, name) as opened:
        return opened.frames, opened.samplerate


def _file_name(audio: Any, name: str) -> str:
    """Return how messages call a recording: a file by its path, everything else by `name`."""
    return f"audio {audio}" if isinstance(audio, str | Path) else name


def as_floats(audio: Any, name: str) -> Samples:
    """Return samples (N,) or (channels, N) of a list, an array or a tensor: floats as they are, integers as -1..1."""
    if isinstance(audio, tuple) and len(audio) == 2 and np.ndim(audio[0]) and not np.ndim(audio[1]):
        raise UserError(f"{name}: found (samples, {audio[1]}); give the samples alone, and sample_rate={audio[1]}")
    try:
        array = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
    except (TypeError, ValueError) as error:  # bf16, ragged lists
        raise UserError(f"{name}: not samples: {error}") from None
    is_integer = array.dtype.kind == "i" and array.dtype.itemsize in (2, 4)
    if array.dtype.kind != "f" and not is_integer:
        kind = f"{type(audio).__name__} of {array.dtype}"
        raise UserError(f"{name}: expected a path, or samples as floats, int16 or int32; found {kind}")
    if array.ndim not in (1, 2) or (array.ndim == 2 and len(array) > array.shape[1]):
        advice = "; transpose it" if array.ndim == 2 else ""
        raise UserError(f"{name}: expected (samples,) or (channels, samples), found {array.shape}{advice}")
    full_scale = 2 ** (8 * array.dtype.itemsize - 1) if is_integer else 1
    return np.ascontiguousarray(array if full_scale == 1 else array / full_scale, np.float32)
