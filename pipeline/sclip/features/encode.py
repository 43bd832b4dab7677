"""Encoding of recordings, in batches, to the hidden states or codes that are stored."""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sclip.concurrency import process_batches
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
    def hidden_states(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the hidden states of all waveforms' frames, concatenated (N, L, D), and their lengths (B,)."""
        with autocast(self.device, self.config.compute):
            output = self.encoder(list(waveforms))
        return output.values.transpose(1, 2)[output.valid], output.lengths

    @torch.no_grad()
    def encode(self, waveforms: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Return each waveform's states (T, L, D) or codes (T, K) in the stored precision. `names` are for errors."""
        if not waveforms:
            return []
        values, lengths = self.hidden_states(waveforms)
        stored = self._as_stored(values)
        finite = (values if stored.dtype == torch.int8 else stored).sum((1, 2), dtype=torch.float32).isfinite()
        if not bool(finite.all()):
            frame = int((~finite).int().argmax())
            name = names[int((lengths.cumsum(0) <= frame).sum())]
            raise UserError(f"{name}: {self._overflow(values[frame])}")
        return list(torch.split(stored, lengths.tolist()))

    def encode_recordings(self, batches: Iterable[Sequence[Recording]]) -> Generator[list[Tensor | Fault], None, None]:
        """Yield each batch as a list: for each recording its states or codes, on the CPU, or why it cannot be used."""

        def encode(batch: Sequence[Recording], decoded: Sequence[Tensor | Fault]) -> list[Tensor | Fault]:
            usable = [(r.row.name, w) for r, w in zip(batch, decoded, strict=True) if isinstance(w, Tensor)]
            encoded = iter(self.encode([waveform for _, waveform in usable], [name for name, _ in usable]))
            return [next(encoded).cpu() if isinstance(waveform, Tensor) else waveform for waveform in decoded]

        return process_batches(batches, partial(decode, shortest=self.encoder.shortest), encode, self.device)

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
