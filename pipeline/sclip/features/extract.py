"""Hidden states of a corpus into a feature store.

Recordings are read and looked over first, which cuts the corpus into shards and gives each its key. A shard whose
file is there is taken as it is. The others are divided among the processes and computed, all their batches as one
stream, which no shard's end interrupts: a finished one is written in a thread of its own. Inside a shard utterances of
like length go through the encoder together and are stored in the manifest's order.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip import processes
from sclip.ahead import in_order, read_ahead
from sclip.code import code_fingerprint
from sclip.coded import Directions
from sclip.config import FeaturesConfig
from sclip.corpora.manifest import Row, read_manifest
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.compute import chunks
from sclip.features.directions import find_directions
from sclip.features.listen import Listener, batches_of
from sclip.features.online import online_index
from sclip.features.recordings import CONVERTED, Recording, look
from sclip.features.store import (
    CODES,
    DIRECTIONS_FILE,
    FORMAT,
    INDEX_FILE,
    Shard,
    fingerprint_of,
    frame_shape,
    frame_type,
    read_index,
    remove_unfinished,
    save_index,
    write_index,
    write_shard,
)
from sclip.whole import digest_of

CODE = (
    "encoders/audio.py",
    "encoders/speech.py",
    "encoders/mfcc.py",
    "features/compute.py",
    "features/directions.py",
    "features/extract.py",
    "features/listen.py",
    "features/recordings.py",
    "coded.py",
    "padded.py",
)
MEGABYTE = 1_000_000
Heard = tuple[dict[str, Tensor], dict[str, str]]  # by rows' names: hidden states, and what is wrong with the others


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

    def is_there(self, told: Mapping[str, dict[str, Any]]) -> bool:
        """Return whether the shard is there and of these recordings, and the one that an index, if any, tells of."""
        try:
            shard = Shard.open(self.path)
        except UserError:
            return False
        rows = sorted(recording.row.id for recording in self.recordings)
        entry = shard.entry()
        return sorted([*shard.ids, *shard.skipped]) == rows and told.get(self.path.name, entry) == entry


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
    out.mkdir(parents=True, exist_ok=True)
    if processes.is_first():
        remove_unfinished(out)
    recordings = _look_over(rows, problems)
    features = describe(encoder, config)
    if config.online:
        return _online(out, features, recordings, encoder, problems, began)
    directions: Directions | None = None
    if config.components is not None:
        directions = find_directions(recordings, out / DIRECTIONS_FILE, encoder, features, config, device)
        features |= {"directions": digest_of(out / DIRECTIONS_FILE)}
    parts = list(_cut(recordings, out, encoder, features, config.shard_megabytes))
    computed = _compute_missing(parts, out, Listener(encoder, directions, config, device), features, problems)
    shards = [Shard.open(part.path) for part in parts]
    if not any(len(shard.lengths) for shard in shards):
        raise problems.nothing_left(f"{manifest}: none of its {len(rows)} recordings can be used")
    _publish(out, features, shards)
    frames = sum(len(shard.states) for shard in shards)
    return Summary(
        utterances=sum(len(shard.lengths) for shard in shards),
        hours=frames * encoder.frame_seconds / 3600,
        frames=frames,
        gigabytes=sum(shard.size for shard in shards) / 1e9,
        shards_reused=len(parts) - computed,
        shards_computed=computed,
        seconds=time.monotonic() - began,
    )


def _compute_missing(
    parts: Sequence[Part], out: Path, listener: Listener, features: dict[str, Any], problems: Problems
) -> int:
    """How many. Each process at its share."""
    told = _told(out, features)
    missing = [part for part in parts if not part.is_there(told)]
    processes.wait()  # until all have seen which
    own = processes.share(missing)
    _tell_again((part for part in parts if part not in missing), problems)
    _compute(own, listener, features, problems)
    processes.wait()
    _tell_again((part for part in missing if part not in own), problems)
    return len(missing)


def _told(out: Path, features: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an index that was written of the same features says of each shard's file."""
    try:
        index = read_index(out)
    except UserError:
        return {}
    return {entry["file"]: entry for entry in index["shards"] if index["fingerprint"] == fingerprint_of(features)}


def _publish(out: Path, features: dict[str, Any], shards: Sequence[Shard]) -> None:
    """The index, and then nothing beside what it tells of."""
    if processes.is_first():
        write_index(out, features, shards)
        wanted = {shard.path for shard in shards} | ({out / DIRECTIONS_FILE} if "directions" in features else set())
        for path in set(out.glob("*.safetensors")) - wanted:
            path.unlink()
    processes.wait()


def _online(
    out: Path,
    features: dict[str, Any],
    recordings: Sequence[Recording],
    encoder: AnySpeechEncoder,
    problems: Problems,
    began: float,
) -> Summary:
    index = online_index(features, recordings, encoder, problems)
    if processes.is_first():
        save_index(out / INDEX_FILE, index)
        for path in out.glob("*.safetensors"):
            path.unlink()
    processes.wait()
    hours = index["frames"] * encoder.frame_seconds / 3600
    return Summary(index["utterances"], hours, index["frames"], 0.0, 0, 0, time.monotonic() - began)


def describe(encoder: AnySpeechEncoder, config: FeaturesConfig) -> dict[str, Any]:
    """All that hidden states depend on besides the recording, in clear: what the fingerprint is of."""
    special: dict[str, Any] = {"online": True} if config.online else {}
    if config.components is not None:
        if config.components > encoder.states * encoder.width:
            raise UserError(
                f"features.components: {config.components}, and a frame has {encoder.states * encoder.width} numbers"
            )
        special = {"precision": CODES, "components": config.components, "normalized": config.normalize_states}
    if config.compile:
        special |= {"compile": True}
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
        **special,
    }


def _look_over(rows: Sequence[Row], problems: Problems) -> list[Recording]:
    """Each process at its share."""
    own: list[Recording] = []
    mine = processes.share(rows)
    with tqdm(None, "recordings", len(mine), unit="", disable=processes.quiet()) as bar:
        for batch, recordings in read_ahead(chunks(mine, 64), look):
            own += recordings
            bar.update(len(batch))
    found = {recording.row.id: recording for share in processes.everyones(own) for recording in share}
    for row in rows:
        recording = found[row.id]
        if recording.note is not None:
            problems.note(CONVERTED, f"{row.name}: {recording.note}")
        if recording.fault is not None and not problems.skip:  # skipping, its shard tells of it
            problems.add(row.name, recording.fault)
    return [found[row.id] for row in rows]


def _tell_again(parts: Iterable[Part], problems: Problems) -> None:
    """What is wrong with recordings, by shards that others wrote."""
    for part in parts:
        names = {recording.row.id: recording.row.name for recording in part.recordings}
        for name, reason in Shard.open(part.path).skipped.items():
            problems.add(names[name], reason)


def _cut(
    recordings: Sequence[Recording], out: Path, encoder: AnySpeechEncoder, features: dict[str, Any], megabytes: int
) -> Iterator[Part]:
    """In the manifest's order, each up to a size."""
    samples = torch.tensor([recording.samples for recording in recordings])
    frame_bytes = math.prod(frame_shape(features)) * frame_type(features).itemsize
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


def _hear(listener: Listener, batch: Sequence[Recording], audio: Sequence[Tensor | str]) -> Heard:
    found = {recording.row.name: heard for recording, heard in zip(batch, audio, strict=True)}
    waveforms = {name: heard for name, heard in found.items() if isinstance(heard, Tensor)}
    faults = {name: heard for name, heard in found.items() if isinstance(heard, str)}
    return listener.each(waveforms, to="cpu"), faults


def _compute(parts: Sequence[Part], listener: Listener, features: dict[str, Any], problems: Problems) -> None:
    plan = [(part, list(batches_of(part.recordings, listener.config.batch_seconds))) for part in parts]
    batches = (batch for _, batches in plan for batch in batches)
    stream = listener.computed(batches, partial(_hear, listener))
    bar = tqdm(None, "hidden states", sum(len(part.recordings) for part in parts), unit="", disable=processes.quiet())

    def heard() -> Iterator[tuple[Part, Heard]]:
        for part, batches in plan:
            states: dict[str, Tensor] = {}
            faults: dict[str, str] = {}
            for kept, wrong in islice(stream, len(batches)):
                for name, fault in wrong.items():
                    problems.add(name, fault)
                states |= kept
                faults |= wrong
                bar.update(len(kept) + len(wrong))
            yield part, (states, faults)

    def write(finished: tuple[Part, Heard]) -> None:
        part, (states, faults) = finished
        rows = [recording.row for recording in part.recordings]
        kept = {row.id: states[row.name] for row in rows if row.name in states}
        write_shard(part.path, features, kept, {row.id: faults[row.name] for row in rows if row.name in faults})

    with bar, closing(stream):
        for _ in in_order(write, heard(), threads=1, ahead=1):
            pass
