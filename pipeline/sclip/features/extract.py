"""Extraction: compute the hidden states of a corpus, and write them to a feature store.

1. Inspect every recording. Divide the corpus into shards, in the manifest's order. A shard's file is named by a hash of
   everything that its content depends on.
2. Reuse the shards that exist. Divide the missing ones among the processes.
3. Encode the batches of all missing shards as one stream, without a pause between shards. Threads write the complete
   shards. Recordings of similar length share a batch; the shard stores them in the manifest's order.
4. Write the index, and remove the shards that it does not list.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip import distributed
from sclip.concurrency import map_in_threads, prefetch_count
from sclip.config import FeaturesConfig
from sclip.corpora.manifest import read_manifest
from sclip.corpora.recordings import Recording, Recordings
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Fault, Problems, UserError, counted
from sclip.features.directions import find_directions
from sclip.features.encode import FeatureEncoder, batches_by_length
from sclip.features.inspection import inspect_corpus
from sclip.features.online import online_index, write_online_index
from sclip.features.settings import describe
from sclip.features.store import (
    DIRECTIONS_FILE,
    Shard,
    frame_bytes,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from sclip.files import file_digest, remove_unfinished
from sclip.fingerprints import data_fingerprint, differing_keys

log = logging.getLogger(__name__)

MEGABYTE = 1_000_000
WRITERS = 2  # threads that write shards while a GPU encodes the next one; up to five are in memory, with their copies


@dataclass(frozen=True)
class ExtractionResult:
    utterances: int
    hours: float
    frames: int
    gigabytes: float
    shards_reused: int
    shards_computed: int
    seconds: float


@dataclass(frozen=True)
class Part:
    """The recordings of one shard, and its file."""

    recordings: Sequence[Recording]
    path: Path

    def is_written(self, listed: Mapping[str, dict[str, Any]]) -> bool:
        """Return whether the shard exists, has these recordings, and matches its entry if the index lists it."""
        try:
            shard = Shard.open(self.path)
        except UserError:
            return False
        rows = sorted(recording.row.id for recording in self.recordings)
        entry = shard.entry()
        return sorted([*shard.ids, *shard.skipped]) == rows and listed.get(self.path.name, entry) == entry


def extract_features(
    encoder: AnySpeechEncoder,
    config: FeaturesConfig,
    manifest: Path,
    out: Path,
    device: str | torch.device,
    problems: Problems,
) -> ExtractionResult:
    """Write the feature store of a manifest to `out`. Faults recorded in reused shards are reported again."""
    began = time.monotonic()
    rows = read_manifest(manifest, problems)
    encoder = encoder.to(device)
    out.mkdir(parents=True, exist_ok=True)
    if distributed.is_main():
        remove_unfinished(out)
    with ThreadPoolExecutor(1) as pool:  # hashes the encoder's weights while the recordings are read
        described = pool.submit(describe, encoder, config)
        recordings = inspect_corpus(rows, device, problems)
    features, own_rows = described.result(), rows.fingerprint("id", "audio")
    state_encoder = FeatureEncoder(encoder, None, config, device)
    state_encoder.check_precision(recordings)
    if config.online:
        index = online_index(features, recordings, encoder, str(manifest), problems)
        return _write_online(out, index, own_rows, encoder, began)
    with state_encoder.weights_cast_once():
        directions = None
        if config.components is not None:
            directions = find_directions(recordings, out / DIRECTIONS_FILE, encoder, features, config, device, problems)
            features |= {"directions": file_digest(out / DIRECTIONS_FILE)}
        parts = list(_divide_into_parts(recordings, out, encoder, features, config.shard_megabytes))
        computed = _compute_missing(parts, out, FeatureEncoder(encoder, directions, config, device), features, problems)
    shards = [Shard.open(part.path) for part in parts]
    if not any(len(shard.lengths) for shard in shards):
        raise problems.nothing_left(f"{manifest}: none of {counted(len(rows), 'recordings')} can be used")
    _publish(out, features, shards, own_rows)
    frames = sum(len(shard.states) for shard in shards)
    return ExtractionResult(
        utterances=sum(len(shard.lengths) for shard in shards),
        hours=frames * encoder.frame_seconds / 3600,
        frames=frames,
        gigabytes=sum(shard.size for shard in shards) / 1e9,
        shards_reused=len(parts) - computed,
        shards_computed=computed,
        seconds=time.monotonic() - began,
    )


def _compute_missing(
    parts: Sequence[Part], out: Path, encoder: FeatureEncoder, features: dict[str, Any], problems: Problems
) -> int:
    """Compute this process's share of the missing shards, and return how many shards all processes computed."""
    listed = _listed_shards(out, features)
    missing = [part for part in parts if not part.is_written(listed)]
    distributed.barrier()  # no process writes before all have checked which shards exist
    own = distributed.rank_share(missing)
    _report_faults((part for part in parts if part not in missing), problems)
    _compute(own, encoder, features, problems)
    distributed.barrier()
    _report_faults((part for part in missing if part not in own), problems)
    return len(missing)


def _listed_shards(out: Path, features: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the index's entries by file name, if the index is of the same features. If not, log the difference."""
    try:
        index = read_index(out)
    except UserError:
        return {}
    if different := [key for key, *_ in differing_keys(index["features"], features)]:
        if distributed.is_main():
            log.info(f"{out}: all hidden states are computed again, because these differ: {', '.join(different)}")
        return {}
    return {entry["file"]: entry for entry in index["shards"]}


def _publish(out: Path, features: dict[str, Any], shards: Sequence[Shard], rows: str) -> None:
    """Write the index, and remove the files that it does not list."""
    if distributed.is_main():
        write_index(out, features, shards, rows)
        listed = {shard.path for shard in shards} | ({out / DIRECTIONS_FILE} if "directions" in features else set())
        for path in set(out.glob("*.safetensors")) - listed:
            path.unlink()
    distributed.barrier()


def _write_online(
    out: Path, index: Mapping[str, Any], rows: str, encoder: AnySpeechEncoder, began: float
) -> ExtractionResult:
    if distributed.is_main():
        write_online_index(out, index, rows)
    distributed.barrier()
    hours = index["frames"] * encoder.frame_seconds / 3600
    return ExtractionResult(index["utterances"], hours, index["frames"], 0.0, 0, 0, time.monotonic() - began)


def _report_faults(parts: Iterable[Part], problems: Problems) -> None:
    """Report the faults that are recorded in written shards."""
    for part in parts:
        names = {recording.row.id: recording.row.name for recording in part.recordings}
        for name, reason in Shard.open(part.path).skipped.items():
            problems.add(names[name], reason)


def _divide_into_parts(
    recordings: Recordings, out: Path, encoder: AnySpeechEncoder, features: dict[str, Any], megabytes: int
) -> Iterator[Part]:
    """Yield the parts in the manifest's order, each up to the size of a shard."""
    sizes = encoder.frames(torch.from_numpy(recordings.samples())).clamp(min=0).numpy() * frame_bytes(features)
    fingerprint = data_fingerprint(features)
    start, room = 0, megabytes * MEGABYTE
    for i, size in enumerate(sizes):
        if size > room and i > start:
            yield _part(recordings[start:i], out, fingerprint)
            start, room = i, megabytes * MEGABYTE
        room -= size
    yield _part(recordings[start:], out, fingerprint)


def _part(recordings: Sequence[Recording], out: Path, fingerprint: str) -> Part:
    name = shard_name(fingerprint, [(recording.row.id, recording.hash) for recording in recordings])
    return Part(recordings, out / name)


def _compute(parts: Sequence[Part], encoder: FeatureEncoder, features: dict[str, Any], problems: Problems) -> None:
    """Encode the recordings of the parts, and write each part's shard as soon as it is complete."""
    divided = ((part, list(batches_by_length(part.recordings, encoder.config.batch_seconds))) for part in parts)
    # The encoder reads the batches a little earlier than `complete_parts`. Memory holds only the parts between the two.
    plan, encoder_plan = tee(divided)
    stream = encoder.encode_recordings(batch for _, batches in encoder_plan for batch in batches)
    total = sum(len(part.recordings) for part in parts)

    def complete_parts() -> Iterator[tuple[Part, dict[str, Tensor | Fault]]]:
        for part, batches in plan:
            encoded: dict[str, Tensor | Fault] = {}
            for batch, results in zip(batches, stream, strict=False):  # the stream goes on with the next part
                for recording, result in zip(batch, results, strict=True):
                    if isinstance(result, Fault):
                        problems.add(recording.row.name, result.reason)
                    encoded[recording.row.id] = result
                bar.update(len(batch))
            yield part, encoded

    def write(complete: tuple[Part, dict[str, Tensor | Fault]]) -> None:
        part, encoded = complete
        results = {recording.row.id: encoded[recording.row.id] for recording in part.recordings}
        states = {name: result for name, result in results.items() if isinstance(result, Tensor)}
        faults = {name: result.reason for name, result in results.items() if isinstance(result, Fault)}
        write_shard(part.path, features, states, faults)

    with tqdm(None, "hidden states", total, unit="", disable=distributed.bar_disabled()) as bar, closing(stream):
        writers = prefetch_count(encoder.device, WRITERS) or 1
        for _ in map_in_threads(write, complete_parts(), threads=writers, count=writers):
            pass
