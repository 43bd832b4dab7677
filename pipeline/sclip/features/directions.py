"""The principal directions of a corpus's codes, computed once from a sample of its recordings."""

import heapq
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip import distributed
from sclip.config import FeaturesConfig
from sclip.corpora.recordings import Recording
from sclip.encoders.audio import SAMPLE_RATE
from sclip.errors import Fault, Problems, UserError
from sclip.features.codes import Directions
from sclip.features.encode import FeatureEncoder, batches_by_length
from sclip.fingerprints import data_fingerprint, tensors_fingerprint
from sclip.tensors import read_tensors_and_metadata, write_tensors

if TYPE_CHECKING:
    from sclip.encoders.open import AnySpeechEncoder

SAMPLE_SECONDS = 600.0


def find_directions(
    recordings: Sequence[Recording],
    path: Path,
    encoder: "AnySpeechEncoder",
    features: dict[str, Any],
    config: FeaturesConfig,
    device: str | torch.device,
    problems: Problems,
) -> Directions:
    """Return the directions in the file at `path`. Compute and write them first unless the file matches the sample."""
    assert config.components is not None
    sample = _sample(recordings)
    key = data_fingerprint([features, [recording.hash for recording in sample]])
    if distributed.is_main() and not _is_written(path, key):
        exact = FeatureEncoder(encoder, None, replace(config, precision="fp32"), device)
        with closing(_states(sample, exact, problems)) as states:
            directions = Directions.fit(states, config.components, config.normalize_states)
        tensors = {name: tensor.cpu() for name, tensor in directions.tensors().items()}
        write_tensors(path, tensors, {"key": key, "hash": tensors_fingerprint(tensors, {})})
    distributed.barrier()
    return Directions.load(path, config.normalize_states)


def _is_written(path: Path, key: str) -> bool:
    try:
        tensors, metadata = read_tensors_and_metadata(path)
    except UserError:
        return False
    return metadata.get("key") == key and metadata.get("hash") == tensors_fingerprint(tensors, {})


def _sample(recordings: Sequence[Recording]) -> list[Recording]:
    """Choose the usable recordings with the smallest hashes: a sample that changes little when the corpus grows."""
    smallest: list[tuple[int, int, int]] = []  # a heap with the largest hash first: its negative, -index and samples
    samples = 0
    for i, recording in enumerate(recordings):
        if recording.fault is None:
            heapq.heappush(smallest, (-int(recording.hash, 16), -i, recording.samples))
            samples += recording.samples
            while samples - smallest[0][2] >= SAMPLE_SECONDS * SAMPLE_RATE:  # without the largest, there are enough
                samples -= heapq.heappop(smallest)[2]
    return [recordings[-i] for _, i, _ in sorted(smallest, reverse=True)]


def _states(sample: Sequence[Recording], encoder: FeatureEncoder, problems: Problems) -> Generator[Tensor, None, None]:
    """Yield the hidden states (N, L, D) of each batch. Recordings whose states are not finite are left out."""
    batches = list(batches_by_length(sample, encoder.config.batch_seconds))
    any_states = False
    with closing(encoder.encode_recordings(tqdm(batches, "directions", disable=None))) as encoded:
        for batch, results in zip(batches, encoded, strict=True):
            for recording, result in zip(batch, results, strict=True):
                if isinstance(result, Fault):
                    problems.add(recording.row.name, result.reason)
            states = [result for result in results if isinstance(result, Tensor)]
            if states:
                any_states = True
                yield torch.cat(states).to(encoder.device)
    if not any_states:
        raise problems.nothing_left("features.components: no recording of the sample can be used")
