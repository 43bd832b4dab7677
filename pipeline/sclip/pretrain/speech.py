"""Pre-train mini-hubert, a small HuBERT of the scenes' speech with 50 frames per second.

The model has transformers' format and the layout of HuBERT base. It is pre-trained like HuBERT: spans of frames are
masked, and the model predicts the cluster of each masked frame. The clusters are those of MFCCs in the first round, and
those of the model's own hidden states in later rounds. Training uses no text, words or phones, and only voices and
pairs of things of the training split. Phones serve to measure the quality afterwards.

Two differences from HuBERT save time. Later rounds start from the weights of the previous round, not from random ones.
Utterances of similar length form a batch and are cut to the shortest, so there is no padding.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from sclip.config import MiniHubertConfig
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.mfcc import MfccEncoder, torchaudio
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.pretrain.clusters import assign, cluster, purity
from sclip.pretrain.progress import Progress
from sclip.pretrain.utterances import HOP, WINDOW, Utterance, speak_scenes

SAMPLE = 200_000  # frames that the clusters are computed from
MASK_SPAN, MASKED = 10, 0.5  # frames of a span; approximate share of masked frames
TEMPERATURE = 0.1
HELD_OUT = 400  # utterances of the test split, to measure the quality with


class Average:
    """A moving average over about the last hundred steps, which a checkpoint stores."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        self.value = 0.99 * self.value + 0.01 * value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


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
    quality: dict[str, Any] = {}
    minutes = 0.0
    for number, round_ in enumerate(config.rounds):
        features = _mfccs(utterances) if number == 0 else _features(_encoder(hubert), utterances, config.target_state)
        centres = cluster(torch.cat(features)[:: max(1, sum(map(len, features)) // SAMPLE)], round_.clusters)
        targets = [assign(f, centres) for f in features]
        hubert.train().requires_grad_(True)
        model = MaskedPrediction(hubert, round_.clusters).to(device)
        accuracy, seconds = _train(model, utterances, targets, config, number, scratch, device)
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
        num_attention_heads=config.width // 48,
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
    model: MaskedPrediction,
    utterances: list[Utterance],
    targets: list[Tensor],
    config: MiniHubertConfig,
    number: int,
    scratch: Path,
    device: torch.device,
) -> tuple[float, float]:
    """Train one round, and return the accuracy on masked frames and the seconds that it took."""
    steps = config.rounds[number].steps
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    accuracy = Average()
    parts = {"model": model, "optimizer": optimizer, "accuracy": accuracy}
    progress = Progress(scratch / f"hubert-{number + 1}.pt", {"config": repr(config)}, parts)
    by_length = np.argsort([len(u.samples) for u in utterances], kind="stable")
    for step in progress.steps(steps, f"mini-hubert, round {number + 1}"):
        random = np.random.default_rng([config.seed, 3, number, step])
        batch = _batch(utterances, targets, by_length, config.batch_seconds, random)
        samples, labels, masked = (x.to(device) for x in batch)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, steps, config.warmup_steps)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(samples, masked)
        loss = F.cross_entropy(logits.float(), labels[masked])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        accuracy.add(float((logits.detach().argmax(-1) == labels[masked]).float().mean()))
    return round(accuracy.value, 3), progress.seconds


def _batch(
    utterances: list[Utterance],
    targets: list[Tensor],
    by_length: NDArray[np.int64],
    seconds: float,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw utterances of similar length, cut to the shortest: samples (B, N), clusters (B, T) and mask (B, T)."""
    start = int(random.integers(len(utterances)))
    size = int(seconds * SAMPLE_RATE / len(utterances[by_length[start]].samples))
    size = min(max(2, size), len(utterances))
    start = min(start, len(utterances) - size)
    chosen = random.permutation(by_length[start : start + size])
    frames = min(len(targets[i]) for i in chosen)
    samples = np.stack([utterances[i].samples[: frames * 320 + 80] for i in chosen])
    masked = np.zeros((size, frames), bool)
    spans = max(1, round(-np.log(1 - MASKED) * frames / MASK_SPAN))
    starts = random.integers(0, max(1, frames - MASK_SPAN), (size, spans))
    masked[np.arange(size)[:, None, None], starts[..., None] + np.arange(min(MASK_SPAN, frames))] = True
    labels = torch.stack([targets[i][:frames] for i in chosen])
    return torch.from_numpy(samples).float() / 2**15, labels, torch.from_numpy(masked)


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate: it rises linearly during warm-up and then falls linearly to zero."""
    return min((step + 1) / warmup, (steps - step) / (steps - warmup))


def _mfccs(utterances: list[Utterance]) -> list[Tensor]:
    """Return MFCCs with differences (T, 39) of each utterance, minus their mean, for the same frames as HuBERT's.

    They are not divided by their deviations, unlike those of MfccEncoder. Large coefficients distinguish phones better
    than small ones, so the clusters are purer.
    """
    mels = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": 40, "center": False}
    audio = torchaudio()
    mfcc = audio.transforms.MFCC(SAMPLE_RATE, 13, log_mels=True, melkwargs=mels)
    features = []
    for utterance in utterances:
        cepstra = mfcc(torch.from_numpy(utterance.samples).float() / 2**15)  # (13, T)
        slope = audio.functional.compute_deltas(cepstra)
        frames = torch.cat([cepstra, slope, audio.functional.compute_deltas(slope)]).T
        features.append(frames - frames.mean(0))
    return features


@torch.no_grad()
def _features(encoder: Any, utterances: list[Utterance], state: int) -> list[Tensor]:
    """Return a hidden state (T, D) of each utterance, minus its mean, which removes some of the voice."""
    order = sorted(range(len(utterances)), key=lambda i: len(utterances[i].samples))
    features: dict[int, Tensor] = {}
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        hidden = encoder([torch.from_numpy(utterances[i].samples).float() / 2**15 for i in chosen], [state])
        for i, frames in zip(chosen, hidden, strict=True):
            features[i] = (frames[0] - frames[0].mean(0)).cpu()
    return [features[i] for i in range(len(utterances))]


def measure(encoder: SpeechEncoder, test_utterances: list[Utterance]) -> dict[str, float]:
    """Measure the phone purity of clusters of MFCCs and of each hidden state, for voices not used in training."""
    purities = {"phone purity, MFCC": _purity(MfccEncoder(), test_utterances, 0)}
    for state in range(encoder.states):
        purities[f"phone purity, state {state}"] = _purity(encoder, test_utterances, state)
    return purities


def _purity(encoder: Any, test_utterances: list[Utterance], state: int) -> float:
    features = _features(encoder, test_utterances, state)
    # The numbers of frames and of phones may differ at the end.
    counts = [min(len(f), len(u.phones)) for f, u in zip(features, test_utterances, strict=True)]
    frames = torch.cat([f[:n] for f, n in zip(features, counts, strict=True)])
    phones = torch.cat([u.phones[:n] for u, n in zip(test_utterances, counts, strict=True)])
    return round(purity(assign(frames, cluster(frames[::2], 100)), phones), 3)
