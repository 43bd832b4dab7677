"""Batches of recordings through the speech encoder, to what is kept of them."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sclip.ahead import ABREAST, computed
from sclip.coded import Directions
from sclip.config import FeaturesConfig
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.open import AnySpeechEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError
from sclip.features.compute import precision
from sclip.features.recordings import Recording, hear
from sclip.features.store import PRECISIONS
from sclip.padded import even_batches

Made = TypeVar("Made")


def batches_of(recordings: Sequence[Recording], seconds: float) -> Iterator[list[Recording]]:
    """Of like length, the longest first."""
    samples = torch.tensor([recording.samples for recording in recordings])
    for batch in even_batches(samples, int(seconds * SAMPLE_RATE)):
        yield [recordings[i] for i in batch.tolist()]


@dataclass(frozen=True)
class Listener:
    encoder: AnySpeechEncoder
    directions: Directions | None  # where codes are kept instead of states
    config: FeaturesConfig
    device: str | torch.device

    def __post_init__(self) -> None:
        if self.config.compile:
            if not isinstance(self.encoder, SpeechEncoder):
                raise UserError(f"features.compile: speech encoder {self.encoder.source.name} has no blocks to compile")
            self.encoder.compile_blocks()

    def computed(
        self,
        batches: Iterable[Sequence[Recording]],
        compute: Callable[[Sequence[Recording], Sequence[Tensor | str]], Made],
    ) -> Generator[Made, None, None]:
        """What `compute` makes of each batch and of its waveforms, or of what is wrong with them."""
        read = partial(hear, shortest=self.encoder.shortest)
        # Compiled blocks stay in this thread: transformers does not tell threads' states apart in them, and where a
        # thread that compiled has ended, torch 2.11 crashes in the next backward pass.
        return computed(batches, read, compute, self.device, 1 if self.config.compile else ABREAST)

    @torch.no_grad()
    def states(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """All frames' hidden states (N, L, D), and how many are of each waveform (B,)"""
        with precision(self.device, self.config.compute):
            output = self.encoder(list(waveforms))
        return output.values.transpose(1, 2)[output.valid], output.lengths

    @torch.no_grad()
    def each(self, waveforms: Mapping[str, Tensor], to: str | torch.device | None = None) -> dict[str, Tensor]:
        """By name: (T, L, D) or codes (T, K), as they are kept. `to`: where, if not where they were computed."""
        if not waveforms:
            return {}
        values, lengths = self.states(list(waveforms.values()))
        kept = self._kept(values)
        finite = (values if kept.dtype == torch.int8 else kept).sum((1, 2), dtype=torch.float32).isfinite()
        if not bool(finite.all()):
            frame = int((~finite).int().argmax())
            name = list(waveforms)[int((lengths.cumsum(0) <= frame).sum())]
            raise UserError(f"{name}: {self._overflow(values[frame])}")
        return dict(zip(waveforms, torch.split(kept.to(to or kept.device), lengths.tolist()), strict=True))

    def _kept(self, values: Tensor) -> Tensor:
        if self.directions is None:
            return values.to(PRECISIONS[self.config.precision])
        with precision(self.device, self.config.compute):
            return self.directions.to(values.device).encode(values)

    def _overflow(self, values: Tensor) -> str:
        config, largest = self.config, float(values.abs().max())
        if math.isfinite(largest):
            kept = config.precision
            return f"a hidden state of {largest:g} does not fit {kept}; set features.precision to bf16 or fp32"
        return f"hidden states computed in {config.compute} are not finite; set features.compute to bf16 or fp32"
