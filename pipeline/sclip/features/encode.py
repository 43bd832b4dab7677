"""Encoding of recordings, in batches, to the hidden states or codes that are stored."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sclip.concurrency import map_on_cores, prefetch, prefetch_count
from sclip.config import FeaturesConfig
from sclip.corpora.recordings import Decoded, Recording, decode, decode_all
from sclip.device import PRECISIONS, autocast, pin, send, weights_cast_once
from sclip.encoders.audio import SAMPLE_RATE
from sclip.errors import Fault, UserError
from sclip.features.codes import Directions
from sclip.padded import length_sorted_batches
from sclip.processes import prefetch_in_processes

if TYPE_CHECKING:
    from sclip.encoders.open import AnySpeechEncoder

CHECKED_SECONDS = 10  # of the recording whose hidden states are compared with fp32
LARGEST_ERROR = 0.2  # of a layer's hidden states; bf16 rounds them by about 0.01, and a wrong kernel by 0.25 to 1


def batches_by_length(recordings: Sequence[Recording], seconds: float) -> Iterator[list[Recording]]:
    """Yield batches of similar length, the longest first; a batch is at most `seconds` long, padding included."""
    samples = torch.tensor([recording.samples for recording in recordings])
    for batch in length_sorted_batches(samples, int(seconds * SAMPLE_RATE)):
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

    def check_precision(self, recordings: Iterable[Recording]) -> None:
        """Refuse to compute in a precision whose results on this device are not those of fp32, but for rounding.

        Some CPUs compute some convolutions wrongly in bf16, without an error. One recording is compared.
        """
        usable = next((recording for recording in recordings if recording.fault is None), None)
        if self.config.compute == "fp32" or usable is None:
            return
        decoded = decode(usable, self.encoder.shortest)
        if isinstance(decoded, Fault):
            return
        waveform = torch.from_numpy(decoded[: CHECKED_SECONDS * SAMPLE_RATE])
        with torch.no_grad():
            exact = self.encoder([waveform]).values  # (1, L, T, D)
            with autocast(self.device, self.config.compute):
                error = self.encoder([waveform]).values.float() - exact
        errors, sizes = (torch.linalg.vector_norm(states, dim=(0, 2, 3)) for states in (error, exact))  # (L,)
        largest, layer = (errors / sizes).max(0)
        if LARGEST_ERROR < float(largest) < math.inf:  # recordings with numbers that are not finite are named later
            raise UserError(
                f"{usable.row.name}: layer {int(layer)}: the hidden states that this device computes in "
                f"{self.config.compute} differ from those in fp32 by {float(largest):.0%}, and rounding explains a few "
                "percent; set features.compute to fp32"
            )

    def weights_cast_once(self) -> AbstractContextManager[None]:
        """Cast the encoder's weights to the precision of the computation, until the end of the context."""
        return weights_cast_once(self.encoder, self.device, self.config.compute)

    def encode(self, waveforms: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Return each waveform's states (T, L, D) or codes (T, K) in the stored precision. `names` are for errors."""
        results = self._start(waveforms, self.device).finish()
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Fault):
                raise UserError(f"{name}: {result.reason}")
        return [result for result in results if isinstance(result, Tensor)]

    @torch.no_grad()
    def _start(self, waveforms: Sequence[Tensor], target: str | torch.device) -> "_Encoding":
        """Encode waveforms and copy the results to `target`, without waiting for a GPU."""
        values, lengths = self.hidden_states(waveforms)
        stored = self._as_stored(values)
        # A frame's sum shows whether its states are finite. Codes are always finite, so there the states are summed.
        sums = (values if stored.dtype == torch.int8 else stored).sum((1, 2), dtype=torch.float32)
        copies = [tensor.to(target, non_blocking=stored.is_cuda) for tensor in (stored, sums.isfinite())]
        done = None
        if stored.is_cuda:
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # a waiting thread takes no core
            done.record(torch.cuda.current_stream(stored.device))
        return _Encoding(
            lengths, copies[0], copies[1], done, lambda start, length: self._overflow(values[start : start + length])
        )

    def encode_recordings(self, batches: Iterable[Sequence[Recording]]) -> Generator[list[Tensor | Fault], None, None]:
        """Yield each batch as a list: for each recording its states or codes, on the CPU, or why it cannot be used.

        While a GPU encodes a batch, processes decode the next ones, and threads pin the next one and wait for the
        results of the previous one.
        """
        device, decode_batch = torch.device(self.device), partial(decode_all, shortest=self.encoder.shortest)

        def pinned(decoded: Decoded) -> tuple[Tensor, list[int | Fault]]:
            return pin(torch.from_numpy(decoded.samples), device), decoded.results

        def start(batch: tuple[Tensor, list[int | Fault]]) -> tuple[list[int | Fault], "_Encoding | None"]:
            samples, results = batch
            lengths = [result for result in results if isinstance(result, int)]
            if not lengths:
                return results, None
            return results, self._start(torch.split(send(samples, device), lengths), "cpu")

        def finish(started: tuple[list[int | Fault], "_Encoding | None"]) -> list[Tensor | Fault]:
            results, encoding = started
            encoded = iter(encoding.finish() if encoding is not None else ())
            return [result if isinstance(result, Fault) else next(encoded) for result in results]

        if prefetch_count(device, 1):
            with (
                closing(prefetch_in_processes(decode_batch, batches)) as decoded,
                closing(prefetch(pinned, decoded, 1)) as ready,
            ):
                yield from prefetch(finish, map(start, ready), 1)
        else:
            with closing(map_on_cores(lambda batch: start(pinned(decode_batch(batch))), batches)) as started:
                yield from map(finish, started)

    def _as_stored(self, values: Tensor) -> Tensor:
        if self.directions is None:
            return values.to(PRECISIONS[self.config.precision])
        with autocast(self.device, self.config.compute):
            return self.directions.to(values.device).encode(values)

    def _overflow(self, values: Tensor) -> str:
        """Say which layer of an utterance's hidden states (T, L, D) does not fit, and why."""
        config, computed = self.config, values.isfinite().all(2).all(0)  # (L,)
        if not bool(computed.all()):
            layer = int((~computed).int().argmax())
            change = "features.compute to bf16 or fp32" if config.compute == "fp16" else "another speech encoder"
            return f"layer {layer}: hidden states computed in {config.compute} are not finite; set {change}"
        largest, layers = values.abs().amax((0, 2)).max(0)
        return (
            f"layer {int(layers)}: a hidden state of {float(largest):g} does not fit {config.precision}; "
            "set features.precision to bf16 or fp32"
        )


@dataclass(frozen=True)
class _Encoding:
    """A batch that is being encoded, and copied from a GPU."""

    lengths: list[int]
    stored: Tensor  # (N, L, D) or (N, K): the frames of all waveforms
    finite: Tensor  # (N,)
    done: torch.cuda.Event | None
    problem: Callable[[int, int], str]  # what is wrong with an utterance, by its first frame and its length

    def finish(self) -> list[Tensor | Fault]:
        """Wait for the results, and return those of each waveform, or why they are not finite."""
        if self.done is not None:
            self.done.synchronize()
        stored = self.stored
        if stored.is_pinned():  # the memory that a GPU copies to is scarce, and is reused for the next batch
            stored = torch.from_numpy(stored.view(torch.uint8).numpy().copy()).view(stored.dtype)
        results: list[Tensor | Fault] = []
        start = 0
        finite = self.finite.cpu().numpy()  # (N,): asking torch about every utterance would hold up the launches
        for states in torch.split(stored, self.lengths):
            end = start + len(states)
            results.append(states if finite[start:end].all() else Fault(self.problem(start, len(states))))
            start = end
        return results
