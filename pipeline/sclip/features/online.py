"""Features without a cache: the speech encoder runs on every read.

This is for a corpus whose states do not fit on the disk, or for an encoder that is faster than the disk. Apart from
rounding, the states equal those of a cache. `index.json` lists only the usable recordings and their lengths.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.concurrency import chunks, prefetch_batches
from sclip.corpora.recordings import Recording, decode
from sclip.corpora.rows import Row
from sclip.encoders.audio import read_audio
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Fault, Problems, UserError, counted
from sclip.features.encode import FeatureEncoder
from sclip.features.store import FORMAT, INDEX_FILE
from sclip.fingerprints import data_fingerprint
from sclip.index_file import write_index_file
from sclip.padded import Padded, length_sorted_batches


def online_index(
    features: Mapping[str, Any],
    recordings: Sequence[Recording],
    encoder: AnySpeechEncoder,
    where: str,
    problems: Problems,
) -> dict[str, Any]:
    """Return the content of index.json. Every process decodes each recording once, to check that it can be used.

    `where` says in errors where the recordings are listed.
    """
    lengths: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for batch, counts in prefetch_batches(chunks(recordings, 64), lambda r: _count_frames(r, encoder)):
        for recording, frames in zip(batch, counts, strict=True):
            if isinstance(frames, Fault):
                problems.add(recording.row.name, frames.reason)
                skipped[recording.row.id] = frames.reason
            else:
                lengths[recording.row.id] = frames
    if recordings and not lengths:
        raise problems.nothing_left(f"{where}: none of {counted(len(recordings), 'recordings')} can be used")
    return {
        "format": FORMAT,
        "fingerprint": data_fingerprint(features),
        "features": dict(features),
        "recordings": data_fingerprint([[recording.row.id, recording.hash] for recording in recordings]),
        "utterances": len(lengths),
        "frames": sum(lengths.values()),
        "skipped": skipped,
        "shards": [],
        "lengths": lengths,
    }


def write_online_index(out: Path, index: Mapping[str, Any], rows: str) -> None:
    """Write index.json with the fingerprint of the manifest's rows, and remove the shards of an earlier cache."""
    write_index_file(out / INDEX_FILE, {**index, "rows": rows})
    for path in out.glob("*.safetensors"):
        path.unlink()


def _count_frames(recording: Recording, encoder: AnySpeechEncoder) -> int | Fault:
    waveform = decode(recording, encoder.shortest)
    return waveform if isinstance(waveform, Fault) else int(encoder.frames(torch.tensor(len(waveform))))


class OnlineStore:
    """A store with the interface of FeatureStore that encodes the recordings on every read."""

    def __init__(self, index: Mapping[str, Any], rows: Sequence[Row], encoder: FeatureEncoder):
        self.features = dict(index["features"])
        self.ids: list[str] = list(index["lengths"])
        self.lengths = torch.tensor(list(index["lengths"].values()))
        self.frame_seconds = float(self.features["frame_seconds"])
        self._audio = {row.id: row.audio for row in rows}
        self._encoder = encoder
        encoder.encoder.to(encoder.device)

    def read(self, rows: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1) -> Padded:
        """Encode at most `limit` frames of each row, from `starts` (B,) on: (B, L, T, D).

        T is a multiple of `multiple`.
        """
        starts = torch.zeros_like(rows) if starts is None else starts
        frames = int(self._encoder.config.batch_seconds / self.frame_seconds)  # the same batch size as in extraction
        windows: dict[int, Tensor] = {}
        for group in length_sorted_batches(self.lengths[rows], frames):
            names = [self.ids[int(rows[i])] for i in group]
            states = self._encoder.encode([torch.from_numpy(read_audio(self._audio[name])) for name in names], names)
            for name, i, utterance in zip(names, group.tolist(), states, strict=True):
                if len(utterance) != self.lengths[rows[i]]:
                    raise UserError(
                        f"{name}: {len(utterance)} frames, and {self.lengths[rows[i]]} when the recordings were "
                        "listed: the file has changed; run `sclip extract-features` again"
                    )
                windows[i] = utterance[int(starts[i]) :][:limit].transpose(0, 1)
        batch = Padded.stack([windows[i] for i in range(len(rows))])
        return Padded(F.pad(batch.values, (0, 0, 0, -batch.values.shape[2] % multiple)), batch.lengths)
