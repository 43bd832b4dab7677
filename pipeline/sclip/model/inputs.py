"""What a model takes: recordings, pictures and texts of many kinds, in any iterable, a bounded number at a time.

Each kind becomes one of those that the encoders know:

    recordings  a path; a file in memory, from bytes or from an open file; or samples, each with its own sample rate
    pictures    a path, a picture of Pillow, an array of bytes, or a preprocessed tensor

Rows of `datasets` come decoded, {"array", "sampling_rate"}, as {"bytes", "path"}, or as a decoder of torchcodec.
"""

import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sclip.encoders.audio import LONGEST_SECONDS, SAMPLE_RATE, is_silent, too_short_reason
from sclip.encoders.pictures import read_rgb
from sclip.encoders.waveforms import as_waveform, count_samples
from sclip.errors import UserError
from sclip.padded import length_sorted_batches

log = logging.getLogger(__name__)

SHORT_SECONDS = 0.1  # less than any word takes
# The limits of a group of recordings that is sorted by length: their number, and their total length in multiples of the
# longest possible one.
SORTED_RECORDINGS, SORTED_DURATIONS = 1024, 4
Item = TypeVar("Item")


@dataclass(frozen=True)
class AudioInput:
    """A recording as it was passed to a model."""

    audio: Any  # a path, a file in memory, or samples
    rate: int  # of samples; files have their own
    name: str  # for messages
    is_checked: bool = False  # the caller checks length and loudness, so `decode` does not

    @property
    def samples(self) -> int:
        """Return the number of samples at 16 kHz. For a file, it comes from the header."""
        return count_samples(self.audio, self.rate, self.name)

    def decode(self, shortest: int) -> Tensor:
        """Return the waveform (N,), and log a warning if it is silent or very short.

        `shortest` is the number of samples that make one frame.
        """
        waveform = as_waveform(self.audio, self.rate, self.name)
        if self.is_checked:
            return waveform
        if len(waveform) < shortest:
            raise UserError(f"{self.name}: {too_short_reason(len(waveform), shortest)}")
        if len(waveform) < SHORT_SECONDS * SAMPLE_RATE:
            seconds = len(waveform) / SAMPLE_RATE
            log.warning("%s: only %.2f s long; its vectors and keywords mean little", self.name, seconds)
        elif is_silent(waveform):
            log.warning("%s: silent; its vectors and keywords mean nothing", self.name)
        return waveform

    def usable(self, shortest: int) -> "AudioInput":
        """Return the recording, decoded. Refuse one that is silent or shorter than any word, as `index` and `embed` do.

        `shortest` is the number of samples that make one frame.
        """
        waveform = as_waveform(self.audio, self.rate, self.name)
        if len(waveform) < max(shortest, SHORT_SECONDS * SAMPLE_RATE):
            seconds = len(waveform) / SAMPLE_RATE
            raise UserError(f"{self.name}: only {seconds:.4f} s long; expected at least {SHORT_SECONDS} s")
        if is_silent(waveform):
            raise UserError(f"{self.name}: silent; expected a recording with speech")
        return AudioInput(waveform, SAMPLE_RATE, self.name, True)


def check_several(items: Any, dimensions: int) -> None:
    """Refuse a single item: a path would be read letter by letter, a recording sample by sample.

    `dimensions` is the largest number that an array of a single item has. An array of texts or paths is a list.
    """
    single = isinstance(items, str | bytes | bytearray | memoryview | os.PathLike | Mapping | Image.Image | AudioInput)
    is_file = hasattr(items, "read") or hasattr(items, "get_all_samples")
    is_array = isinstance(items, Tensor) or (isinstance(items, np.ndarray) and items.dtype.kind not in "OUS")
    if single or is_file or (is_array and items.ndim <= dimensions) or not hasattr(items, "__iter__"):
        raise UserError(f"expected a list, found a single {type(items).__name__}")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def recordings(items: Iterable[Any], rate: int) -> Iterator[AudioInput]:
    """Yield recordings of any kind. `rate` is that of samples that come without one."""
    for i, item in enumerate(items):
        yield as_recording(item, rate, f"recording {i}")


def as_recording(item: Any, rate: int, name: str) -> AudioInput:
    """Return a recording of any kind as one that can be decoded. A path is its own name."""
    if isinstance(item, AudioInput):
        return item
    if isinstance(item, Mapping) and item.get("array") is not None:
        return AudioInput(item["array"], _plain(item.get("sampling_rate", rate)), name)
    if hasattr(item, "get_all_samples"):
        decoded = item.get_all_samples()
        return AudioInput(decoded.data, decoded.sample_rate, name)
    file, name = _as_file(item, name, '"array" and "sampling_rate"')
    return AudioInput(item if file is None else file, rate, name)


def as_picture(item: Any, name: str) -> Any:
    """Return a picture of any kind as one that CLIP's encoder knows."""
    file, name = _as_file(item, name, "a picture")
    if isinstance(file, io.BytesIO):
        try:
            return read_rgb(file)
        except Exception as error:  # Pillow raises errors of many kinds on a damaged file
            kind = "not a picture" if "cannot identify" in str(error) else f"cannot be read: {error}"
            raise UserError(f"{name}: {kind}") from None
    return item if file is None else file


def _as_file(item: Any, name: str, expected: str) -> tuple[Path | io.BytesIO | None, str]:
    """Return a file's path or content, or None if the item is no file, and how messages call it."""
    if isinstance(item, Mapping):
        if item.get("bytes") is None and item.get("path") is None:
            keys = ", ".join(map(str, item)) or "none"
            raise UserError(f'{name}: expected {expected}, or "bytes" or "path", among the keys; found {keys}')
        item = item["path"] if item.get("bytes") is None else item["bytes"]
    if isinstance(item, str | os.PathLike):
        path = Path(os.fsdecode(item))
        return path, str(path)
    if hasattr(item, "read"):
        label = getattr(item, "name", None)
        name = f"{name} ({label})" if isinstance(label, str) else name
        item = item.read()
        if isinstance(item, str):
            raise UserError(f"{name}: the file was opened as text; open it with mode 'rb'")
    if isinstance(item, bytes | bytearray | memoryview):
        return io.BytesIO(item), name
    return None, name


def _plain(number: Any) -> Any:
    """Return a number of numpy as one of Python."""
    return number.item() if isinstance(number, np.generic) else number


def batches(items: Iterable[AudioInput], size: int) -> Iterator[list[tuple[int, AudioInput]]]:
    """Yield batches of recordings of similar length, with the place of each in the order of `items`.

    A bounded number of recordings is sorted by length together. Nothing is decoded. A batch, padding included, is never
    longer than the longest possible recording.
    """
    longest, first = int(LONGEST_SECONDS * SAMPLE_RATE), 0
    for group, lengths in _groups(items, SORTED_DURATIONS * longest):
        for indices in length_sorted_batches(torch.tensor(lengths), longest):
            for batch in batched(indices.tolist(), size):
                yield [(first + i, group[i]) for i in batch]
        first += len(group)


def _groups(items: Iterable[AudioInput], most: int) -> Iterator[tuple[list[AudioInput], list[int]]]:
    """Yield groups of recordings, with their lengths in samples.

    A group ends with SORTED_RECORDINGS recordings, or when its lengths sum to `most` or more.
    """
    group: list[AudioInput] = []
    lengths: list[int] = []
    for item in items:
        group.append(item)
        lengths.append(item.samples)
        if len(group) == SORTED_RECORDINGS or sum(lengths) >= most:
            yield group, lengths
            group, lengths = [], []
    if group:
        yield group, lengths


def total(items: Any) -> int | None:
    """Return the number of items, or None if it is not known before the last one."""
    return len(items) if hasattr(items, "__len__") else None
