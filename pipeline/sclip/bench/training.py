"""A training step from the cache beside the same step on features that are on the device, and beside the published
way, where both frozen encoders run in every step."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sclip.bench.cases import Case, Row, Sizes, utterance_seconds
from sclip.bench.machine import Machine
from sclip.bench.timing import compare
from sclip.concurrency import PREFETCHED_BATCHES, prefetch, prefetch_count
from sclip.config import Experiment
from sclip.device import autocast
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.features.dataset import Dataset
from sclip.heads.vocabulary import Vocabulary
from sclip.model.speechclip import SpeechCLIP
from sclip.padded import Padded
from sclip.training.batches import Batch, TrainingBatches
from sclip.training.loop import Trainer, plain_attention

WORDS = 1000  # of the vocabulary
STEPS = 8  # a round; where encoders run in every step, it is one
ONLINE = "the speech encoder in every step"
PUBLISHED = "both encoders in every step"


def training_case(
    sizes: Sizes,
    experiment: Experiment,
    name: str,
    encoders: tuple[AnySpeechEncoder, ClipEncoder],
    kept: dict[str, Dataset],
    machine: Machine,
    device: torch.device,
) -> Case:
    """`kept`: the same corpus as states and as codes."""
    speech, clip = encoders
    trainer = Trainer(_model(name, experiment, speech, clip), experiment.training, 0, device)
    pin = device.type == "cuda"
    batches = {how: TrainingBatches(data, experiment.training, 0, pin) for how, data in kept.items()}
    there = {how: [found.read(i).to(device) for i in range(STEPS)] for how, found in batches.items()}
    waveforms, pictures = _raw(sizes, clip, device)

    def on_device(how: str) -> None:
        for batch in there[how]:
            trainer.train_step([batch])

    def from_cache(how: str) -> None:
        for batch in prefetch(batches[how].read, range(STEPS), prefetch_count(device, PREFETCHED_BATCHES)):
            trainer.train_step([batch.to(device)])

    vectors, ids = there["states"][0].images, torch.arange(len(pictures), device=device)

    def hear() -> Padded:
        with torch.no_grad(), autocast(device, experiment.training.precision):
            return speech(waveforms)

    def online() -> None:
        trainer.train_step([Batch(hear(), vectors, ids)])

    def published() -> None:
        with torch.no_grad(), autocast(device, experiment.training.precision):
            seen = F.normalize(clip.encode_image(pictures).float(), dim=-1)
        trainer.train_step([Batch(hear(), seen, ids)])

    alternatives: dict[str, Callable[[], object]] = {}
    for how in kept:
        alternatives[f"{how}, on the device"] = lambda how=how: on_device(how)  # type: ignore[misc]
        alternatives[f"{how}, from the cache"] = lambda how=how: from_cache(how)  # type: ignore[misc]
    alternatives |= {ONLINE: online, PUBLISHED: published}
    with plain_attention(device):
        found = compare(
            alternatives,
            device,
            rounds=3,
            parts=dict.fromkeys(alternatives, STEPS) | {ONLINE: 1.0, PUBLISHED: 1.0},
        )
        floors = {how: _floor(trainer, there[how][0], machine) for how in kept}
        shares = _operators(trainer, there["states"][:2], device)
    rows = [Row(timed, floor=floors.get(timed.name.partition(",")[0])) for timed in found]
    shape = tuple(there["states"][0].states.values.shape)
    return Case(
        f"training, {name}",
        f"One step of {name}, {experiment.training.precision}: states {shape}",
        rows,
        {"operators, %": shares},
    )


def _model(name: str, experiment: Experiment, speech: AnySpeechEncoder, clip: ClipEncoder) -> SpeechCLIP:
    torch.manual_seed(0)
    vocabulary = None
    if experiment.architecture.head.keywords is not None:
        ids = [0, clip.text_tower.start, clip.text_tower.end, *range(300, 300 + WORDS)]
        vocabulary = Vocabulary(tuple(ids), tuple(clip.piece(i) for i in ids), (0, 1, 2))
    return SpeechCLIP(name, experiment.architecture, speech, clip, vocabulary)


def _raw(sizes: Sizes, clip: ClipEncoder, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """A batch's recordings, and its pictures as CLIP takes them."""
    generator = torch.Generator().manual_seed(0)
    seconds = utterance_seconds(sizes, sizes.batch)
    size = clip.model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    waveforms = [(torch.randn(int(s * SAMPLE_RATE), generator=generator) / 10).to(device) for s in seconds]
    return waveforms, list(torch.randn(len(seconds), 3, height, width, generator=generator).to(device))


def _floor(trainer: Trainer, batch: Batch, machine: Machine) -> float:
    """Seconds: what is read once over the bandwidth, or the products over their rate, whichever is longer."""
    with FlopCounterMode(display=False) as counter:
        trainer.train_step([batch])
    rate = machine.fp32 if trainer.training.precision == "fp32" else machine.half
    return max(batch.states.values.nbytes / machine.bandwidth, counter.get_total_flops() / rate)


def _operators(trainer: Trainer, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Where a step's time goes: the operators' own, the longest first."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            trainer.train_step([batch])
    own = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    longest = sorted(own, key=lambda name: -own[name])[:8]
    return {name: round(100 * own[name] / sum(own.values()), 1) for name in longest}
