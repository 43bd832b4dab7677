"""A recording of any length in windows, of which only one is in memory at a time.

A window continues into the next one, so words near the joint have sound on both sides in one of the two. The joint is
the quietest place in the second half of a window, which in speech is a pause: the next window starts like a recording
does, and no word is cut in two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from sclip.encoders.audio import (
    BLOCK,
    SAMPLE_RATE,
    AudioFile,
    Samples,
    check_header,
    checked,
    open_audio,
    read_blocks,
    resample_blocks,
)
from sclip.encoders.waveforms import as_floats

BLOCK_SECONDS = 4  # decoded at a time, but never more than BLOCK samples
JOINTS = (0.5, 0.95)  # the part of a window in which the next one may start
PAUSE_SECONDS = 0.2  # over which loudness is averaged


@dataclass(frozen=True)
class Window:
    """A part of a recording."""

    start: int  # in samples at 16 kHz
    waveform: Tensor  # (N,)
    joint: int | None  # where the next window starts; None for the last one

    @property
    def end(self) -> int:
        return self.start + len(self.waveform)


def read_windows(audio: Any, rate: int, name: str, size: int, frame: int) -> Iterator[Window]:
    """Yield windows of `size` samples at 16 kHz, and a shorter last one. Each starts at a multiple of `frame` samples.

    `audio` is a path, a file in memory, or samples at `rate`.
    """
    buffer, start = np.empty(0, np.float32), 0
    for piece in read_pieces(audio, rate, name):
        buffer = np.concatenate([buffer, piece])
        while len(buffer) > size:
            joint = _quietest(buffer[:size], frame)
            yield Window(start, torch.from_numpy(checked(buffer[:size], name)), start + joint)
            buffer, start = buffer[joint:], start + joint
    yield Window(start, torch.from_numpy(checked(buffer, name)), None)


def read_pieces(audio: Any, rate: int, name: str) -> Iterator[Samples]:
    """Yield a recording of any length at 16 kHz, mixed down, a few seconds (N,) at a time."""
    if isinstance(audio, AudioFile):
        with open_audio(audio, name) as file:
            check_header(file.frames, file.samplerate, name)
            size = min(BLOCK_SECONDS * file.samplerate, BLOCK)
            yield from resample_blocks(read_blocks(file, size, name), file.samplerate)
    else:
        samples = as_floats(audio, name)
        samples = samples[None] if samples.ndim == 1 else samples  # (channels, N)
        check_header(samples.shape[1], rate, name)
        size = min(BLOCK_SECONDS * rate, BLOCK)
        blocks = (samples[:, first : first + size].mean(0) for first in range(0, samples.shape[1], size))
        yield from resample_blocks(blocks, rate)


def _quietest(window: Samples, frame: int) -> int:
    """Return the quietest place in the end of a window (N,), a multiple of `frame`. The next window starts there."""
    first, last = (int(share * len(window)) // frame for share in JOINTS)
    power = np.square(window[first * frame : last * frame].reshape(-1, frame)).mean(1)  # (frames,)
    averaged = min(len(power), max(1, round(PAUSE_SECONDS * SAMPLE_RATE / frame)))
    loudness = sliding_window_view(power, averaged).mean(1)
    return (first + int(loudness.argmin()) + averaged // 2) * frame
