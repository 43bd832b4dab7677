"""Speech for pre-training: spoken captions of scenes, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sclip.corpora.rows import SPLITS
from sclip.corpora.scenes.captions import captions
from sclip.corpora.scenes.speakers import speak, voices
from sclip.corpora.scenes.voices import SAMPLE_RATE, Phone
from sclip.corpora.scenes.world import THINGS, World
from sclip.processes import map_in_processes

CHUNK = 100  # utterances that a process makes at a time
HOP, WINDOW = 320, 400  # distance and length of frames, in samples
SILENCE = "_"


@dataclass(frozen=True)
class Utterance:
    samples: NDArray[np.int16]
    phones: Tensor  # (T,): the number of the phone in the middle of each frame; used in evaluation only


class Joined:
    """Sequences of different lengths, one after the other in one tensor on a device.

    Equally long starts of some of them are read with one operation, so a GPU does not wait for the CPU.
    """

    def __init__(self, sequences: Sequence[Tensor], device: torch.device):
        self.lengths = np.array([len(sequence) for sequence in sequences])
        self.values = torch.cat(list(sequences)).to(device)
        self.first = torch.from_numpy(np.cumsum(self.lengths) - self.lengths).to(device)

    def starts(self, chosen: Tensor, count: int) -> Tensor:
        """Return the first `count` values of the chosen sequences: (B,) -> (B, count)."""
        return self.values[self.first[chosen][:, None] + torch.arange(count, device=chosen.device)]


def speak_scenes(split: str, count: int, speakers: int, seed: int) -> list[Utterance]:
    """Make spoken captions of scenes of a split. Equal arguments give equal utterances on every machine."""
    jobs = [(split, start, min(start + CHUNK, count), speakers, seed) for start in range(0, count, CHUNK)]
    spoken = [utterance for chunk in map_in_processes(_speak, jobs, "speech") for utterance in chunk]
    names = sorted({name for _, phones in spoken for name in phones})
    numbers = {name: i for i, name in enumerate(names)}
    return [Utterance(samples, torch.tensor([numbers[name] for name in phones])) for samples, phones in spoken]


def _speak(job: tuple[str, int, int, int, int]) -> list[tuple[NDArray[np.int16], list[str]]]:
    split, start, stop, speakers, seed = job
    world, chosen = World(len(THINGS)), voices(split)[:speakers]
    spoken = []
    for i in range(start, stop):
        random = np.random.default_rng([seed, 4, SPLITS.index(split), i])
        text = captions(world.scene(split, random), 1, random)[0]
        speech = speak(text, chosen[random.integers(len(chosen))], random)
        samples = (speech.samples * (2**15 - 1)).astype(np.int16)
        spoken.append((samples, _phone_of_frames(speech.phones, len(samples))))
    return spoken


def _phone_of_frames(phones: tuple[Phone, ...], samples: int) -> list[str]:
    """Return the name of the phone in the middle of each frame, or SILENCE."""
    frames = (samples - WINDOW) // HOP + 1
    middles = (np.arange(frames) * HOP + WINDOW / 2) / SAMPLE_RATE
    indices = np.searchsorted([phone.start for phone in phones], middles, side="right") - 1
    return [
        phones[i].text if i >= 0 and middle < phones[i].end else SILENCE
        for i, middle in zip(indices, middles, strict=True)
    ]
