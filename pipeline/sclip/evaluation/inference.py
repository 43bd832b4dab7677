"""Run the head on a dataset. All metrics are computed from the predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sclip import distributed
from sclip.concurrency import prefetch, prefetch_count
from sclip.features.dataset import Dataset
from sclip.features.store import frame_bytes
from sclip.heads.head import HeadOutput
from sclip.heads.slot_times import SlotTimes
from sclip.model.speechclip import SpeechCLIP
from sclip.padded import Padded, length_sorted_batches, valid_mask

BLOCK = 1024  # utterances, or rows of the vocabulary, that are processed together
# Frames in a batch, including padding: what fits in a CPU's cache, or keeps a GPU busy.
BATCH_FRAMES = {"cpu": 4096, "cuda": 1 << 17}
BATCH_BYTES = 1 << 30  # of these frames as they are stored; a GPU's batches are in pinned memory


@dataclass(frozen=True)
class DecodedKeywords:
    """Hold the keywords of N utterances."""

    rows: Tensor  # (N, S): row of the vocabulary in each slot
    lengths: Tensor  # (N,): number of slots

    @property
    def valid(self) -> Tensor:
        """Mark the slots (N, S) that are not padding."""
        return valid_mask(self.lengths, self.rows.shape[1])

    @property
    def first(self) -> Tensor:
        """Mark the slots (N, S) whose keyword is not in an earlier slot."""
        slots = self.rows.shape[1]
        earlier = torch.ones(slots, slots, dtype=torch.bool).tril(-1)
        blocks = [((r[:, :, None] == r[:, None]) & earlier).any(-1) for r in torch.split(self.rows, BLOCK)]
        return self.valid & ~torch.cat(blocks)

    def __getitem__(self, indices: list[int]) -> "DecodedKeywords":
        return DecodedKeywords(self.rows[indices], self.lengths[indices])


@dataclass(frozen=True)
class Predictions:
    """Hold the head's predictions for N utterances, on the CPU."""

    vectors: dict[str, Tensor]  # unit vectors (N, J) of each branch
    keywords: DecodedKeywords | None
    slot_times: SlotTimes | None  # of the keywords
    firings: Tensor | None  # (N, S): times in seconds, padded with infinity
    truncated: int  # number of utterances with more keywords than max_slots


@torch.inference_mode()
def infer(model: SpeechCLIP, dataset: Dataset) -> Predictions:
    """Return the predictions for a dataset, in its order. Every process returns all predictions.

    The memory for the predictions does not depend on the number of frames.
    """
    head, count, slots = model.head, len(dataset), _max_slots(model)
    vectors = _empty_vectors(model, count)
    rows, lengths = torch.zeros(count, slots, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    firings = torch.full((count, slots), torch.inf, dtype=torch.float64)
    truncated = torch.zeros(count, dtype=torch.bool)
    peaks, spans = torch.zeros(count, slots, dtype=torch.float64), torch.zeros(count, slots, 2, dtype=torch.float64)
    for indices, output in _batches(model, dataset):
        _copy_vectors(output, indices, vectors)
        if output.keywords is not None:
            rows[indices, : output.keywords.rows.shape[1]] = output.keywords.rows.cpu()
            lengths[indices] = output.keywords.embeddings.lengths.cpu()
            slot_times = output.slot_times(model.frame_seconds)
            peaks[indices, : slot_times.peaks.shape[1]] = slot_times.peaks
            spans[indices, : slot_times.peaks.shape[1]] = slot_times.spans
        if output.cif is not None:
            truncated[indices] = output.cif.firing.truncated.cpu()
            firings[indices] = firing_times(output.cif.firing.fired.cpu(), model.frame_seconds, slots)
    _gather(_all_batches(model, dataset), [*vectors.values(), rows, lengths, peaks, spans, firings, truncated])
    used = int(lengths.max())  # the most slots of an utterance
    has_keywords = head.keywords is not None
    return Predictions(
        vectors,
        DecodedKeywords(rows[:, :used], lengths) if has_keywords else None,
        SlotTimes(peaks[:, :used], spans[:, :used]) if has_keywords else None,
        firings if head.cif is not None else None,
        int(truncated.sum()),
    )


@torch.inference_mode()
def infer_vectors(model: SpeechCLIP, dataset: Dataset) -> dict[str, Tensor]:
    """Return the unit vectors (N, J) of each branch, in the dataset's order, and nothing else that `infer` returns."""
    vectors = _empty_vectors(model, len(dataset))
    for indices, output in _batches(model, dataset):
        _copy_vectors(output, indices, vectors)
    _gather(_all_batches(model, dataset), [*vectors.values()])
    return vectors


def _empty_vectors(model: SpeechCLIP, count: int) -> dict[str, Tensor]:
    return {branch: torch.empty(count, model.clip.joint_width) for branch in model.branches}


def _copy_vectors(output: HeadOutput, indices: Tensor, vectors: dict[str, Tensor]) -> None:
    """Copy a batch's unit vectors into `vectors`."""
    for branch, batch_vectors in output.vectors.items():
        vectors[branch][indices] = F.normalize(batch_vectors, dim=-1).cpu()


def output_of(model: SpeechCLIP, states: Padded) -> HeadOutput:
    """Return the head's output for stored hidden states, computed in fp32."""
    return model.head(states.to(model.device), model.text_tower)


def _batches(model: SpeechCLIP, dataset: Dataset) -> Iterator[tuple[Tensor, HeadOutput]]:
    """Yield indices (B,) and head output of this process's batches of utterances of similar length, longest first."""
    batches = distributed.rank_share(_all_batches(model, dataset))
    states = prefetch(dataset.read, batches, prefetch_count(model.device, dataset.prefetched_batches))
    with tqdm(
        total=sum(map(len, batches)), desc="evaluate", unit="utterance", disable=distributed.bar_disabled()
    ) as progress:
        for indices, batch_states in zip(batches, states, strict=True):
            yield indices, output_of(model, batch_states)
            progress.update(len(indices))


def _all_batches(model: SpeechCLIP, dataset: Dataset) -> list[Tensor]:
    """Return the indices of each batch, for all processes together."""
    frames = BATCH_FRAMES.get(model.device.type, BATCH_FRAMES["cpu"])
    return list(length_sorted_batches(dataset.frames, min(frames, BATCH_BYTES // frame_bytes(dataset.store.features))))


def _gather(batches: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """Copy the predictions of the other processes into `results`, whose first dimension is the utterance."""
    if distributed.world_size() == 1:
        return
    own = torch.cat([torch.empty(0, dtype=torch.long), *distributed.rank_share(batches)])
    for indices, *predictions in distributed.gather_objects([own, *(result[own] for result in results)]):
        for result, values in zip(results, predictions, strict=True):
            result[indices] = values


def _max_slots(model: SpeechCLIP) -> int:
    keywords = model.head.config.keywords
    if keywords is None:
        return 0
    return keywords.cif.max_slots if keywords.cif else keywords.slots or 0


def firing_times(fired: Tensor, frame_seconds: float, size: int) -> Tensor:
    """Return the end times in seconds of the frames that fire, padded with infinity: bool (B, T) -> (B, size)"""
    times = torch.full((len(fired), size), torch.inf, dtype=torch.float64, device=fired.device)
    row, frame = fired.nonzero(as_tuple=True)
    times[row, (fired.cumsum(1) - 1)[row, frame]] = (frame + 1).double() * frame_seconds
    return times
