"""Recordings as the encoders take them: mono, 16 kHz, fp32, checked.

numpy computes all of it in the calling thread, for three reasons. The precision does not depend on torch's autocast.
Threads that prefetch recordings do not start torch's own threads, which would take cores from the encoder. A process
that only decodes recordings need not import torch.
"""

import errno
import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from sclip.errors import UserError, counted
from sclip.files import EMPTY, missing_file_reason

SAMPLE_RATE = 16_000
HIGHEST_RATE = 384_000
# Attention needs memory for the square of the length. The longest recording of the published corpora is 323.5 s long.
LONGEST_SECONDS = 360.0
MISSING_SECONDS = 0.1  # a header may be wrong by this much
UNKNOWN_LENGTH = 2**40  # samples; a header with a larger number means that the writer did not know the length
UNKNOWN_BYTES = 0x7FFF_0000  # the same for the number of bytes of samples in the header of a wav file
MOST_CHUNKS = 1_000  # before the samples of a wav file
UNKNOWN_FORMAT = 1  # libsndfile's code for a file that is not in one of its formats
SILENCE = 1e-4  # between the highest and the lowest sample
BLOCK = 2**16  # samples of each channel that are decoded at a time
# The interpolating filter is torchaudio's default: a sinc with a Hann window over this number of zero crossings on each
# side. ROLLOFF is its cutoff as a share of the lower of the two Nyquist frequencies.
ZERO_CROSSINGS, ROLLOFF = 6, 0.99

Samples = NDArray[np.float32]
AudioFile = str | Path | io.BytesIO


def read_audio(file: AudioFile, name: str | None = None) -> Samples:
    """Decode any wav, flac, ogg or mp3 file, at a path or in memory -> (N,)"""
    name = f"audio {file}" if name is None else name
    with open_audio(file, name) as opened:
        check_length(opened.frames, opened.samplerate, name)
        samples = np.concatenate([np.empty(0, np.float32), *read_blocks(opened, BLOCK, name)])
        return checked(resample(samples, opened.samplerate), name)


@contextmanager
def open_audio(file: AudioFile, name: str) -> Iterator[soundfile.SoundFile]:
    """Open a file for decoding, and raise one kind of error for all that may be wrong with it."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    elif not Path(file).exists() or Path(file).is_dir():
        raise UserError(f"{name}: {'a folder, not a recording' if Path(file).is_dir() else missing_file_reason(file)}")
    elif Path(file).is_file() and not Path(file).stat().st_size:
        raise UserError(f"{name}: {EMPTY}")
    elif not os.access(file, os.R_OK):
        raise UserError(f"{name}: cannot be read: {os.strerror(errno.EACCES)}")
    try:
        # As bytes, a name may be any that the file system has, also one that is not UTF-8.
        with soundfile.SoundFile(file if isinstance(file, io.BytesIO) else os.fsencode(file)) as opened:
            _check_bytes(file, opened, name)
            yield opened
    except (OSError, RuntimeError, TypeError) as error:  # soundfile raises TypeError for a file named .raw
        reason = str(getattr(error, "error_string", error)).rstrip(".")  # libsndfile's words, without the file's name
        if getattr(error, "code", None) == UNKNOWN_FORMAT:
            reason += "; expected a recording, such as wav, flac, ogg or mp3"
        raise UserError(f"{name}: cannot be read: {reason}") from None


def _check_bytes(file: AudioFile, opened: soundfile.SoundFile, name: str) -> None:
    """Refuse a wav file that has fewer samples than its header says. libsndfile reads those that are there."""
    if not opened.format.startswith("WAV") or not opened.frames:
        return
    if isinstance(file, io.BytesIO):
        position = file.tell()
        stated, found = _sample_bytes(file)
        file.seek(position)
    elif not Path(file).is_file():  # a pipe cannot be read twice
        return
    else:
        with open(file, "rb") as raw:
            stated, found = _sample_bytes(raw)
    seconds = opened.frames / opened.samplerate
    missing = (stated - found) * seconds / max(found, 1)  # seconds
    if missing > MISSING_SECONDS:
        raise _cut_off(name, seconds + missing, seconds)


def _sample_bytes(file: BinaryIO) -> tuple[int, int]:
    """Return how many bytes of samples a wav file has by its header, and how many there are.

    Both are 0 if the header does not say it. Other chunks, such as tags, may follow the samples.
    """
    size, start = file.seek(0, io.SEEK_END), 12
    file.seek(0)
    if file.read(4) != b"RIFF":
        return 0, 0
    for _ in range(MOST_CHUNKS):
        file.seek(start)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return (length, min(length, size - start - 8)) if length < UNKNOWN_BYTES else (0, 0)
        start += 8 + length + length % 2
    return 0, 0


def _cut_off(name: str, stated: float, found: float) -> UserError:
    return UserError(
        f"{name}: the file is damaged or cut off: its header says {stated:.1f} s, and it ends after {found:.1f} s"
    )


def read_blocks(file: soundfile.SoundFile, size: int, name: str) -> Iterator[Samples]:
    """Yield the samples of an open file in blocks, mixed down. Raise an error if it ends before its header says so."""
    count, rate = 0, file.samplerate
    # SoundFile.blocks would fill a last block that is cut short with samples of the block before.
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        count += len(block)
        yield block.mean(1)
    if file.frames - count > MISSING_SECONDS * rate:
        raise _cut_off(name, file.frames / rate, count / rate)


def check_length(samples: int, rate: int, name: str) -> None:
    """Refuse a sample rate or a length that only a damaged header has, or that no encoder can take."""
    check_header(samples, rate, name)
    if samples > LONGEST_SECONDS * rate:
        raise UserError(
            f"{name}: {samples / rate:,.1f} s long; expected at most {LONGEST_SECONDS:.0f} s; cut it into parts"
        )


def check_header(samples: int, rate: int, name: str) -> None:
    """Refuse a sample rate or a length that only a damaged header has."""
    if not isinstance(rate, int) or not 1 <= rate <= HIGHEST_RATE:
        raise UserError(f"{name}: sample rate: expected a whole number from 1 to {HIGHEST_RATE}, found {rate!r}")
    if samples > UNKNOWN_LENGTH:
        raise UserError(f"{name}: its header does not say how long it is; encode it again")


def is_silent(waveform: ArrayLike) -> bool:
    """Return whether a waveform (N,) stays within a range of SILENCE."""
    return bool(np.ptp(np.asarray(waveform)) < SILENCE)


def too_short_reason(samples: int, shortest: int) -> str:
    """Return why an encoder cannot take a recording, as the end of an error. `shortest` samples make one frame."""
    return (
        f"too short: {samples / SAMPLE_RATE:.4f} s, {counted(samples, 'samples')} at 16 kHz; expected at least "
        f"{shortest / SAMPLE_RATE:.3f} s, {shortest} samples, for one frame"
    )


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


def resample_blocks(blocks: Iterable[Samples], rate: int) -> Iterator[Samples]:
    """Interpolate a recording that comes in blocks. Joined, the results equal `resample` of the whole recording.

    A block is interpolated together with the input samples on either side that its filters reach.
    """
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    step = Fraction(rate, SAMPLE_RATE)
    period = step.numerator  # input samples after which the filters repeat
    reach = math.ceil(_filters(step).shape[1] / period) * period
    # The first `before` samples of the buffer are done; the filters of later samples still read them.
    buffer, before = np.empty(0, np.float32), 0
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        ready = (len(buffer) - before - reach) // period * period
        if ready > 0:
            done = before + ready
            first, last = (count // period * step.denominator for count in (before, done))
            yield resample(buffer[: done + reach], rate)[first:last]
            before = min(reach, done)
            buffer = buffer[done - before :]
    yield resample(buffer, rate)[before // period * step.denominator :]


@lru_cache(maxsize=8)
def _filters(step: Fraction) -> Samples:
    """Return the filter of each position between input samples: (step.denominator, taps)"""
    cutoff = ROLLOFF * min(1.0, float(1 / step))
    reach = math.ceil(ZERO_CROSSINGS / cutoff)  # input samples on either side
    between = np.arange(step.denominator) * step.numerator % step.denominator / step.denominator
    crossings = (np.arange(-reach, reach + 2) - between[:, None]) * cutoff
    window = np.cos(np.clip(crossings / ZERO_CROSSINGS, -1, 1) * np.pi / 2) ** 2
    return (np.sinc(crossings) * window * cutoff).astype(np.float32)


def checked(samples: Samples, name: str) -> Samples:
    """Return decoded samples (N,). Refuse an empty recording and samples that are not finite."""
    if len(samples) == 0:
        raise UserError(f"{name}: no samples")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise UserError(f"{name}: {counted(bad, 'samples')} {'is' if bad == 1 else 'are'} infinite or not a number")
    return samples
