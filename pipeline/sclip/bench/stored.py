"""A corpus in the format of the feature store. The values of random frames do not change the timings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from sclip.features.store import CODES, DIRECTIONS_FILE, frame_shape, frame_type, write_index, write_shard
from sclip.features.vectors import TokenVectors, write_vectors
from sclip.files import file_digest
from sclip.tensors import write_tensors

BATCHES = 4
SHARD = 64  # utterances per shard


def write_random_dataset(
    workload: Workload, speech: AnySpeechEncoder, joint: int, folder: Path, coded: bool, device: torch.device
) -> Dataset:
    """Write a corpus of a few batches as states or as codes, with image vectors of width `joint`, and open it."""
    lengths = [int(s * FRAMES_PER_SECOND) for s in utterance_seconds(workload, BATCHES * workload.batch)]
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
        path.parent.mkdir(parents=True)
        write_tensors(path, random_directions(speech, workload.components).tensors(), {"key": ""})
        features |= {"precision": CODES, "components": workload.components, "normalized": False}
        features |= {"directions": file_digest(path)}
    generator = torch.Generator().manual_seed(0)
    names = [str(i) for i in range(len(lengths))]
    rows = [{"id": name, "split": "train", "image_id": name} for name in names]
    vectors = F.normalize(torch.randn(len(names), joint, generator=generator), dim=-1)
    states = _random_shards(lengths, features, torch.Generator(device).manual_seed(0))
    write_dataset(folder, rows, features, states, (names, vectors), ([], vectors[:0]))
    return Dataset.open(folder / "manifest.jsonl", folder / "features", folder / "vectors", "train")


def write_dataset(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    shards: Iterable[Mapping[str, Tensor]],
    images: tuple[list[str], Tensor],
    captions: tuple[list[str], Tensor],
    clip_hash: str = "",
    tokens: TokenVectors | None = None,
) -> None:
    """Write a manifest, the hidden states or codes of each shard, and CLIP's vectors, as the extraction stages do.

    Rows that name no recording or picture get an empty file.
    """
    for name in ("features", "vectors"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "file").touch()
    write_manifest(folder / "manifest.jsonl", [{"audio": "file", "image": "file", **row} for row in rows])
    written = [write_shard(folder / f"features/{i}.safetensors", features, part, {}) for i, part in enumerate(shards)]
    write_index(folder / "features", features, written)
    clip = {"name": "random", "revision": None, "hash": clip_hash}
    index = {"clip": clip, "fingerprint": "", "skipped": {}, "notes": {}}
    write_vectors(folder / "vectors", index, (images[0], {"vectors": images[1]}), captions, tokens)


def _random_shards(
    lengths: Sequence[int], features: Mapping[str, Any], generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(lengths), SHARD):
        part = lengths[start : start + SHARD]
        yield {str(start + i): _random_frames(n, features, generator) for i, n in enumerate(part)}


def _random_frames(count: int, features: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    numbers = torch.randn(count, *frame_shape(features), generator=generator, device=generator.device)
    kind = frame_type(features)
    return ((20 * numbers).clamp(-127, 127) if kind == torch.int8 else numbers).to("cpu", kind)


def random_directions(speech: AnySpeechEncoder, components: int) -> Directions:
    numbers = torch.randn(speech.states * speech.width, components, generator=torch.Generator().manual_seed(0))
    unit, ones = torch.linalg.qr(numbers).Q.T.contiguous(), torch.ones(speech.states)
    return Directions(unit, torch.full((components,), 0.1), ones, torch.zeros(speech.states, speech.width), False)
