"""Hidden states of a corpus into a feature store.

Recordings are read and looked over first, which cuts the corpus into shards and gives each its key. A shard whose
file is there is taken as it is; the others are computed, recordings being decoded in threads ahead of the encoder
and a finished shard written in another, so that neither keeps the encoder waiting. Inside a shard utterances of like
length go through the encoder together and are stored in the manifest's order.
"""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip.code import code_fingerprint
from sclip.config import FeaturesConfig
from sclip.corpora.manifest import Row, read_manifest
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.compute import chunks, precision, read_ahead
from sclip.features.recordings import Recording, hear, look
from sclip.features.store import (
    FORMAT,
    PRECISIONS,
    UNFINISHED,
    Shard,
    fingerprint_of,
    write_index,
    write_shard,
)

CODE = (
    "encoders/audio.py",
    "encoders/speech.py",
    "encoders/mfcc.py",
    "features/compute.py",
    "features/extract.py",
    "features/recordings.py",
    "padded.py",
)
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Summary:
    utterances: int
    hours: float
    frames: int
    gigabytes: float
    shards_reused: int
    shards_computed: int
    seconds: float


@dataclass(frozen=True)
class Part:
    """The recordings of one shard."""

    recordings: list[Recording]
    path: Path

    def is_whole(self) -> bool:
        try:
            Shard.open(self.path)
        except UserError:
            return False
        return True


def extract_features(
    manifest: Path,
    out: Path,
    encoder: AnySpeechEncoder,
    config: FeaturesConfig,
    device: str | torch.device,
    problems: Problems,
) -> Summary:
    """Problems of earlier runs that a shard remembers are told again."""
    began = time.monotonic()
    rows = read_manifest(manifest, problems)
    encoder = encoder.to(device)
    features = describe(encoder, config)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"*{UNFINISHED}"):
        leftover.unlink()
    recordings = list(_look_over(rows, problems))
    parts = list(_cut(recordings, out, encoder, features, config.shard_megabytes))
    missing = [part for part in parts if not part.is_whole()]
    computed = {part.path for part in missing}
    names = {row.id: row.name for row in rows}
    for part in parts:
        if part.path not in computed:
            for name, reason in Shard.open(part.path).skipped.items():
                problems.add(names[name], reason)
    _compute(missing, encoder, features, config, device, problems)
    shards = [Shard.open(part.path) for part in parts]
    if not any(len(shard.lengths) for shard in shards):
        raise UserError(f"{manifest}: none of its {len(rows)} recordings can be used")
    write_index(out, features, shards)
    for path in set(out.glob("*.safetensors")).difference(part.path for part in parts):
        path.unlink()
    frames = sum(len(shard.states) for shard in shards)
    return Summary(
        utterances=sum(len(shard.lengths) for shard in shards),
        hours=frames * encoder.frame_seconds / 3600,
        frames=frames,
        gigabytes=sum(shard.size for shard in shards) / 1e9,
        shards_reused=len(parts) - len(missing),
        shards_computed=len(missing),
        seconds=time.monotonic() - began,
    )


def describe(encoder: AnySpeechEncoder, config: FeaturesConfig) -> dict[str, Any]:
    """All that hidden states depend on besides the recording, in clear: what the fingerprint is of."""
    return {
        "format": FORMAT,
        "encoder": encoder.source.name,
        "revision": encoder.source.revision,
        "hash": encoder.fingerprint(),
        "normalize_waveform": encoder.normalize_waveform,
        "code": code_fingerprint(*CODE),
        "compute": config.compute,
        "precision": config.precision,
        "states": encoder.states,
        "width": encoder.width,
        "frame_seconds": encoder.frame_seconds,
    }


def _look_over(rows: Sequence[Row], problems: Problems) -> Iterator[Recording]:
    bar = tqdm(None, "recordings", len(rows), unit="", disable=None)
    with bar:
        for batch, recordings in read_ahead(chunks(rows, 64), look):
            for row, recording in zip(batch, recordings, strict=True):
                if recording.note is not None:
                    problems.note(row.name, recording.note)
                if recording.fault is not None and not problems.skip:  # skipping, its shard tells of it
                    problems.add(row.name, recording.fault)
            yield from recordings
            bar.update(len(batch))


def _cut(
    recordings: Sequence[Recording], out: Path, encoder: AnySpeechEncoder, features: dict[str, Any], megabytes: int
) -> Iterator[Part]:
    """In the manifest's order, each up to a size."""
    samples = torch.tensor([recording.samples for recording in recordings])
    frame_bytes = encoder.states * encoder.width * PRECISIONS[features["precision"]].itemsize
    sizes = (encoder.frames(samples).clamp(min=0) * frame_bytes).tolist()
    fingerprint = fingerprint_of(features)
    start, room = 0, megabytes * MEGABYTE
    for i, size in enumerate(sizes):
        if size > room and i > start:
            yield _part(recordings[start:i], out, fingerprint)
            start, room = i, megabytes * MEGABYTE
        room -= size
    yield _part(recordings[start:], out, fingerprint)


def _part(recordings: Sequence[Recording], out: Path, fingerprint: str) -> Part:
    key = fingerprint_of([fingerprint, [[recording.row.id, recording.hash] for recording in recordings]])
    return Part(list(recordings), out / f"{key[:16]}.safetensors")


def _compute(
    parts: Sequence[Part],
    encoder: AnySpeechEncoder,
    features: dict[str, Any],
    config: FeaturesConfig,
    device: str | torch.device,
    problems: Problems,
) -> None:
    """All shards' batches are one stream, so that reading ahead does not stop at a shard's end."""
    plan = [(part, list(_batches(part.recordings, config.batch_seconds))) for part in parts]
    stream = read_ahead((batch for _, batches in plan for batch in batches), partial(hear, shortest=encoder.shortest))
    bar = tqdm(None, "hidden states", sum(len(part.recordings) for part in parts), unit="", disable=None)
    writing: Future[Shard] | None = None
    with bar, ThreadPoolExecutor(1) as writer:
        for part, batches in plan:
            states: dict[str, Tensor] = {}
            faults: dict[str, str] = {}
            for batch, audio in islice(stream, len(batches)):
                heard = {r.row: x for r, x in zip(batch, audio, strict=True) if isinstance(x, Tensor)}
                for recording, fault in zip(batch, audio, strict=True):
                    if isinstance(fault, str):
                        problems.add(recording.row.name, fault)
                        faults[recording.row.id] = fault
                states |= _encode(heard, encoder, config, device)
                bar.update(len(batch))
            if writing is not None:
                writing.result()
            order = [recording.row.id for recording in part.recordings]
            kept = {name: states[name] for name in order if name in states}
            skipped = {name: faults[name] for name in order if name in faults}
            writing = writer.submit(write_shard, part.path, features, kept, skipped)
        if writing is not None:
            writing.result()


def _batches(recordings: Sequence[Recording], seconds: float) -> Iterator[list[Recording]]:
    """Longest first; the first one's length times their number stays within `seconds`."""
    batch: list[Recording] = []
    for recording in sorted(recordings, key=lambda recording: -recording.samples):
        if batch and batch[0].samples * (len(batch) + 1) > seconds * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(recording)
    yield batch


@torch.inference_mode()
def _encode(
    heard: dict[Row, Tensor], encoder: AnySpeechEncoder, config: FeaturesConfig, device: str | torch.device
) -> dict[str, Tensor]:
    """Utterance ids: (T, L, D), as they are kept."""
    if not heard:
        return {}
    with precision(device, config.compute):
        output = encoder(list(heard.values()))
    values = output.values.transpose(1, 2)[output.valid]  # (all frames, L, D)
    kept = values.to(PRECISIONS[config.precision])
    finite = kept.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        frame = int((~finite).int().argmax())
        row = list(heard)[int((output.lengths.cumsum(0) <= frame).sum())]
        raise UserError(f"{row.name}: {_overflow(values[frame], config)}")
    utterances = torch.split(kept.cpu(), output.lengths.tolist())
    return {row.id: states for row, states in zip(heard, utterances, strict=True)}


def _overflow(values: Tensor, config: FeaturesConfig) -> str:
    largest = float(values.abs().max())
    if math.isfinite(largest):
        return f"a hidden state of {largest:g} does not fit {config.precision}; set features.precision to bf16 or fp32"
    return f"hidden states computed in {config.compute} are not finite; set features.compute to bf16 or fp32"
