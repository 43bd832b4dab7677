"""The head over a whole dataset: what every metric starts from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sclip import distributed
from sclip.concurrency import PREFETCHED_BATCHES, prefetch, prefetch_count
from sclip.features.dataset import Dataset
from sclip.heads.head import HeadOutput
from sclip.model.speechclip import SpeechCLIP
from sclip.padded import Padded, even_batches, valid_mask

BLOCK = 1024  # utterances, or rows of the vocabulary, at a time
BATCH_FRAMES = 4096  # padding included


@dataclass(frozen=True)
class Found:
    """The keywords of N utterances."""

    rows: Tensor  # (N, S), of the vocabulary
    lengths: Tensor  # (N,)

    @property
    def valid(self) -> Tensor:
        """(N, S)"""
        return valid_mask(self.lengths, self.rows.shape[1])

    @property
    def first(self) -> Tensor:
        """(N, S): the slots that repeat no earlier one"""
        slots = self.rows.shape[1]
        earlier = torch.ones(slots, slots, dtype=torch.bool).tril(-1)
        blocks = [((r[:, :, None] == r[:, None]) & earlier).any(-1) for r in torch.split(self.rows, BLOCK)]
        return self.valid & ~torch.cat(blocks)

    def __getitem__(self, which: list[int]) -> "Found":
        return Found(self.rows[which], self.lengths[which])


@dataclass(frozen=True)
class Predictions:
    """On the CPU."""

    vectors: dict[str, Tensor]  # of each branch, (N, J), of unit length
    keywords: Found | None
    firings: Tensor | None  # (N, S) seconds, behind them infinity
    truncated: int  # utterances with more keywords than fit


@torch.inference_mode()
def infer(model: SpeechCLIP, dataset: Dataset) -> Predictions:
    """In the dataset's order, in every process. What is kept of an utterance does not depend on its frames."""
    head, count = model.head, len(dataset)
    slots = _most_slots(model)
    branches = [*["parallel"] * (head.utterance is not None), *["cascaded"] * (head.keywords is not None)]
    vectors = {branch: torch.empty(count, model.clip.joint_width) for branch in branches}
    rows, lengths = torch.zeros(count, slots, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    firings = torch.full((count, slots), torch.inf, dtype=torch.float64)
    truncated = torch.zeros(count, dtype=torch.bool)
    for indices, output in _batches(model, dataset):
        for branch, found in (("parallel", output.utterance), ("cascaded", output.sentence)):
            if found is not None:
                vectors[branch][indices] = F.normalize(found, dim=-1).cpu()
        if output.keywords is not None:
            rows[indices, : output.keywords.rows.shape[1]] = output.keywords.rows.cpu()
            lengths[indices] = output.keywords.embeddings.lengths.cpu()
        if output.cif is not None:
            truncated[indices] = output.cif.firing.truncated.cpu()
            firings[indices] = firing_times(output.cif.firing.fired.cpu(), dataset.store.frame_seconds, slots)
    _complete([*vectors.values(), rows, lengths, firings, truncated], dataset)
    keywords = Found(rows[:, : int(lengths.max())], lengths) if head.keywords is not None else None
    return Predictions(vectors, keywords, firings if head.cif is not None else None, int(truncated.sum()))


def output_of(model: SpeechCLIP, states: Padded) -> HeadOutput:
    """What the head makes of hidden states as they are stored: in fp32, whatever that is."""
    return model.head(states.to(model.device), model.text_tower)


def _batches(model: SpeechCLIP, dataset: Dataset) -> Iterator[tuple[Tensor, HeadOutput]]:
    """This process's utterances, of similar length, the longest first; their indices (B,) and the head's output."""
    batches = distributed.rank_share(list(even_batches(dataset.frames, BATCH_FRAMES)))
    states = prefetch(dataset.read, batches, prefetch_count(model.device, PREFETCHED_BATCHES))
    with tqdm(
        total=sum(map(len, batches)), desc="evaluate", unit="utterance", disable=distributed.bar_disabled()
    ) as progress:
        for indices, read in zip(batches, states, strict=True):
            yield indices, output_of(model, read)
            progress.update(len(indices))


def _complete(results: Sequence[Tensor], dataset: Dataset) -> None:
    """Fill in, place by place, what other processes predictions."""
    if distributed.world_size() == 1:
        return
    batches = list(even_batches(dataset.frames, BATCH_FRAMES))
    own = distributed.rank_share(batches)
    mine = torch.cat([torch.empty(0, dtype=torch.long), *own])
    for indices, *found in distributed.gather_objects([mine, *(result[mine] for result in results)]):
        for result, values in zip(results, found, strict=True):
            result[indices] = values


def _most_slots(model: SpeechCLIP) -> int:
    keywords = model.architecture.head.keywords
    if keywords is None:
        return 0
    return keywords.cif.max_slots if keywords.cif else keywords.slots or 0


def firing_times(fired: Tensor, frame_seconds: float, size: int) -> Tensor:
    """(B, T), true at frames that fire -> (B, size): when these frames end, in seconds; behind them infinity"""
    times = torch.full((len(fired), size), torch.inf, dtype=torch.float64, device=fired.device)
    row, frame = fired.nonzero(as_tuple=True)
    times[row, (fired.cumsum(1) - 1)[row, frame]] = (frame + 1).double() * frame_seconds
    return times
