"""The directions that a corpus's codes are along: found once, from a sample spread over all of it."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip import processes
from sclip.coded import Directions
from sclip.config import FeaturesConfig
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import UserError
from sclip.features.listen import Listener, batches_of
from sclip.features.recordings import Recording
from sclip.features.store import fingerprint_of, metadata_of, save_whole

SAMPLE_SECONDS = 600.0


def find_directions(
    recordings: Sequence[Recording],
    path: Path,
    encoder: AnySpeechEncoder,
    features: dict[str, Any],
    config: FeaturesConfig,
    device: str | torch.device,
) -> Directions:
    """Those of the file at `path` if they are of this encoder and sample; else found anew, and written there."""
    assert config.components is not None
    sample = _sample(recordings)
    key = fingerprint_of([features, [recording.hash for recording in sample]])
    if processes.is_first() and not (path.is_file() and metadata_of(path).get("key") == key):
        with closing(_states(sample, Listener(encoder, None, config, device))) as states:
            found = Directions.fit(states, config.components, config.normalize_states)
        save_whole(path, {name: tensor.cpu() for name, tensor in found.tensors().items()}, {"key": key})
    processes.wait()
    return Directions.load(path, config.normalize_states)


def _sample(recordings: Sequence[Recording]) -> list[Recording]:
    """Evenly out of all that can be read; all of a small corpus."""
    usable = [recording for recording in recordings if recording.fault is None]
    if not usable:
        raise UserError(f"none of {len(recordings)} recordings can be used")
    seconds = sum(recording.samples for recording in usable) / SAMPLE_RATE
    count = max(1, round(len(usable) * min(1.0, SAMPLE_SECONDS / seconds)))
    return [usable[i * len(usable) // count] for i in range(count)]


def _states(sample: Sequence[Recording], listener: Listener) -> Generator[Tensor, None, None]:
    """(N, L, D) a batch"""

    def states(_: Sequence[Recording], audio: Sequence[Tensor | str]) -> Tensor | None:
        waveforms = [found for found in audio if isinstance(found, Tensor)]
        return listener.states(waveforms)[0] if waveforms else None

    batches = batches_of(sample, listener.config.batch_seconds)
    return (found for found in listener.computed(batches, states) if found is not None)
