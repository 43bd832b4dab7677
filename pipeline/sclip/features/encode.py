"""Encoding of recordings, in batches, to the hidden states or codes that are stored."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sclip.concurrency import delayed, prefetch_count, process_batches
from sclip.config import FeaturesConfig
from sclip.corpora.recordings import Recording, decode
from sclip.device import PRECISIONS, autocast
from sclip.encoders.audio import SAMPLE_RATE
from sclip.errors import Fault, UserError
from sclip.features.codes import Directions
from sclip.padded import even_batches

if TYPE_CHECKING:
    from sclip.encoders.open import AnySpeechEncoder


def batches_by_length(recordings: Sequence[Recording], seconds: float) -> Iterator[list[Recording]]:
    """Yield batches of similar length, the longest first; a batch is at most `seconds` long, padding included."""
    samples = torch.tensor([recording.samples for recording in recordings])
    for batch in even_batches(samples, int(seconds * SAMPLE_RATE)):
        yield [recordings[i] for i in batch.tolist()]


@dataclass(frozen=True)
class FeatureEncoder:
    """A speech encoder, with the settings that say how to compute and store its hidden states."""

    encoder: "AnySpeechEncoder"
    directions: Directions | None  # if codes are stored instead of states
    config: FeaturesConfig
    device: str | torch.device

    @torch.no_grad()
    def hidden_states(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Return the hidden states of all waveforms' frames, concatenated (N, L, D), and their numbers of frames."""
        with autocast(self.device, self.config.compute):
            output = self.encoder(list(waveforms))
        lengths = self.encoder.frames(torch.tensor([len(waveform) for waveform in waveforms])).tolist()
        rows = zip(output.values.transpose(1, 2), lengths, strict=True)
        return torch.cat([row[:length] for row, length in rows]), lengths

    def encode(self, waveforms: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Return each waveform's states (T, L, D) or codes (T, K) in the stored precision. `names` are for errors."""
        return self._start(waveforms, names, self.device).finish()

    @torch.no_grad()
    def _start(self, waveforms: Sequence[Tensor], names: Sequence[str], target: str | torch.device) -> "_Encoding":
        """Encode waveforms and copy the results to `target`, without waiting for a GPU."""
        if not waveforms:
            return _Encoding([], torch.empty(0), torch.empty(0), None, lambda frame: "")
        values, lengths = self.hidden_states(waveforms)
        stored = self._as_stored(values)
        sums = (values if stored.dtype == torch.int8 else stored).sum((1, 2), dtype=torch.float32)

        def problem(frame: int) -> str:
            utterance = int((torch.tensor(lengths).cumsum(0) <= frame).sum())
            return f"{names[utterance]}: {self._overflow(values[frame])}"

        copies = [tensor.to(target, non_blocking=True) for tensor in (stored, sums.isfinite())]
        done = torch.cuda.current_stream(stored.device).record_event() if stored.is_cuda else None
        return _Encoding(lengths, copies[0], copies[1], done, problem)

    def encode_recordings(self, batches: Iterable[Sequence[Recording]]) -> Generator[list[Tensor | Fault], None, None]:
        """Yield each batch as a list: for each recording its states or codes, on the CPU, or why it cannot be used.

        While a GPU encodes a batch, the results of the batch before are taken from it.
        """

        def start(
            batch: Sequence[Recording], decoded: list[Tensor | Fault]
        ) -> tuple[list[Tensor | Fault], "_Encoding"]:
            usable = [(r.row.name, w) for r, w in zip(batch, decoded, strict=True) if isinstance(w, Tensor)]
            encoding = self._start([waveform for _, waveform in usable], [name for name, _ in usable], "cpu")
            return decoded, encoding

        started = process_batches(batches, partial(decode, shortest=self.encoder.shortest), start, self.device)
        with closing(started):
            for decoded, encoding in delayed(started, prefetch_count(self.device, 1)):
                encoded = iter(encoding.finish())
                yield [next(encoded) if isinstance(waveform, Tensor) else waveform for waveform in decoded]

    def _as_stored(self, values: Tensor) -> Tensor:
        if self.directions is None:
            return values.to(PRECISIONS[self.config.precision])
        with autocast(self.device, self.config.compute):
            return self.directions.to(values.device).encode(values)

    def _overflow(self, values: Tensor) -> str:
        config, largest = self.config, float(values.abs().max())
        if math.isfinite(largest):
            return (
                f"a hidden state of {largest:g} does not fit {config.precision}; set features.precision to bf16 or fp32"
            )
        return f"hidden states computed in {config.compute} are not finite; set features.compute to bf16 or fp32"


@dataclass(frozen=True)
class _Encoding:
    """A batch that is being encoded, and copied from a GPU."""

    lengths: list[int]
    stored: Tensor  # (N, L, D) or (N, K): the frames of all waveforms
    finite: Tensor  # (N,)
    done: torch.cuda.Event | None
    problem: Callable[[int], str]  # the error message of a frame that is not finite

    def finish(self) -> list[Tensor]:
        """Wait for the results, check them, and return those of each waveform."""
        if self.done is not None:
            self.done.synchronize()
        if not bool(self.finite.all()):
            raise UserError(self.problem(int((~self.finite).int().argmax())))
        results = torch.split(self.stored, self.lengths)
        # The memory that a GPU copies to is scarce, and is reused for the next batch.
        return [result.clone() for result in results] if self.stored.is_pinned() else list(results)
