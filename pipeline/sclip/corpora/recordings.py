"""Inspection and decoding of a corpus's recordings. Faults are returned as values, not raised as exceptions.

This module does not import torch, so that processes that only decode start quickly.
"""

import array
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
import soundfile
from numpy.typing import NDArray

from sclip.encoders.audio import SAMPLE_RATE, Samples, check_length, is_silent, open_audio, read_audio, too_short_reason
from sclip.errors import Fault, UserError
from sclip.files import EMPTY, missing_file_reason, raise_if_system_error, read_bytes

if TYPE_CHECKING:
    from sclip.corpora.rows import Row

HASH_BYTES = 32
CONVERTED = "recordings that are mixed down or resampled"  # the kind of a recording's note


@dataclass(frozen=True)
class Recording:
    """A row's audio file, as far as its bytes and its header describe it."""

    row: "Row"
    hash: str  # of the file
    samples: int = 0  # at 16 kHz, according to the header
    note: str | None = None
    fault: Fault | None = None


@dataclass
class Inspected:
    """Collect what `inspect` finds out about some rows: 40 bytes for each, without the rows themselves."""

    samples: "array.array[int]" = field(default_factory=lambda: array.array("q"))
    hashes: bytearray = field(default_factory=bytearray)  # zeros for a file that cannot be read
    notes: dict[int, str] = field(default_factory=dict)  # by index
    faults: dict[int, Fault] = field(default_factory=dict)

    @classmethod
    def of(cls, recordings: Iterable[Recording]) -> "Inspected":
        inspected = cls()
        for recording in recordings:
            inspected.append(recording)
        return inspected

    def append(self, recording: Recording) -> None:
        if recording.note is not None:
            self.notes[len(self.samples)] = recording.note
        if recording.fault is not None:
            self.faults[len(self.samples)] = recording.fault
        self.samples.append(recording.samples)
        self.hashes += bytes.fromhex(recording.hash) if recording.hash else bytes(HASH_BYTES)

    def extend(self, following: "Inspected") -> None:
        """Append what was found out about the rows that follow these."""
        count = len(self.samples)
        self.notes |= {count + i: note for i, note in following.notes.items()}
        self.faults |= {count + i: fault for i, fault in following.faults.items()}
        self.samples += following.samples
        self.hashes += following.hashes


class Recordings(Sequence[Recording]):
    """The recordings of some rows. Each one is put together when it is used; a slice is a view."""

    def __init__(self, rows: "Sequence[Row]", shares: Sequence[Inspected], indices: range | None = None):
        """Combine N shares. Each describes every N-th row, as `rank_share` divides them."""
        self._rows, self._shares = rows, shares
        self._indices = range(len(rows)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Recording: ...
    @overload
    def __getitem__(self, index: slice) -> "Recordings": ...
    def __getitem__(self, index: int | slice) -> "Recording | Recordings":
        if isinstance(index, slice):
            return Recordings(self._rows, self._shares, self._indices[index])
        row = self._indices[index]
        i, rank = divmod(row, len(self._shares))
        share = self._shares[rank]
        digest = share.hashes[i * HASH_BYTES : (i + 1) * HASH_BYTES]
        hash_ = digest.hex() if any(digest) else ""
        return Recording(self._rows[row], hash_, share.samples[i], share.notes.get(i), share.faults.get(i))

    def samples(self) -> NDArray[np.int64]:
        """Return the numbers of samples (N,)."""
        samples = np.empty(len(self._rows), np.int64)
        for rank, share in enumerate(self._shares):
            if share.samples:
                samples[rank :: len(self._shares)] = share.samples
        return samples[self._indices.start : self._indices.stop : self._indices.step]


@dataclass(frozen=True)
class Decoded:
    """The decoded recordings of a batch."""

    samples: Samples  # (N,): the waveforms that can be used, one after the other
    results: list[int | Fault]  # for each recording its number of samples, or why it cannot be used


def inspect_all(rows: Iterable["Row"]) -> Inspected:
    """Inspect the recordings of some rows."""
    return Inspected.of(map(inspect, rows))


def inspect(row: "Row") -> Recording:
    """Hash a row's audio file and read its header, without decoding it."""
    name = f"audio {row.audio.name}"
    try:
        data = read_bytes(row.audio)
    except FileNotFoundError:
        return Recording(row, "", fault=Fault(f"{name}: {missing_file_reason(row.audio)}"))
    except OSError as error:
        raise_if_system_error(row.audio, error)
        return Recording(row, "", fault=Fault(f"{name}: cannot be read: {error.strerror}"))
    digest = hashlib.sha256(data).hexdigest()
    if not data:
        return Recording(row, digest, fault=Fault(f"{name}: {EMPTY}"))
    try:
        with open_audio(io.BytesIO(data), name) as opened:
            check_length(opened.frames, opened.samplerate, name)
            samples = opened.frames * SAMPLE_RATE // opened.samplerate
            return Recording(row, digest, samples, _conversion(opened))
    except UserError as error:
        return Recording(row, digest, fault=Fault(str(error)))


def decode_all(batch: Iterable[Recording], shortest: int) -> Decoded:
    """Decode the recordings of a batch. `shortest` is the number of samples that make one frame."""
    waveforms = [np.empty(0, np.float32)]
    results: list[int | Fault] = []
    for recording in batch:
        decoded = decode(recording, shortest)
        if isinstance(decoded, Fault):
            results.append(decoded)
        else:
            results.append(len(decoded))
            waveforms.append(decoded)
    return Decoded(np.concatenate(waveforms), results)


def decode(recording: Recording, shortest: int) -> Samples | Fault:
    """Return a recording's waveform (N,), or why it cannot be used.

    `shortest` is the number of samples that make one frame. Faults are stored in shards, so they do not name a folder.
    """
    if recording.fault is not None:
        return recording.fault
    path = recording.row.audio
    try:
        waveform = read_audio(path)
    except UserError as error:
        return Fault(str(error).replace(str(path), path.name))
    if len(waveform) < shortest:
        return Fault(f"audio {path.name}: {too_short_reason(len(waveform), shortest)}")
    if is_silent(waveform):
        return Fault(f"audio {path.name}: silent")
    return waveform


def _conversion(file: soundfile.SoundFile) -> str | None:
    """Describe how decoding converts a file; return None if the file is 16 kHz mono."""
    steps = ["mixed down"] * (file.channels > 1) + ["resampled to 16 kHz"] * (file.samplerate != SAMPLE_RATE)
    channels = {1: "mono", 2: "stereo"}.get(file.channels, f"{file.channels} channels")
    return f"{file.samplerate / 1000:g} kHz {channels}, {' and '.join(steps)}" if steps else None
