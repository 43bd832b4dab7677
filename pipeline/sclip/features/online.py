"""No cache: the speech encoder hears recordings anew whenever their states are read.

For a corpus whose states no disk holds, or an encoder faster than the disk. What is read is what a cache would have
kept, but for rounding; `index.json` holds only which recordings can be used and how long they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.ahead import read_ahead
from sclip.corpora.manifest import Row
from sclip.encoders.audio import read_audio
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.compute import chunks
from sclip.features.listen import Listener
from sclip.features.recordings import Recording, hear
from sclip.features.store import FORMAT, INDEX_FILE, fingerprint_of
from sclip.padded import Padded, even_batches


def online_index(
    features: Mapping[str, Any], recordings: Sequence[Recording], encoder: AnySpeechEncoder, problems: Problems
) -> dict[str, Any]:
    """Each process decodes every recording once, to know what can be heard."""
    lengths: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for batch, heard in read_ahead(chunks(recordings, 64), lambda recording: _length(recording, encoder)):
        for recording, found in zip(batch, heard, strict=True):
            if isinstance(found, str):
                problems.add(recording.row.name, found)
                skipped[recording.row.id] = found
            else:
                lengths[recording.row.id] = found
    return {
        "format": FORMAT,
        "fingerprint": fingerprint_of(features),
        "features": dict(features),
        "recordings": fingerprint_of([[recording.row.id, recording.hash] for recording in recordings]),
        "utterances": len(lengths),
        "frames": sum(lengths.values()),
        "skipped": skipped,
        "shards": [],
        "lengths": lengths,
    }


def _length(recording: Recording, encoder: AnySpeechEncoder) -> int | str:
    """Frames, or what is wrong."""
    waveform = hear(recording, encoder.shortest)
    return waveform if isinstance(waveform, str) else int(encoder.frames(torch.tensor(len(waveform))))


class OnlineStore:
    """Reads like a FeatureStore."""

    def __init__(self, index: Mapping[str, Any], rows: Sequence[Row], listener: Listener):
        self.features, self.fingerprint = dict(index["features"]), str(index["fingerprint"])
        self.ids: list[str] = list(index["lengths"])
        self.lengths = torch.tensor(list(index["lengths"].values()))
        self.frame_seconds = float(self.features["frame_seconds"])
        audio = {row.id: row.audio for row in rows}
        self._audio = [audio.get(name) for name in self.ids]
        self._listener = listener
        listener.encoder.to(listener.device)
        if self.features["hash"] != listener.encoder.fingerprint():
            name = listener.encoder.source.name
            raise UserError(f"speech encoder {name}: not the one of {INDEX_FILE}; run `sclip extract-features` again")

    def read(self, rows: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1) -> Padded:
        """Frames from `starts` (B,) on, `limit` at most -> (B, L, T, D); T is a multiple of `multiple`."""
        starts = torch.zeros_like(rows) if starts is None else starts
        frames = int(self._listener.config.batch_seconds / self.frame_seconds)  # as many as extraction takes at a time
        states: dict[str, Tensor] = {}
        for group in even_batches(self.lengths[rows], frames):
            paths = {str(i): self._audio[int(rows[i])] for i in group.tolist()}
            states |= self._listener.each({i: read_audio(path) for i, path in paths.items() if path is not None})
        windows = [states[str(i)][int(start) :] for i, start in enumerate(starts)]
        batch = Padded.stack([window[:limit].transpose(0, 1) for window in windows])
        return Padded(F.pad(batch.values, (0, 0, 0, -batch.values.shape[2] % multiple)), batch.lengths)
