"""The directions that a corpus's codes are along: found once, from a sample of it."""

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip import processes
from sclip.coded import Directions
from sclip.config import FeaturesConfig
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.listen import Listener, batches_of
from sclip.features.recordings import Recording
from sclip.features.store import fingerprint_of, read_whole, save_whole
from sclip.tensors import fingerprint_of_tensors

SAMPLE_SECONDS = 600.0


def find_directions(
    recordings: Sequence[Recording],
    path: Path,
    encoder: AnySpeechEncoder,
    features: dict[str, Any],
    config: FeaturesConfig,
    device: str | torch.device,
) -> Directions:
    """Those of the file at `path` if it is whole and of this encoder and sample; else found anew, and written there."""
    assert config.components is not None
    sample = _sample(recordings)
    key = fingerprint_of([features, [recording.hash for recording in sample]])
    if processes.is_first() and not _is_there(path, key):
        with closing(_states(sample, Listener(encoder, None, config, device))) as states:
            found = Directions.fit(states, config.components, config.normalize_states)
        tensors = {name: tensor.cpu() for name, tensor in found.tensors().items()}
        save_whole(path, tensors, {"key": key, "hash": fingerprint_of_tensors(tensors, {})})
    processes.wait()
    return Directions.load(path, config.normalize_states)


def _is_there(path: Path, key: str) -> bool:
    try:
        tensors, metadata = read_whole(path)
    except UserError:
        return False
    return metadata.get("key") == key and metadata.get("hash") == fingerprint_of_tensors(tensors, {})


def _sample(recordings: Sequence[Recording]) -> list[Recording]:
    """From anywhere in the corpus, and still the same when it has grown: the first by their files' hashes."""
    usable = sorted((r for r in recordings if r.fault is None), key=lambda recording: recording.hash)
    if not usable:
        faults = Problems(skip=True)
        for recording in recordings:
            faults.add(recording.row.name, str(recording.fault))
        raise faults.nothing_left(f"none of {len(recordings)} recordings can be used")
    heard = accumulate((recording.samples / SAMPLE_RATE for recording in usable), initial=0.0)  # before each
    return [recording for recording, seconds in zip(usable, heard, strict=False) if seconds < SAMPLE_SECONDS]


def _states(sample: Sequence[Recording], listener: Listener) -> Generator[Tensor, None, None]:
    """(N, L, D) a batch"""

    def states(_: Sequence[Recording], audio: Sequence[Tensor | str]) -> Tensor | None:
        waveforms = [found for found in audio if isinstance(found, Tensor)]
        return listener.states(waveforms)[0] if waveforms else None

    batches = tqdm(list(batches_of(sample, listener.config.batch_seconds)), "directions", disable=None)
    return (found for found in listener.computed(batches, states) if found is not None)
