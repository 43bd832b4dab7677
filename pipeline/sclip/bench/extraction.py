"""Time feature extraction against the encoder without input and output, and against one recording at a time."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from sclip.bench.cases import Case, Measurement, Workload, utterance_seconds
from sclip.bench.timing import compare
from sclip.concurrency import map_on_cores
from sclip.config import FeaturesConfig
from sclip.corpora.manifest import write_manifest
from sclip.device import autocast, weights_cast_once
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems
from sclip.features.extract import MEGABYTE, WRITERS, extract_features
from sclip.features.store import DIRECTIONS_FILE
from sclip.padded import length_sorted_batches

LOOP_RECORDINGS = 16  # recordings that the loop is timed on
LOOP = "the encoder alone, one recording at a time"
STATES, CODES = "extract-features, states", "extract-features, codes"
WRITTEN_SHARDS = 4  # files that the disk is timed on


def extraction_case(workload: Workload, encoder: AnySpeechEncoder, folder: Path, device: torch.device) -> Case:
    """Time the extraction of hidden states and of codes from a corpus of noise."""
    encoder = encoder.to(device)
    seconds = utterance_seconds(workload, workload.recordings)
    waveforms = _write_corpus(folder, seconds, workload.state_recordings)
    states = FeaturesConfig(compute=workload.precision, batch_seconds=120, shard_megabytes=workload.shard_megabytes)
    coded = replace(states, components=workload.components)
    in_batches, on_cores, one_at_a_time = _encoder_runs(encoder, waveforms, states, device)
    alternatives = {
        "the encoder alone": in_batches,
        **({"the encoder alone, one batch on each core": on_cores} if device.type == "cpu" else {}),
        STATES: _extraction(encoder, folder, "states", states, device),
        CODES: _extraction(encoder, folder, "codes", coded, device),
        LOOP: one_at_a_time,
    }
    parts = {
        LOOP: sum(seconds[:LOOP_RECORDINGS]) / sum(seconds),
        STATES: sum(seconds[: workload.state_recordings]) / sum(seconds),
    }
    outputs = {STATES: folder / "states", CODES: folder / "codes"}
    times = compare(
        alternatives, device, parts=parts, prepare={name: partial(_remove_shards, out) for name, out in outputs.items()}
    )
    floors = {name: _seconds_to_write(out, workload) / parts.get(name, 1.0) for name, out in outputs.items()}
    for out in outputs.values():
        shutil.rmtree(out)
    question = f"Hidden states of {len(seconds)} recordings, {sum(seconds):.0f} s, in {states.compute}"
    rows = [
        Measurement(timed, f"{sum(seconds) / timed.seconds:,.0f} times real time", floors.get(timed.name))
        for timed in times
    ]
    return Case("extraction", question, rows)


def _encoder_runs(
    encoder: AnySpeechEncoder, waveforms: Sequence[Tensor], config: FeaturesConfig, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
    """Return runs of the encoder that discard its output: in batches, in batches with one per core, one at a time.

    The waveforms are on the device.
    """
    waveforms = [waveform.to(device) for waveform in waveforms]
    batches = _batches(waveforms, config.batch_seconds)

    def encode(batch: Sequence[Tensor]) -> None:
        with torch.inference_mode(), autocast(device, config.compute):
            encoder(batch)

    def in_batches() -> None:
        with weights_cast_once(encoder, device, config.compute):
            for batch in batches:
                encode(batch)

    def on_cores() -> None:
        with weights_cast_once(encoder, device, config.compute):
            for _ in map_on_cores(encode, batches):
                pass

    def one_at_a_time() -> None:
        with weights_cast_once(encoder, device, config.compute):
            for waveform in waveforms[:LOOP_RECORDINGS]:
                encode([waveform])

    return in_batches, on_cores, one_at_a_time


def _extraction(
    encoder: AnySpeechEncoder, folder: Path, name: str, config: FeaturesConfig, device: torch.device
) -> Callable[[], object]:
    """Return a run of `sclip extract-features`. `name` is that of its manifest and of its output."""
    out = folder / name

    def run() -> None:
        extract_features(encoder, config, folder / f"{name}.jsonl", out, device, Problems())

    return run


def _remove_shards(out: Path) -> None:
    """Remove the shards of the last run. Directions stay: they are computed once per corpus, so they are not timed."""
    for path in out.glob("*.safetensors"):
        if path.name != DIRECTIONS_FILE:
            path.unlink()


def _seconds_to_write(out: Path, workload: Workload) -> float:
    """Return how long the disk takes to write as many bytes as an output has.

    It is measured with files of random bytes, which as many threads write as in an extraction.
    """
    data = os.urandom(workload.shard_megabytes * MEGABYTE)
    paths = [out / f"{i}.bin" for i in range(WRITTEN_SHARDS)]

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(data)
            os.fsync(file)

    start = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, paths))
    seconds = time.perf_counter() - start
    for path in paths:
        path.unlink()
    return seconds * sum(path.stat().st_size for path in out.glob("*.safetensors")) / (WRITTEN_SHARDS * len(data))


def _write_corpus(folder: Path, seconds: Sequence[float], states: int) -> list[Tensor]:
    """Write a corpus of noise, with one manifest for codes and one for states, and return its waveforms."""
    (folder / "wavs").mkdir(parents=True)
    (folder / "image.png").touch()
    generator = torch.Generator().manual_seed(0)
    waveforms, rows = [], []
    for i, length in enumerate(seconds):
        waveforms.append(torch.randn(int(length * SAMPLE_RATE), generator=generator) / 10)
        soundfile.write(folder / f"wavs/{i}.wav", waveforms[-1].numpy(), SAMPLE_RATE)
        files = {"audio": f"wavs/{i}.wav", "image": "image.png"}
        rows.append({"id": str(i), "split": "train", "image_id": "0", "text": None, **files})
    write_manifest(folder / "codes.jsonl", rows)
    write_manifest(folder / "states.jsonl", rows[:states])
    return waveforms


def _batches(waveforms: Sequence[Tensor], seconds: float) -> list[list[Tensor]]:
    """Group waveforms of similar length into full batches, as extraction does."""
    samples = torch.tensor([len(waveform) for waveform in waveforms])
    return [
        [waveforms[i] for i in batch.tolist()] for batch in length_sorted_batches(samples, int(seconds * SAMPLE_RATE))
    ]
