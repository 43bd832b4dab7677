"""Extraction beside the bare encoder, and beside a loop of one recording at a time."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from sclip.bench.cases import Case, Row, Sizes, utterance_seconds
from sclip.bench.timing import compare
from sclip.concurrency import map_on_cores
from sclip.config import FeaturesConfig
from sclip.corpora.manifest import write_manifest
from sclip.device import autocast
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems
from sclip.features.extract import extract_features
from sclip.padded import even_batches

ALONE = 16  # recordings that the loop is timed on


def extraction_case(sizes: Sizes, encoder: AnySpeechEncoder, folder: Path, device: torch.device) -> Case:
    encoder = encoder.to(device)
    seconds = utterance_seconds(sizes, sizes.recordings)
    waveforms = _record(folder, seconds)
    states = FeaturesConfig(compute=sizes.precision, batch_seconds=120, shard_megabytes=sizes.shard_megabytes)
    coded = replace(states, components=sizes.components)
    batches = _batches(waveforms, states.batch_seconds)

    def encode(batch: Sequence[Tensor]) -> None:
        """What comes out stays where it is."""
        with torch.inference_mode(), autocast(device, states.compute):
            encoder(batch)

    def bare() -> None:
        """Full batches, ready made."""
        for batch in batches:
            encode(batch)

    def bare_abreast() -> None:
        for _ in map_on_cores(encode, batches):
            pass

    def alone() -> None:
        for waveform in waveforms[:ALONE]:
            encode([waveform])

    def extracted(config: FeaturesConfig, name: str) -> Callable[[], object]:
        out = folder / name

        def run() -> None:
            for shard in out.glob("*.safetensors"):  # the directions stay: they are found once a corpus
                if shard.name != "directions.safetensors":
                    shard.unlink()
            extract_features(folder / "manifest.jsonl", out, encoder, config, device, Problems())

        return run

    alternatives = {
        "the bare encoder": bare,
        **({"the bare encoder, a batch a core": bare_abreast} if device.type == "cpu" else {}),
        "extract-features, states": extracted(states, "states"),
        "extract-features, codes": extracted(coded, "codes"),
        "the bare encoder, one at a time": alone,
    }
    found = compare(
        alternatives, device, parts={"the bare encoder, one at a time": sum(seconds[:ALONE]) / sum(seconds)}
    )
    for name in ("states", "codes"):
        shutil.rmtree(folder / name)
    question = f"Hidden states of {len(seconds)} recordings, {sum(seconds):.0f} s, in {states.compute}"
    rows = [Row(timed, f"{sum(seconds) / timed.seconds:,.0f} times real time") for timed in found]
    return Case("extraction", question, rows)


def _record(folder: Path, seconds: Sequence[float]) -> list[Tensor]:
    """Noise, as a corpus on the disk and as waveforms."""
    (folder / "wavs").mkdir(parents=True)
    (folder / "image.png").touch()
    generator = torch.Generator().manual_seed(0)
    waveforms, rows = [], []
    for i, length in enumerate(seconds):
        waveforms.append(torch.randn(int(length * SAMPLE_RATE), generator=generator) / 10)
        soundfile.write(folder / f"wavs/{i}.wav", waveforms[-1].numpy(), SAMPLE_RATE)
        files = {"audio": f"wavs/{i}.wav", "image": "image.png"}
        rows.append({"id": str(i), "split": "train", "image_id": "0", "text": None, **files})
    write_manifest(folder / "manifest.jsonl", rows)
    return waveforms


def _batches(waveforms: Sequence[Tensor], seconds: float) -> list[list[Tensor]]:
    """Extraction's: of like length, full."""
    samples = torch.tensor([len(waveform) for waveform in waveforms])
    return [[waveforms[i] for i in batch.tolist()] for batch in even_batches(samples, int(seconds * SAMPLE_RATE))]
