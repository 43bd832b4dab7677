"""Pre-train mini-hubert, a small HuBERT of the scenes' speech with 50 frames per second.

The model has transformers' format and the layout of HuBERT base. It is pre-trained like HuBERT: spans of frames are
masked, and the model predicts the cluster of each masked frame. The clusters are those of MFCCs in the first round, and
those of the model's own hidden states in later rounds. Training uses no text, words or phones, and only voices and
pairs of things of the training split. Phones serve to measure the quality afterwards.

Two differences from HuBERT save time. Later rounds start from the weights of the previous round, not from random ones.
Utterances of similar length form a batch and are cut to the shortest, so there is no padding.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import HubertConfig, HubertModel

from sclip.concurrency import chunks
from sclip.config import MiniHubertConfig
from sclip.config.pretraining import HUBERT_HEAD
from sclip.device import autocast
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.convolutions import avoid_wrong_convolutions
from sclip.encoders.mfcc import MfccEncoder, differences, torchaudio
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.pretrain.clusters import assign, cluster, purity
from sclip.pretrain.progress import Progress
from sclip.pretrain.utterances import HOP, WINDOW, Joined, Utterance, speak_scenes

SAMPLE = 200_000  # frames that the clusters are computed from
MASK_SPAN, MASKED = 10, 0.5  # frames of a span; approximate share of masked frames
TEMPERATURE = 0.1
UTTERANCES = 32  # whose features are computed together
HELD_OUT = 400  # utterances of the test split, to measure the quality with
PURITY_CLUSTERS = (100, 200, 500)


class Average:
    """A moving average over about the last hundred steps, which a checkpoint stores. It stays on the device."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.zeros((), device=device)

    def add(self, value: Tensor) -> None:
        self.value = 0.99 * self.value + 0.01 * value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"].to(self.value.device)


class MaskedPrediction(nn.Module):
    """HuBERT, and one trained vector per cluster to compare its frames with."""

    def __init__(self, hubert: HubertModel, clusters: int):
        super().__init__()
        width = hubert.config.hidden_size
        self.hubert, self.project = hubert, nn.Linear(width, width)
        self.codes = nn.Parameter(torch.randn(clusters, width))

    def forward(self, samples: Tensor, masked: Tensor) -> Tensor:
        """Return the logits of masked frames: samples (B, N), mask (B, T) -> (masked frames, clusters)."""
        frames = self.hubert(samples, mask_time_indices=masked).last_hidden_state[masked]
        return F.normalize(self.project(frames), dim=-1) @ F.normalize(self.codes, dim=-1).T / TEMPERATURE


def pretrain_speech(config: MiniHubertConfig, device: torch.device, out: Path, scratch: Path) -> dict[str, Any]:
    """Write the model as a transformers folder, and return the measurements for its card."""
    torch.manual_seed(config.seed)
    utterances = speak_scenes("train", config.utterances, config.voices, config.seed)
    test_utterances = speak_scenes("test", HELD_OUT, 20, config.seed)
    hubert = HubertModel(hubert_config(config)).to(device)
    avoid_wrong_convolutions(hubert)
    samples = Joined([torch.from_numpy(utterance.samples) for utterance in utterances], device)
    quality: dict[str, Any] = {}
    minutes = 0.0
    for number, round_ in enumerate(config.rounds):
        if number == 0:
            features = _mfccs(utterances, device)
        else:
            features = _features(_encoder(hubert), utterances, config.target_state)
        centres = cluster(torch.cat(features)[:: max(1, sum(map(len, features)) // SAMPLE)], round_.clusters)
        targets = Joined([assign(f, centres) for f in features], device)
        del features
        hubert.train().requires_grad_(True)
        model = MaskedPrediction(hubert, round_.clusters).to(device)
        accuracy, seconds = _train(model, samples, targets, config, number, scratch)
        minutes += seconds / 60
        quality[f"round {number + 1}: masked accuracy"] = accuracy
    encoder = _encoder(hubert)
    quality |= measure(encoder, test_utterances) | {"minutes": round(minutes, 1)}
    encoder.half().save(out)
    return quality


def _encoder(hubert: HubertModel) -> SpeechEncoder:
    """Return a copy of the model as an encoder in evaluation mode."""
    return SpeechEncoder(copy.deepcopy(hubert), Source("mini-hubert"))


def hubert_config(config: MiniHubertConfig) -> HubertConfig:
    """Return transformers' configuration of the model."""
    return HubertConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.width // HUBERT_HEAD,
        intermediate_size=4 * config.width,
        conv_dim=config.conv_channels,
        num_conv_pos_embeddings=64,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=MASKED,
        attn_implementation="eager",
    )


def _train(
    model: MaskedPrediction, samples: Joined, targets: Joined, config: MiniHubertConfig, number: int, scratch: Path
) -> tuple[float, float]:
    """Train one round, and return the accuracy on masked frames and the seconds that it took."""
    steps, device = config.rounds[number].steps, samples.values.device
    # One kernel updates all parameters on a GPU.
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
    accuracy = Average(device)
    parts = {"model": model, "optimizer": optimizer, "accuracy": accuracy}
    progress = Progress(scratch / f"hubert-{number + 1}.pt", {"config": repr(config)}, parts)
    by_length = np.argsort(samples.lengths, kind="stable")
    for step in progress.steps(steps, f"mini-hubert, round {number + 1}"):
        random = np.random.default_rng([config.seed, 3, number, step])
        waveforms, labels, masked = _batch(samples, targets, by_length, config.batch_seconds, random)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, steps, config.warmup_steps)
        with autocast(device, "bf16"):
            logits = model(waveforms, masked)
        loss = F.cross_entropy(logits.float(), labels[masked])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        accuracy.add((logits.detach().argmax(-1) == labels[masked]).float().mean())
    return round(float(accuracy.value), 3), progress.seconds


def _batch(
    samples: Joined, targets: Joined, by_length: NDArray[np.int64], seconds: float, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw utterances of similar length, cut to the shortest: waveforms (B, N), clusters (B, T) and mask (B, T)."""
    start, count = int(random.integers(len(by_length))), len(by_length)
    size = int(seconds * SAMPLE_RATE / samples.lengths[by_length[start]])
    size = min(max(2, size), count)
    start = min(start, count - size)
    chosen = by_length[start : start + size]
    frames = int(targets.lengths[chosen].min())
    masked = np.zeros((size, frames), bool)
    spans = max(1, round(-np.log(1 - MASKED) * frames / MASK_SPAN))
    starts = random.integers(0, max(1, frames - MASK_SPAN), (size, spans))
    masked[np.arange(size)[:, None, None], starts[..., None] + np.arange(min(MASK_SPAN, frames))] = True
    on_device = torch.from_numpy(chosen).to(samples.values.device)
    waveforms = samples.starts(on_device, frames * HOP + WINDOW - HOP).float() / 2**15
    return waveforms, targets.starts(on_device, frames), torch.from_numpy(masked).to(on_device.device)


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate: it rises linearly during warm-up and then falls linearly to zero."""
    return min((step + 1) / warmup, (steps - step) / (steps - warmup))


def _mfccs(utterances: list[Utterance], device: torch.device) -> list[Tensor]:
    """Return MFCCs with differences (T, 39) of each utterance, minus their mean, for the same frames as HuBERT's.

    They are not divided by their deviations, unlike those of MfccEncoder. Large coefficients distinguish phones better
    than small ones, so the clusters are purer.
    """
    mels = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": 40, "center": False}
    mfcc = torchaudio().transforms.MFCC(SAMPLE_RATE, 13, log_mels=True, melkwargs=mels).to(device)

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        frames = torch.tensor([(len(waveform) - WINDOW) // HOP + 1 for waveform in waveforms], device=device)
        cepstra = mfcc(pad_sequence(waveforms, batch_first=True).to(device))  # (B, 13, T)
        slope = differences(cepstra, frames)
        features = torch.cat([cepstra, slope, differences(slope, frames)], 1).transpose(1, 2)
        return [row[:count] for row, count in zip(features, frames.tolist(), strict=True)]

    return _centred(utterances, compute)


@torch.no_grad()
def _features(encoder: Any, utterances: list[Utterance], state: int) -> list[Tensor]:
    """Return a hidden state (T, D) of each utterance, minus its mean, which removes some of the voice."""

    def compute(waveforms: list[Tensor]) -> list[Tensor]:
        return [states[0] for states in encoder(waveforms, [state])]  # each (1, T, D)

    return _centred(utterances, compute)


def _centred(utterances: list[Utterance], compute: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Compute the features (T, D) of each utterance, minus their mean, in batches of similar length."""
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].samples))
    features: dict[int, Tensor] = {}
    for chosen in chunks(order, UTTERANCES):
        waveforms = [torch.from_numpy(utterances[i].samples).float() / 2**15 for i in chosen]
        for i, frames in zip(chosen, compute(waveforms), strict=True):
            features[i] = frames - frames.mean(0)
    return [features[i] for i in range(len(utterances))]


def measure(encoder: SpeechEncoder, test_utterances: list[Utterance]) -> dict[str, float]:
    """Measure the phone purity of clusters of MFCCs and of each hidden state, for voices not used in training.

    More clusters are purer, so the purity of the best state is also measured with the numbers that HuBERT's later
    rounds use.
    """
    sources: dict[str, tuple[Any, int]] = {"MFCC": (MfccEncoder().to(encoder.model.device), 0)}
    sources |= {f"state {state}": (encoder, state) for state in range(encoder.states)}
    few, *more = PURITY_CLUSTERS
    purities = {name: _purity(*source, test_utterances, few) for name, source in sources.items()}
    measured = {f"phone purity, {name}": purity for name, purity in purities.items()}
    best = max(purities, key=lambda name: purities[name])
    for clusters in more:
        for name in ("MFCC", best):
            measured[f"phone purity, {name}, {clusters} clusters"] = _purity(*sources[name], test_utterances, clusters)
    return measured


def _purity(encoder: Any, state: int, test_utterances: list[Utterance], clusters: int) -> float:
    features = _features(encoder, test_utterances, state)
    # The numbers of frames and of phones may differ at the end.
    counts = [min(len(f), len(u.phones)) for f, u in zip(features, test_utterances, strict=True)]
    frames = torch.cat([f[:n] for f, n in zip(features, counts, strict=True)])
    phones = torch.cat([u.phones[:n] for u, n in zip(test_utterances, counts, strict=True)])
    return round(purity(assign(frames, cluster(frames[::2], clusters)).cpu(), phones), 3)
