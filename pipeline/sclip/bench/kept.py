"""A corpus of random frames in the store's own files: what is in them does not matter to a clock."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import FRAMES_A_SECOND, Sizes, utterance_seconds
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

BATCHES = 4  # worth of utterances
SHARD = 64  # utterances


def keep(sizes: Sizes, speech: AnySpeechEncoder, joint: int, folder: Path, coded: bool) -> Dataset:
    lengths = [int(s * FRAMES_A_SECOND) for s in utterance_seconds(sizes, BATCHES * sizes.batch)]
    (folder / "features").mkdir(parents=True)
    features: dict[str, Any] = {
        "encoder": "random",
        "revision": None,
        "states": speech.states,
        "width": speech.width,
        "precision": "fp16",
        "frame_seconds": 1 / FRAMES_A_SECOND,
    }
    if coded:
        path = folder / "features" / DIRECTIONS_FILE
        write_tensors(path, _directions(speech, sizes.components).tensors(), {"key": ""})
        features |= {"precision": CODES, "components": sizes.components, "normalized": False}
        features |= {"directions": file_digest(path)}
    generator, shards = torch.Generator().manual_seed(0), []
    for start in range(0, len(lengths), SHARD):
        part = {str(start + i): _frames(n, features, generator) for i, n in enumerate(lengths[start : start + SHARD])}
        shards.append(write_shard(folder / f"features/{start}.safetensors", features, part, {}))
    write_index(folder / "features", features, shards)
    names = [str(i) for i in range(len(lengths))]
    _write_the_rest(folder, names, joint, generator)
    return Dataset.open(folder / "manifest.jsonl", folder / "features", folder / "vectors", "train")


def _frames(count: int, features: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    numbers = torch.randn(count, *frame_shape(features), generator=generator)
    kind = frame_type(features)
    return (20 * numbers).clamp(-127, 127).to(kind) if kind == torch.int8 else numbers.to(kind)


def _write_the_rest(folder: Path, names: list[str], joint: int, generator: torch.Generator) -> None:
    """A manifest, and a picture's vector for each utterance."""
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
