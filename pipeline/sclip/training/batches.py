"""Choose the utterances of each training batch, and crop them.

- Every choice is a pure function of (seed, epoch) or (seed, batch), so a resumed run reads the same batches as a run
  that was never interrupted.
- `uniform` batches, as published: an epoch is shuffled and cut into batches.
- `by_length` batches are cheaper, because they have less padding. A shuffled epoch is cut into pools; each pool is
  sorted by length and cut into batches; the batches are shuffled. So the negatives of an utterance have a similar
  length.
- Both drop an epoch's last incomplete batch. With gradient accumulation a step never combines batches of two epochs,
  as in the published training: the last step of an epoch may have fewer batches.
- An utterance longer than `crop_frames` is cropped to `crop_frames` frames at a random position. The published recipe
  crops the audio to 6.4 s before the encoder. Here the encoder has processed the full utterance, so the frames at the
  edges of a crop also depend on audio outside it.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sclip import distributed
from sclip.config import TrainingConfig
from sclip.errors import UserError
from sclip.features.dataset import Dataset
from sclip.padded import Padded

POOL = 16  # batches that are sorted together
# Batches are padded to a multiple of this number of frames. With few different sizes, the next step can reuse the
# memory that a step frees. With arbitrary sizes the memory fragments: after 100 steps on a CPU, training used 6.3 GB
# and still grew; with multiples of 16 it uses 4.2 GB.
WIDTHS = 16


def derived_seed(seed: int, purpose: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_batches(lengths: Tensor, size: int, by_length: bool, seed: int, epoch: int) -> list[Tensor]:
    """Return the batches of an epoch, each as indices (size,) into `lengths` (N,).

    An incomplete batch is dropped. Each epoch has its own order, so different utterances are dropped.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
    order = torch.randperm(len(lengths), generator=generator)[: len(lengths) // size * size]
    if by_length:
        order = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in torch.split(order, POOL * size)])
    # Sorted indices let the store read its files sequentially.
    batches = [batch.sort().values for batch in torch.split(order, size)]
    if not by_length:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@dataclass(frozen=True)
class Batch:
    """Hold the hidden states and pictures of a batch.

    With N processes, each process has 1/N of the hidden states, and all pictures.
    """

    states: Padded  # (B / N, L, T, D), or codes of the hidden states
    images: Tensor  # (B, J)
    image_ids: Tensor  # (B,)

    def to(self, device: torch.device) -> "Batch":
        images, ids = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.image_ids))
        return Batch(self.states.to(device), images, ids)

    def pinned(self) -> "Batch":
        return Batch(self.states.pinned(), self.images.pin_memory(), self.image_ids.pin_memory())


class TrainingBatches:
    """Read batches by number. A training step uses one batch, or several in a row with gradient accumulation."""

    def __init__(self, dataset: Dataset, training: TrainingConfig, seed: int, pin: bool):
        self.dataset, self.crop, self.seed, self.pin = dataset, training.crop_frames, seed, pin
        self.by_length, self.accumulate = training.batches == "by_length", training.accumulate
        self.size = min(training.batch, len(dataset))
        if self.size % distributed.world_size():
            raise UserError(
                f"a batch of {self.size} utterances cannot be divided among {distributed.world_size()} processes; "
                f"set training.batch to a multiple of {distributed.world_size()}"
            )
        self.lengths = dataset.frames.clamp(max=self.crop)
        self.batches_per_epoch = len(dataset) // self.size
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / self.accumulate)
        self._epoch: tuple[int, list[Tensor]] = (-1, [])

    def of_step(self, step: int) -> range:
        """Return the numbers of a step's batches."""
        epoch, number = divmod(step, self.steps_per_epoch)
        first, last = number * self.accumulate, min((number + 1) * self.accumulate, self.batches_per_epoch)
        return range(epoch * self.batches_per_epoch + first, epoch * self.batches_per_epoch + last)

    def indices(self, number: int) -> Tensor:
        epoch, number = divmod(number, self.batches_per_epoch)
        cached, batches = self._epoch  # read once, because another thread may replace it
        if cached != epoch:
            batches = epoch_batches(self.lengths, self.size, self.by_length, self.seed, epoch)
            self._epoch = epoch, batches
        return batches[number]

    def starts(self, number: int, frames: Tensor) -> Tensor:
        """Return the first frame (B,) of each crop, for utterances of `frames` (B,) frames."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "crop", number))
        position = torch.rand(len(frames), generator=generator, dtype=torch.float64)
        return (position * (frames - self.crop + 1).clamp(min=1)).long()

    def read(self, number: int) -> Batch:
        indices, data = self.indices(number), self.dataset
        starts = self.starts(number, data.frames[indices])
        states = data.read(distributed.rank_slice(indices), distributed.rank_slice(starts), self.crop, WIDTHS)
        image_ids = data.image_index[indices]
        batch = Batch(states, data.images[image_ids], image_ids)
        return batch.pinned() if self.pin else batch
