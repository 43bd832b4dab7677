"""Recordings as they lie on the disk: looked over, then heard. What is wrong with one is said in words."""

import hashlib
import io
from dataclasses import dataclass

import soundfile
from torch import Tensor

from sclip.corpora.manifest import Row
from sclip.encoders.audio import SAMPLE_RATE, check_length, is_silent, read_audio
from sclip.errors import UserError

CONVERTED = "recordings that are mixed down or resampled"  # those with a note


@dataclass(frozen=True)
class Recording:
    """A row's audio file, looked over."""

    row: Row
    hash: str  # of the file
    samples: int = 0  # at 16 kHz, by the header
    note: str | None = None
    fault: str | None = None


def look(row: Row) -> Recording:
    """At its bytes and its header; nothing is decoded."""
    try:
        data = row.audio.read_bytes()
    except FileNotFoundError:
        return Recording(row, "", fault=f"audio {row.audio.name}: no such file")
    except OSError as error:
        return Recording(row, "", fault=f"audio {row.audio.name}: cannot be read: {error.strerror}")
    found = hashlib.sha256(data).hexdigest()
    try:
        info = soundfile.info(io.BytesIO(data))
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]  # what comes before describes the buffer
        return Recording(row, found, fault=f"audio {row.audio.name}: cannot be read: {reason}")
    try:
        check_length(info.frames, info.samplerate, f"audio {row.audio.name}")
    except UserError as error:
        return Recording(row, found, fault=str(error))
    samples = info.frames * SAMPLE_RATE // info.samplerate
    made = ["mixed down"] * (info.channels > 1) + ["resampled to 16 kHz"] * (info.samplerate != SAMPLE_RATE)
    channels = {1: "mono", 2: "stereo"}.get(info.channels, f"{info.channels} channels")
    note = f"{info.samplerate / 1000:g} kHz {channels}, {' and '.join(made)}" if made else None
    return Recording(row, found, samples, note)


def hear(recording: Recording, shortest: int) -> Tensor | str:
    """The waveform, or what is wrong with it. Messages are stored, and so tell of no folder."""
    if recording.fault is not None:
        return recording.fault
    path = recording.row.audio
    try:
        waveform = read_audio(path)
    except UserError as error:
        return str(error).replace(str(path), path.name)
    if len(waveform) < shortest:
        return f"audio {path.name}: {len(waveform)} samples at 16 kHz; a frame takes {shortest}"
    if is_silent(waveform):
        return f"audio {path.name}: silent"
    return waveform
