"""MFCCs in place of a speech encoder, as a baseline without pre-training.

There are 16 MFCCs (25 ms windows every 10 ms, 40 mel bands) with their first and second differences. Each is normalised
to zero mean and unit variance over the utterance. Two neighbouring frames of 10 ms form one of 20 ms. The frames of an
utterance do not depend on its batch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sclip.device import send
from sclip.encoders.audio import SAMPLE_RATE, too_short_reason
from sclip.encoders.source import Source
from sclip.errors import UserError, one_line
from sclip.fingerprints import module_fingerprint
from sclip.padded import Padded, valid_mask

NAME = "mfcc"
CONFIG_FILE = "mfcc.json"
WINDOW, HOP, STACKED, COEFFICIENTS, MELS = 400, 160, 2, 16, 40
CONFIG = {
    "version": 1,
    "window": WINDOW,
    "hop": HOP,
    "stacked": STACKED,
    "coefficients": COEFFICIENTS,
    "mels": MELS,
}


class MfccEncoder(nn.Module):
    states = 1
    width = STACKED * 3 * COEFFICIENTS
    frame_seconds = STACKED * HOP / SAMPLE_RATE
    shortest = WINDOW + (STACKED - 1) * HOP
    normalize_waveform = depends_on_loudness = False

    def __init__(self) -> None:
        super().__init__()
        self.source = Source(NAME)
        # Without log_mels, torchaudio clips decibels relative to the loudest frame of the batch.
        self.mfcc = torchaudio().transforms.MFCC(
            SAMPLE_RATE,
            COEFFICIENTS,
            log_mels=True,
            melkwargs={"n_fft": WINDOW, "hop_length": HOP, "n_mels": MELS, "center": False},
        )

    def frames(self, samples: Tensor) -> Tensor:
        """Return the number of frames of waveforms, given their numbers of samples."""
        return _short_frames(samples) // STACKED

    def forward(self, waveforms: Sequence[Tensor], states: Sequence[int] | None = None) -> Padded:
        """Encode 16 kHz waveforms (N,) -> (B, 1, T, D)."""
        for i, waveform in enumerate(waveforms):
            if len(waveform) < self.shortest:
                raise UserError(f"utterance {i}: {too_short_reason(len(waveform), self.shortest)}")
        device = self.mfcc.dct_mat.device
        samples = send(torch.tensor([len(waveform) for waveform in waveforms]), device)
        batch = send(pad_sequence([w.float() for w in waveforms], batch_first=True), device)  # (B, N)
        with torch.autocast(device.type, enabled=False):
            cepstra = self.mfcc(batch)  # (B, C, 10-ms frames)
            short = _short_frames(samples)
            slope = differences(cepstra, short)
            x = _normalized(torch.cat([cepstra, slope, differences(slope, short)], 1), short)
        frames = x.shape[2] // STACKED
        x = x[:, :, : frames * STACKED].transpose(1, 2).reshape(len(x), 1, frames, self.width)
        chosen = x if states is None else x[:, list(states)]
        return Padded(chosen, self.frames(samples))

    def fingerprint(self) -> str:
        """Return the SHA-256 of the constants; the filters computed from them may differ by machine in the last bit."""
        return module_fingerprint(nn.Module(), CONFIG)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def torchaudio() -> ModuleType:
    """Return the library that computes MFCCs, which nothing else needs: it may be missing, or not fit a newer torch."""
    try:
        import torchaudio
        import torchaudio.functional
        import torchaudio.transforms
    except Exception as error:  # it is not installed, or fails in some way with a torch that it was not built for
        raise UserError(
            f"MFCCs need torchaudio, which cannot be imported ({one_line(error)}); install torchaudio 2.11 and a torch "
            f"that it works with (found torch {torch.__version__}), or use another speech encoder"
        ) from None
    module: ModuleType = torchaudio
    return module


def _short_frames(samples: Tensor) -> Tensor:
    """Return the number of 10-ms frames of waveforms, given their numbers of samples."""
    return (samples - WINDOW) // HOP + 1


def differences(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the slope of a line through five frames: (B, C, T) -> (B, C, T). An utterance repeats its ends."""
    steps = torch.arange(-2, x.shape[2] + 2, device=x.device).clamp(min=0)
    at = torch.minimum(steps, lengths[:, None] - 1)  # (B, T + 4)
    padded = x.gather(2, at[:, None].expand(-1, x.shape[1], -1))
    return (2 * (padded[:, :, 4:] - padded[:, :, :-4]) + padded[:, :, 3:-1] - padded[:, :, 1:-3]) / 10


def _normalized(x: Tensor, lengths: Tensor) -> Tensor:
    """Normalise each coefficient over the utterance's own frames: (B, C, T) -> (B, C, T)."""
    valid, count = valid_mask(lengths, x.shape[2])[:, None], lengths[:, None, None]
    centred = (x - (x * valid).sum(2, keepdim=True) / count) * valid
    return centred / (centred.square().sum(2, keepdim=True) / count + 1e-5).sqrt()
