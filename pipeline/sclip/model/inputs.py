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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sclip.encoders.audio import LONGEST_SECONDS, SAMPLE_RATE, is_silent, too_short_reason
from sclip.encoders.pictures import read_rgb
from sclip.encoders.waveforms import as_waveform, count_samples
from sclip.errors import UserError
from sclip.padded import length_sorted_batches

if TYPE_CHECKING:
    from sclip.encoders.open import AnySpeechEncoder

log = logging.getLogger(__name__)

SHORT_SECONDS = 0.1  # less than any word takes
# Of full scale. HuBERT's first norm adds a constant to the variance. With the models that ship, the vector of a
# recording with a peak of 0.44 has a cosine of 0.97 to that of the same recording with a peak of 0.09, 0.77 with a peak
# of 0.04, and 0.3 with 0.02.
QUIET_PEAK = 0.05
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

    def decode(self, speech: "AnySpeechEncoder") -> Tensor:
        """Return the waveform (N,) for a speech encoder, and log a warning if it is silent, quiet or very short."""
        waveform = as_waveform(self.audio, self.rate, self.name)
        if self.is_checked:
            return waveform
        if len(waveform) < speech.shortest:
            raise UserError(f"{self.name}: {too_short_reason(len(waveform), speech.shortest)}")
        if len(waveform) < SHORT_SECONDS * SAMPLE_RATE:
            seconds = len(waveform) / SAMPLE_RATE
            log.warning("%s: only %.2f s long; its vectors and keywords mean little", self.name, seconds)
        elif is_silent(waveform):
            log.warning("%s: silent; its vectors and keywords mean nothing", self.name)
        else:
            self.warn_if_quiet(float(waveform.abs().max()), speech)
        return waveform

    def usable(self, speech: "AnySpeechEncoder") -> "AudioInput":
        """Return the recording, decoded, and log a warning if it is quiet.

        Refuse one that is silent or shorter than any word, as `index` and `embed` do.
        """
        waveform = as_waveform(self.audio, self.rate, self.name)
        if len(waveform) < max(speech.shortest, SHORT_SECONDS * SAMPLE_RATE):
            seconds = len(waveform) / SAMPLE_RATE
            raise UserError(f"{self.name}: only {seconds:.4f} s long; expected at least {SHORT_SECONDS} s")
        if is_silent(waveform):
            raise UserError(f"{self.name}: silent; expected a recording with speech")
        self.warn_if_quiet(float(waveform.abs().max()), speech)
        return AudioInput(waveform, SAMPLE_RATE, self.name, True)

    def warn_if_quiet(self, peak: float, speech: "AnySpeechEncoder") -> None:
        """Log a warning if the loudest sample, `peak`, is too quiet for a speech encoder."""
        if speech.depends_on_loudness and peak < QUIET_PEAK:
            log.warning(
                "%s: quiet: its loudest sample is %.1f %% of full scale, and this model's speech encoder does not "
                "adjust the level; make it louder if the results are poor",
                self.name,
                100 * peak,
            )


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
        return AudioInput(item["array"], _plain_rate(item.get("sampling_rate", rate)), name)
    if hasattr(item, "get_all_samples"):
        decoded = item.get_all_samples()
        return AudioInput(decoded.data, decoded.sample_rate, name)
    file, name = _as_file(item, name, '"array" and "sampling_rate"')
    return AudioInput(item if file is None else file, _plain_rate(rate), name)


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


def _plain_rate(rate: Any) -> Any:
    """Return a number of numpy as one of Python, and a whole number as an int. Other values are refused later."""
    rate = rate.item() if isinstance(rate, np.generic) else rate
    return int(rate) if isinstance(rate, float) and rate.is_integer() else rate


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
