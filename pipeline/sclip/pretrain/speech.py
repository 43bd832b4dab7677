"""mini-hubert: a small HuBERT of the scenes' speech, in transformers' format, base layout, 50 frames a second.

Pre-trained as HuBERT was: spans of frames are masked, and the cluster that each masked frame belongs to is predicted,
first clusters of MFCCs, then of the model's own hidden states. No text, no words, no phones come near it; phones only
measure it afterwards. Hears training's voices and training's pairs of things alone.

Two departures save time: later rounds go on from the weights of the one before (HuBERT starts anew), and batches are
of like length, cut to the shortest, so that nothing is padded.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MFCC
from transformers import HubertConfig, HubertModel

from sclip.config import MiniHubertConfig
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.mfcc import MfccEncoder
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.pretrain.clusters import assign, cluster, purity
from sclip.pretrain.progress import Progress
from sclip.pretrain.spoken import HOP, WINDOW, Utterance, speak_scenes

SAMPLE = 200_000  # frames that clusters are made from
MASK_SPAN, MASKED = 10, 0.5  # frames; about what share of all
TEMPERATURE = 0.1
HELD_OUT = 400  # utterances of the test's voices and pairs, to measure with


class Average:
    """Of the last hundred steps or so; part of a checkpoint."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        self.value = 0.99 * self.value + 0.01 * value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class MaskedPrediction(nn.Module):
    """HuBERT and a codebook: (B, N) samples, masks (B, T) -> (masked frames, clusters)"""

    def __init__(self, hubert: HubertModel, clusters: int):
        super().__init__()
        width = hubert.config.hidden_size
        self.hubert, self.project = hubert, nn.Linear(width, width)
        self.codes = nn.Parameter(torch.randn(clusters, width))

    def forward(self, samples: Tensor, masked: Tensor) -> Tensor:
        frames = self.hubert(samples, mask_time_indices=masked).last_hidden_state[masked]
        return F.normalize(self.project(frames), dim=-1) @ F.normalize(self.codes, dim=-1).T / TEMPERATURE


def pretrain_speech(config: MiniHubertConfig, device: torch.device, out: Path, scratch: Path) -> dict[str, Any]:
    """Writes a transformers folder; returns what the card says of its quality."""
    torch.manual_seed(config.seed)
    heard = speak_scenes("train", config.utterances, config.voices, config.seed)
    tested = speak_scenes("test", HELD_OUT, 20, config.seed)
    hubert = HubertModel(hubert_config(config)).to(device)
    quality: dict[str, Any] = {}
    minutes = 0.0
    for number, round_ in enumerate(config.rounds):
        features = _cepstra(heard) if number == 0 else _features(_encoder(hubert), heard, config.taught_by)
        centres = cluster(torch.cat(features)[:: max(1, sum(map(len, features)) // SAMPLE)], round_.clusters)
        targets = [assign(f, centres) for f in features]
        hubert.train().requires_grad_(True)
        model = MaskedPrediction(hubert, round_.clusters).to(device)
        accuracy, seconds = _train(model, heard, targets, config, number, scratch, device)
        minutes += seconds / 60
        quality[f"round {number + 1}: masked accuracy"] = accuracy
    encoder = _encoder(hubert)
    quality |= measure(encoder, tested) | {"minutes": round(minutes, 1)}
    encoder.half().save(out)
    return quality


def _encoder(hubert: HubertModel) -> SpeechEncoder:
    """As it is now, in evaluation."""
    return SpeechEncoder(copy.deepcopy(hubert), Source("mini-hubert"))


def hubert_config(config: MiniHubertConfig) -> HubertConfig:
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
    heard: list[Utterance],
    targets: list[Tensor],
    config: MiniHubertConfig,
    number: int,
    scratch: Path,
    device: torch.device,
) -> tuple[float, float]:
    steps = config.rounds[number].steps
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    accuracy = Average()
    parts = {"model": model, "optimizer": optimizer, "accuracy": accuracy}
    progress = Progress(scratch / f"hubert-{number + 1}.pt", {"config": repr(config)}, parts)
    by_length = np.argsort([len(u.samples) for u in heard], kind="stable")
    for step in progress.steps(steps, f"mini-hubert, round {number + 1}"):
        random = np.random.default_rng([config.seed, 3, number, step])
        batch = _batch(heard, targets, by_length, config.batch_seconds, random)
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
    heard: list[Utterance],
    targets: list[Tensor],
    by_length: NDArray[np.int64],
    seconds: float,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours in length, cut to the shortest: samples (B, N), clusters (B, T), masks (B, T)"""
    start = int(random.integers(len(heard)))
    size = int(seconds * SAMPLE_RATE / len(heard[by_length[start]].samples))
    size = min(max(2, size), len(heard))
    start = min(start, len(heard) - size)
    chosen = random.permutation(by_length[start : start + size])
    frames = min(len(targets[i]) for i in chosen)
    samples = np.stack([heard[i].samples[: frames * 320 + 80] for i in chosen])
    masked = np.zeros((size, frames), bool)
    spans = max(1, round(-np.log(1 - MASKED) * frames / MASK_SPAN))
    starts = random.integers(0, max(1, frames - MASK_SPAN), (size, spans))
    masked[np.arange(size)[:, None, None], starts[..., None] + np.arange(min(MASK_SPAN, frames))] = True
    labels = torch.stack([targets[i][:frames] for i in chosen])
    return torch.from_numpy(samples).float() / 2**15, labels, torch.from_numpy(masked)


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Linear up, linear down"""
    return min((step + 1) / warmup, (steps - step) / (steps - warmup))


def _cepstra(heard: list[Utterance]) -> list[Tensor]:
    """(T, 39) an utterance, its mean taken off: MFCCs with differences, for frames where HuBERT's are. Unlike what
    MfccEncoder gives to heads, not divided by deviations: loud coefficients tell phones apart better than faint ones,
    and clusters are purer."""
    mels = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": 40, "center": False}
    mfcc = MFCC(SAMPLE_RATE, 13, log_mels=True, melkwargs=mels)
    found = []
    for utterance in heard:
        cepstra = mfcc(torch.from_numpy(utterance.samples).float() / 2**15)  # (13, T)
        slope = compute_deltas(cepstra)
        frames = torch.cat([cepstra, slope, compute_deltas(slope)]).T
        found.append(frames - frames.mean(0))
    return found


@torch.no_grad()
def _features(encoder: Any, heard: list[Utterance], state: int) -> list[Tensor]:
    """(T, D) an utterance, its mean taken off: what stays is less of the voice"""
    order = sorted(range(len(heard)), key=lambda i: len(heard[i].samples))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        hidden = encoder([torch.from_numpy(heard[i].samples).float() / 2**15 for i in chosen], [state])
        for i, frames in zip(chosen, hidden, strict=True):
            found[i] = (frames[0] - frames[0].mean(0)).cpu()
    return [found[i] for i in range(len(heard))]


def measure(encoder: SpeechEncoder, tested: list[Utterance]) -> dict[str, float]:
    """How pure clusters of each hidden state are in phones, beside those of MFCCs, for voices never heard."""
    found = {"phone purity, MFCC": _purity(MfccEncoder(), tested, 0)}
    for state in range(encoder.states):
        found[f"phone purity, state {state}"] = _purity(encoder, tested, state)
    return found


def _purity(encoder: Any, tested: list[Utterance], state: int) -> float:
    features = _features(encoder, tested, state)
    counts = [min(len(f), len(u.phones)) for f, u in zip(features, tested, strict=True)]  # the last may be cut short
    frames = torch.cat([f[:n] for f, n in zip(features, counts, strict=True)])
    phones = torch.cat([u.phones[:n] for u, n in zip(tested, counts, strict=True)])
    return round(purity(assign(frames, cluster(frames[::2], 100)), phones), 3)
