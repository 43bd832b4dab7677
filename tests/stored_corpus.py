"""Write a small corpus with hidden states and vectors, as the extraction stages write it.

The hidden states of an utterance are its picture's states plus noise, so a head can learn which picture it belongs to.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from sclip.corpora.manifest import write_manifest
from sclip.features.dataset import Dataset
from sclip.features.store import write_index, write_shard
from sclip.features.vectors import write_vectors

STATES, WIDTH, JOINT = 3, 32, 20  # as in the encoders of small.py
FEATURES = {
    "encoder": "small",
    "revision": None,
    "states": STATES,
    "width": WIDTH,
    "frame_seconds": 0.02,
    "normalize_waveform": False,
    "precision": "fp16",
    "compute": "fp32",
}


def write_corpus(
    folder: Path, train: int = 16, dev: int = 16, seed: int = 0, captions: int = 1, encoders: Sequence[str] = ("", "")
) -> Path:
    """Write `train` and `dev` utterances to `folder`, and return the folder.

    Each picture has `captions` captions. Picture i has the same vector in both splits. `encoders` are the hashes of the
    speech encoder and of CLIP that the stored states and vectors name.
    """
    generator = torch.Generator().manual_seed(seed)
    (folder / "audio").touch()
    (folder / "image").touch()
    rows, utterances = [], {}
    picture_states = torch.randn(max(train, dev), STATES, WIDTH, generator=generator)
    picture_vectors = F.normalize(torch.randn(max(train, dev), JOINT, generator=generator), dim=-1)
    images: dict[str, torch.Tensor] = {}
    for split, count in (("train", train), ("dev", dev)):
        for i in range(count):
            name, picture = f"{split}-{i}", i // captions
            length = int(torch.randint(30, 71, (), generator=generator))
            noise = torch.randn(length, STATES, WIDTH, generator=generator) / 2
            utterances[name] = (picture_states[picture] + noise).half()
            image_id = f"{split}-picture-{picture}"
            images[image_id] = picture_vectors[picture]
            text = "a brown dog runs along the beach"
            rows.append(
                {"id": name, "split": split, "audio": "audio", "image": "image", "image_id": image_id, "text": text}
            )
    write_manifest(folder / "manifest.jsonl", rows)
    (folder / "features").mkdir()
    half = len(utterances) // 2
    parts = [dict(list(utterances.items())[part]) for part in (slice(half), slice(half, None))]
    features = FEATURES | {"hash": encoders[0]}
    shards = [write_shard(folder / f"features/{i}.safetensors", features, part, {}) for i, part in enumerate(parts)]
    write_index(folder / "features", features, shards)
    (folder / "vectors").mkdir()
    clip = {"name": "small", "revision": None, "hash": encoders[1]}
    index = {"clip": clip, "fingerprint": str(seed), "skipped": {}, "notes": {}}
    caption_vectors = (list(utterances), F.normalize(torch.randn(len(utterances), JOINT, generator=generator), dim=-1))
    write_vectors(folder / "vectors", index, (list(images), torch.stack(list(images.values()))), caption_vectors)
    return folder


def open_split(folder: Path, split: str) -> Dataset:
    return Dataset.open(folder / "manifest.jsonl", folder / "features", folder / "vectors", split)
