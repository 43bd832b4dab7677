"""The two kinds of input of speech encoders: how it is computed from waveforms, and how many frames result.

`WaveformInput` is that of the wav2vec 2.0 family, whose own convolutions read the samples. `LogMelInput` is that of
W2V-BERT 2.0, which reads log-mel filter banks like those of Kaldi. Its numbers are those of transformers'
SeamlessM4TFeatureExtractor, whose loop over frames is in Python.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

from sclip.device import fp64
from sclip.encoders.audio import SAMPLE_RATE
from sclip.padded import Padded, valid_mask

WINDOW, HOP = 400, 160  # samples: a window of 25 ms every 10 ms
STACKED = 2  # windows that make one frame of the encoder
MELS = 80  # bands
FFT = 512
FULL_SCALE, PREEMPHASIS = 2.0**15, 0.97  # Kaldi's
FLOOR = 1.192092955078125e-07  # of a band's energy
LEAST_VARIANCE = 1e-7


class Inputs(NamedTuple):
    """Hold what the model of an encoder is called with, for one batch."""

    arguments: dict[str, Tensor]
    lengths: Tensor  # (B,): frames
    first_lengths: list[int]  # (B,): frames after the first convolution; empty for W2V-BERT, which has none


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many samples the convolutions make one frame of."""
    samples = 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples


class WaveformInput:
    """Samples, padded. With `normalize` each utterance is first brought to zero mean and unit variance."""

    def __init__(self, model: Any, normalize: bool):
        self.model, self.normalize = model, normalize
        self.frame_seconds = math.prod(model.config.conv_stride) / SAMPLE_RATE

    @property
    def shortest(self) -> int:
        """Return how many samples make one frame: the receptive field of the convolutions."""
        return receptive_field(self.model.config.conv_kernel, self.model.config.conv_stride)

    def frames(self, samples: Tensor) -> Tensor:
        """Return the number of frames of waveforms, given their numbers of samples."""
        return self.model._get_feat_extract_output_lengths(samples)

    def __call__(self, waveforms: Sequence[Tensor], samples: Tensor) -> Inputs:
        """Pad waveforms (N,) whose lengths are `samples` (B,)."""
        if self.normalize:
            # layer_norm adds 1e-5 to the variance, as in the encoders' training. This matters for quiet recordings.
            waveforms = [F.layer_norm(w, w.shape) for w in waveforms]
        batch = pad_sequence(list(waveforms), batch_first=True)  # (B, N)
        mask = valid_mask(samples, batch.shape[1]).long()
        kernel, stride = self.model.config.conv_kernel[0], self.model.config.conv_stride[0]
        first_lengths = [(len(w) - kernel) // stride + 1 for w in waveforms]
        return Inputs({"input_values": batch, "attention_mask": mask}, self.frames(samples), first_lengths)

    def extractor(self) -> Any:
        """Return transformers' feature extractor for the same input."""
        return Wav2Vec2FeatureExtractor(do_normalize=self.normalize, return_attention_mask=True)


class LogMelInput:
    """Log-mel filter banks, each band of zero mean and unit variance over the utterance, two frames of 10 ms in one."""

    normalize = False  # loudness does not reach the encoder, because each band is normalised
    frame_seconds = STACKED * HOP / SAMPLE_RATE
    shortest = WINDOW + (STACKED - 1) * HOP

    def __init__(self) -> None:
        extractor = self.extractor()
        window = torch.from_numpy(extractor.window)  # (WINDOW,)
        filters = torch.from_numpy(extractor.mel_filters)  # (FFT // 2 + 1, MELS)
        self._constants = {torch.device("cpu"): (window.double(), filters.double())}

    def frames(self, samples: Tensor) -> Tensor:
        """Return the number of frames of waveforms, given their numbers of samples."""
        return ((samples - WINDOW) // HOP + 1) // STACKED

    def __call__(self, waveforms: Sequence[Tensor], samples: Tensor) -> Inputs:
        """Compute the features of waveforms (N,) whose lengths are `samples` (B,), one after the other, and pad them.

        So an utterance's features do not depend on its batch.
        """
        features = Padded.stack([self.features(waveform) for waveform in waveforms])  # (B, T, STACKED * MELS)
        mask = features.valid.long()
        return Inputs({"input_features": features.values, "attention_mask": mask}, features.lengths, [])

    def features(self, waveform: Tensor) -> Tensor:
        """Compute the features of one waveform: (N,) -> (T, STACKED * MELS)."""
        with torch.autocast(waveform.device.type, enabled=False):
            # In fp64, because a quiet band lies beside one that is a million times as loud.
            frames = fp64(waveform).unfold(0, WINDOW, HOP) * FULL_SCALE  # (frames of 10 ms, WINDOW)
            frames = frames - frames.mean(1, keepdim=True)
            before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
            window, filters = self._constants_on(frames.device)
            frames = (frames - PREEMPHASIS * before) * window
            power = torch.fft.rfft(frames, FFT).abs().square()
            bands = (power @ filters).clamp(min=FLOOR).log()  # (frames of 10 ms, MELS)
            bands = (bands - bands.mean(0)) / (bands.var(0) + LEAST_VARIANCE).sqrt()
        count = len(bands) // STACKED
        return bands[: count * STACKED].reshape(count, -1).float().to(waveform.device)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the window and the filters on a device. They are copied to it once, because the copy waits for it."""
        if device not in self._constants:
            window, filters = self._constants[torch.device("cpu")]
            self._constants[device] = (window.to(device), filters.to(device))
        return self._constants[device]

    def extractor(self) -> Any:
        """Return transformers' feature extractor for the same input."""
        return SeamlessM4TFeatureExtractor(
            feature_size=MELS, sampling_rate=SAMPLE_RATE, num_mel_bins=MELS, stride=STACKED, padding_value=0.0
        )
