"""Which utterances make up a step's batch, which frames of them.

- everything is a pure function of (seed, epoch) or (seed, step): a training that goes on after an interruption sees
  what it would have seen
- lengths are alike in a batch: a shuffled epoch is cut into pools, each sorted, cut into batches, and these shuffled
- an utterance longer than `crop_frames` gives a window of so many frames, anywhere in it. The published recipe crops
  6.4 s of audio in front of the encoder; here the encoder has heard the whole utterance, so frames at a window's
  edge know what lies beyond it.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sclip import distributed
from sclip.config import TrainingConfig
from sclip.errors import UserError
from sclip.features.dataset import Dataset
from sclip.padded import Padded

POOL = 16  # batches that are sorted together
# A batch is a multiple of so many frames wide. Of few sizes, what a step frees fits the next one's tensors; of any size
# it lies about in pieces: after a hundred steps a training on a CPU held 6.3 GB and grew, that so holds 4.2.
WIDTHS = 16


def derived_seed(seed: int, purpose: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_batches(lengths: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Indices (size,) into lengths (N,), a batch each; what does not fill a batch has its turn in other epochs."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
    order = torch.randperm(len(lengths), generator=generator)[: len(lengths) // size * size]
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in torch.split(order, POOL * size)]
    batches = [
        batch.sort().values for pool in pools for batch in torch.split(pool, size)
    ]  # the store reads on, not about
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@dataclass(frozen=True)
class Batch:
    """Of several processes each has its slice of the states, and all of the pictures."""

    states: Padded  # (B / N, L, T, D), or coded
    images: Tensor  # (B, J)
    image_ids: Tensor  # (B,)

    def to(self, device: torch.device) -> "Batch":
        images, ids = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.image_ids))
        return Batch(self.states.to(device), images, ids)

    def pinned(self) -> "Batch":
        return Batch(self.states.pinned(), self.images.pin_memory(), self.image_ids.pin_memory())


class TrainingBatches:
    """The batch of each step, or, where a step takes several, the batches one after the other."""

    def __init__(self, dataset: Dataset, training: TrainingConfig, seed: int, pin: bool):
        self.dataset, self.crop, self.seed, self.pin = dataset, training.crop_frames, seed, pin
        self.size = min(training.batch, len(dataset))
        if self.size % distributed.world_size():
            raise UserError(
                f"a batch of {self.size} utterances cannot be divided among {distributed.world_size()} processes"
            )
        self.lengths = dataset.frames.clamp(max=self.crop)
        self._epoch: tuple[int, list[Tensor]] = (-1, [])

    def indices(self, step: int) -> Tensor:
        epoch, place = divmod(step, len(self.dataset) // self.size)
        if self._epoch[0] != epoch:
            self._epoch = epoch, epoch_batches(self.lengths, self.size, self.seed, epoch)
        return self._epoch[1][place]

    def starts(self, step: int, frames: Tensor) -> Tensor:
        """Lengths (B,) -> the first frame (B,) of each window"""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "crop", step))
        share = torch.rand(len(frames), generator=generator, dtype=torch.float64)
        return (share * (frames - self.crop + 1).clamp(min=1)).long()

    def read(self, step: int) -> Batch:
        indices, data = self.indices(step), self.dataset
        starts = self.starts(step, data.frames[indices])
        states = data.read(distributed.rank_slice(indices), distributed.rank_slice(starts), self.crop, WIDTHS)
        image_ids = data.image_index[indices]
        batch = Batch(states, data.images[image_ids], image_ids)
        return batch.pinned() if self.pin else batch
