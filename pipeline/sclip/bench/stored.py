"""A corpus of random frames in the format of the feature store. The values of the frames do not change the timings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import FRAMES_PER_SECOND, Workload, utterance_seconds
from sclip.corpora.manifest import write_manifest
from sclip.encoders.open import AnySpeechEncoder
from sclip.features.codes import Directions
from sclip.features.dataset import Dataset
from sclip.features.store import (
    CODES,
    DIRECTIONS_FILE,
    frame_shape,
    frame_type,
    write_index,
    write_shard,
)
from sclip.features.vectors import write_vectors
from sclip.files import file_digest
from sclip.tensors import write_tensors

BATCHES = 4
SHARD = 64  # utterances per shard


def write_random_dataset(
    workload: Workload, speech: AnySpeechEncoder, joint: int, folder: Path, coded: bool
) -> Dataset:
    """Write a corpus of a few batches as states or as codes, with image vectors of width `joint`, and open it."""
    lengths = [int(s * FRAMES_PER_SECOND) for s in utterance_seconds(workload, BATCHES * workload.batch)]
    (folder / "features").mkdir(parents=True)
    features: dict[str, Any] = {
        "encoder": "random",
        "revision": None,
        "states": speech.states,
        "width": speech.width,
        "precision": "fp16",
        "frame_seconds": 1 / FRAMES_PER_SECOND,
    }
    if coded:
        path = folder / "features" / DIRECTIONS_FILE
        write_tensors(path, _directions(speech, workload.components).tensors(), {"key": ""})
        features |= {"precision": CODES, "components": workload.components, "normalized": False}
        features |= {"directions": file_digest(path)}
    generator, shards = torch.Generator().manual_seed(0), []
    for start in range(0, len(lengths), SHARD):
        part = {str(start + i): _frames(n, features, generator) for i, n in enumerate(lengths[start : start + SHARD])}
        shards.append(write_shard(folder / f"features/{start}.safetensors", features, part, {}))
    write_index(folder / "features", features, shards)
    names = [str(i) for i in range(len(lengths))]
    _write_manifest_and_vectors(folder, names, joint, generator)
    return Dataset.open(folder / "manifest.jsonl", folder / "features", folder / "vectors", "train")


def _frames(count: int, features: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    numbers = torch.randn(count, *frame_shape(features), generator=generator)
    kind = frame_type(features)
    return (20 * numbers).clamp(-127, 127).to(kind) if kind == torch.int8 else numbers.to(kind)


def _write_manifest_and_vectors(folder: Path, names: list[str], joint: int, generator: torch.Generator) -> None:
    """Write a manifest, and one picture's vector per utterance."""
    (folder / "file").touch()
    files = {"split": "train", "audio": "file", "image": "file", "text": None}
    write_manifest(folder / "manifest.jsonl", [{"id": name, "image_id": name, **files} for name in names])
    vectors = F.normalize(torch.randn(len(names), joint, generator=generator), dim=-1)
    (folder / "vectors").mkdir()
    index = {"clip": {"name": "random", "revision": None}, "fingerprint": "", "skipped": {}, "notes": {}}
    write_vectors(folder / "vectors", index, (names, vectors), ([], vectors[:0]))


def _directions(speech: AnySpeechEncoder, components: int) -> Directions:
    numbers = torch.randn(speech.states * speech.width, components, generator=torch.Generator().manual_seed(0))
    unit, ones = torch.linalg.qr(numbers).Q.T.contiguous(), torch.ones(speech.states)
    return Directions(unit, torch.full((components,), 0.1), ones, torch.zeros(speech.states, speech.width), False)
