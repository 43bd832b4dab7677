"""Recordings as the encoders take them: mono, 16 kHz, fp32, checked.

All of it is computed by numpy in the calling thread: a precision that torch computes in (autocast) does not reach it,
and threads that read in advance do not start teams of torch's threads on the cores that the encoder needs.
"""

import math
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from sclip.errors import UserError

SAMPLE_RATE = 16_000
HIGHEST_RATE = 384_000
# Attention needs memory for the square of the length. The longest recording of the published corpora is 323.5 s long.
LONGEST_SECONDS = 360.0
MISSING_SECONDS = 0.1  # a header may be wrong by this much
UNKNOWN_LENGTH = 2**40  # samples; a header with a larger number means that the writer did not know the length
SILENCE = 1e-4  # between the highest and the lowest sample
BLOCK = 2**16  # samples of each channel that are decoded at a time
# The interpolating filter is torchaudio's default: a sinc with a Hann window over this number of zero crossings on each
# side. ROLLOFF is its cutoff as a share of the lower of the two Nyquist frequencies.
ZERO_CROSSINGS, ROLLOFF = 6, 0.99

Samples = NDArray[np.float32]


def read_audio(path: str | Path) -> Tensor:
    """Decode any wav, flac, ogg or mp3 file -> (N,)"""
    name = f"audio {path}"
    try:
        with soundfile.SoundFile(path) as file:
            claimed, rate = file.frames, file.samplerate
            check_length(claimed, rate, name)
            # SoundFile.blocks would fill a last block that is cut short with samples of the block before.
            blocks = [np.empty(0, np.float32)]
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(1))
    except (OSError, RuntimeError, TypeError) as error:  # soundfile raises TypeError for a file named .raw
        raise UserError(f"{name}: cannot be read: {error}") from None
    samples = np.concatenate(blocks)
    if claimed - len(samples) > MISSING_SECONDS * rate:
        raise UserError(
            f"{name}: the file is damaged or cut off: its header says {claimed / rate:.1f} s, and it ends after "
            f"{len(samples) / rate:.1f} s"
        )
    return _checked(resample(samples, rate), name)


def as_waveform(audio: Any, rate: int, name: str) -> Tensor:
    """Return a file's or an array's waveform -> (N,)

    `audio` is a path, or samples (N,) or (channels, N) at `rate`: floats, or 16- or 32-bit integers of full scale.
    """
    if isinstance(audio, str | Path):
        return read_audio(audio)
    samples = _as_floats(audio, name)
    check_length(samples.shape[-1], rate, name)
    return _checked(resample(samples if samples.ndim == 1 else samples.mean(0), rate), name)


def count_samples(audio: Any, rate: int, name: str) -> int:
    """Return the length of a waveform at 16 kHz, of a file by its header. Nothing is decoded."""
    if isinstance(audio, str | Path):
        try:
            info = soundfile.info(audio)
        except (OSError, RuntimeError, TypeError) as error:
            raise UserError(f"audio {audio}: cannot be read: {error}") from None
        samples, rate, name = info.frames, info.samplerate, f"audio {audio}"
    else:
        samples = _as_floats(audio, name).shape[-1]
    check_length(samples, rate, name)
    return samples * SAMPLE_RATE // rate


def _as_floats(audio: Any, name: str) -> Samples:
    """Return samples (N,) or (channels, N) of a list, an array or a tensor: floats as they are, integers as -1..1."""
    try:
        array = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
    except (TypeError, ValueError) as error:  # bf16, ragged lists
        raise UserError(f"{name}: not samples: {error}") from None
    is_integer = array.dtype.kind == "i" and array.dtype.itemsize in (2, 4)
    if array.dtype.kind != "f" and not is_integer:
        kind = f"{type(audio).__name__} of {array.dtype}"
        raise UserError(f"{name}: expected a path, or samples as floats, int16 or int32; found {kind}")
    if array.ndim not in (1, 2) or (array.ndim == 2 and len(array) > array.shape[1]):
        raise UserError(f"{name}: expected (samples,) or (channels, samples), found {array.shape}")
    full_scale = 2 ** (8 * array.dtype.itemsize - 1) if is_integer else 1
    return np.ascontiguousarray(array if full_scale == 1 else array / full_scale, np.float32)


def check_length(samples: int, rate: int, name: str) -> None:
    """Refuse a sample rate or a length that only a damaged header has, or that no encoder can take."""
    if not isinstance(rate, int) or not 1 <= rate <= HIGHEST_RATE:
        raise UserError(f"{name}: sample rate: expected a whole number from 1 to {HIGHEST_RATE}, found {rate!r}")
    if samples > UNKNOWN_LENGTH:
        raise UserError(f"{name}: its header does not say how long it is; encode it again")
    if samples > LONGEST_SECONDS * rate:
        raise UserError(
            f"{name}: {samples / rate:,.1f} s long; expected at most {LONGEST_SECONDS:.0f} s; cut it into parts"
        )


def is_silent(waveform: Tensor) -> bool:
    """Return whether a waveform (N,) stays within a range of SILENCE."""
    return bool(np.ptp(waveform.numpy()) < SILENCE)


def resample(samples: Samples, rate: int) -> Samples:
    """Interpolate samples (N,) at `rate` to 16 kHz: (ceil(N * 16000 / rate),)

    The output samples repeat the same few positions between input samples, and each position has a filter of its own.
    """
    if rate == SAMPLE_RATE:
        return samples
    step = Fraction(rate, SAMPLE_RATE)  # input samples from one output sample to the next
    filters = _filters(step)  # (positions, taps)
    count = math.ceil(len(samples) / step)
    periods = math.ceil(count / len(filters))  # in a period each position occurs once
    left = filters.shape[1] // 2 - 1
    padded = np.pad(samples, (left, periods * step.numerator + filters.shape[1]))
    windows = sliding_window_view(padded, filters.shape[1])  # (N', taps), without a copy
    out = np.empty((periods, len(filters)), np.float32)
    for position, taps in enumerate(filters):
        first = position * step.numerator // step.denominator
        np.einsum("nt,t->n", windows[first :: step.numerator][:periods], taps, out=out[:, position])
    return out.reshape(-1)[:count]


@lru_cache(maxsize=8)
def _filters(step: Fraction) -> Samples:
    """Return the filter of each position between input samples: (step.denominator, taps)"""
    cutoff = ROLLOFF * min(1.0, float(1 / step))
    reach = math.ceil(ZERO_CROSSINGS / cutoff)  # input samples on either side
    between = np.arange(step.denominator) * step.numerator % step.denominator / step.denominator
    crossings = (np.arange(-reach, reach + 2) - between[:, None]) * cutoff
    window = np.cos(np.clip(crossings / ZERO_CROSSINGS, -1, 1) * np.pi / 2) ** 2
    return (np.sinc(crossings) * window * cutoff).astype(np.float32)


def _checked(samples: Samples, name: str) -> Tensor:
    if len(samples) == 0:
        raise UserError(f"{name}: no samples")
    if not np.isfinite(samples).all():
        raise UserError(f"{name}: {int((~np.isfinite(samples)).sum())} samples are not finite numbers")
    return torch.from_numpy(samples)
