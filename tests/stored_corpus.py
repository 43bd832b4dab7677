"""Write small corpora with hidden states and vectors, as the extraction stages write them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from small import CAPTIONS, clip_encoder, small_vocabulary

from sclip.bench.stored import write_dataset
from sclip.features.codes import Directions
from sclip.features.dataset import Dataset
from sclip.features.store import CODES, DIRECTIONS_FILE
from sclip.features.vectors import TokenVectors
from sclip.files import file_digest
from sclip.fingerprints import FEATURES as CODE
from sclip.fingerprints import code_fingerprint
from sclip.tensors import write_tensors

STATES, WIDTH, JOINT = 3, 32, 20  # as in the encoders of small.py
FEATURES = {
    "encoder": "small",
    "revision": None,
    "hash": "",
    "code": code_fingerprint(CODE),
    "states": STATES,
    "width": WIDTH,
    "frame_seconds": 0.02,
    "normalize_waveform": False,
    "precision": "fp16",
    "compute": "fp32",
}


def write_corpus(
    folder: Path,
    train: int = 16,
    dev: int = 16,
    captions: int = 1,
    encoders: Sequence[str] = ("", ""),
    text: str | None = CAPTIONS[0],
    components: int | None = None,
) -> Path:
    """Write `train` and `dev` utterances to `folder`, and return the folder.

    The hidden states of an utterance are its picture's states plus noise, so a head can learn which picture it belongs
    to. Each picture has `captions` captions. Picture i has the same vector in both splits. `encoders` are the hashes of
    the speech encoder and of CLIP that the stored states and vectors name. Every caption is `text`, and tokens have
    random vectors. With `components`, codes are stored instead of states.
    """
    generator = torch.Generator().manual_seed(0)
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
            rows.append({"id": name, "split": split, "image_id": image_id, "text": text})
    features = FEATURES | {"hash": encoders[0]}
    if components is not None:
        features, utterances = encode_states(folder / "features", features, utterances, components)
    half = len(utterances) // 2
    shards = [dict(list(utterances.items())[part]) for part in (slice(half), slice(half, None))]
    vectors = (list(images), torch.stack(list(images.values())))
    captioned = [] if text is None else list(utterances)
    caption_vectors = (captioned, F.normalize(torch.randn(len(captioned), JOINT, generator=generator), dim=-1))
    tokens = None if text is None else random_tokens(text, generator)
    write_dataset(folder, rows, features, shards, vectors, caption_vectors, encoders[1], tokens)
    return folder


def encode_states(
    folder: Path, features: Mapping[str, Any], utterances: Mapping[str, torch.Tensor], components: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Write the principal directions of the states of utterances, and return the settings of codes and the codes."""
    folder.mkdir(parents=True)
    directions = Directions.fit(utterances.values(), components, normalized=False)
    write_tensors(folder / DIRECTIONS_FILE, directions.tensors(), {"key": ""})
    coded = {"precision": CODES, "components": components, "normalized": False}
    coded |= {"directions": file_digest(folder / DIRECTIONS_FILE)}
    return {**features, **coded}, {name: directions.encode(states) for name, states in utterances.items()}


def random_tokens(text: str, generator: torch.Generator) -> TokenVectors:
    """Return random vectors for the vocabulary of small.py. Only the tokens of `text` are in training captions."""
    clip = clip_encoder()
    ids = list(small_vocabulary(clip).ids)
    vectors = F.normalize(torch.randn(len(ids), JOINT, generator=generator), dim=-1)
    (used,) = clip.token_ids([text])
    counts = torch.tensor([used.count(token) for token in ids])
    return TokenVectors(ids, vectors, torch.zeros(len(ids)), counts, scale=5.0)


def write_test_split(folder: Path, rows: Sequence[Mapping[str, Any]], frames: range, **features: str) -> Dataset:
    """Write rows of the split `test` with random hidden states and vectors, and open them.

    `frames` are the lengths that an utterance can have. `features` replace settings of the stored states.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(frames.start, frames.stop, (len(rows),), generator=generator).tolist()
    states = {
        row["id"]: torch.randn(length, STATES, WIDTH, generator=generator).half()
        for row, length in zip(rows, lengths, strict=True)
    }
    pictures = list(dict.fromkeys(row["image_id"] for row in rows))
    images, captions = (
        F.normalize(torch.randn(n, JOINT, generator=generator), dim=-1) for n in (len(pictures), len(rows))
    )
    write_dataset(folder, rows, FEATURES | features, [states], (pictures, images), (list(states), captions))
    return open_split(folder, "test")


def open_split(folder: Path, split: str) -> Dataset:
    return Dataset.open(folder / "manifest.jsonl", folder / "features", folder / "vectors", split)
