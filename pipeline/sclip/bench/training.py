"""Time a training step that reads stored features, as states and as codes, against other ways to get features.

In the other ways, the features are on the device already, the speech encoder computes them in every step, or both
frozen encoders run in every step, as published.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sclip.bench.cases import Case, Measurement, Workload, utterance_seconds
from sclip.bench.machine import Machine
from sclip.bench.models import random_model, random_visual_words
from sclip.bench.timing import compare
from sclip.concurrency import prefetch, prefetch_count
from sclip.config import Experiment
from sclip.device import autocast, plain_attention
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.convolutions import undo_speed_up
from sclip.encoders.open import AnySpeechEncoder
from sclip.features.dataset import Dataset
from sclip.padded import Padded
from sclip.training.batches import Batch, TrainingBatches
from sclip.training.trainer import Trainer

STEPS = 8  # per round; alternatives that run encoders in every step do one step per round
ONLINE = "the speech encoder in every step"
PUBLISHED = "both encoders in every step"


def training_case(
    workload: Workload,
    experiment: Experiment,
    name: str,
    encoders: tuple[AnySpeechEncoder, ClipEncoder],
    datasets: Mapping[str, Dataset],
    machine: Machine,
    device: torch.device,
) -> Case:
    """Time the training of one architecture. `datasets` holds the corpus as "states", as "codes" or as both."""
    model = random_model(name, experiment, *encoders)
    trainer = Trainer(model, experiment.training, 0, device, random_visual_words(model))
    pin = device.type == "cuda"
    stored = {form: data.with_pinned_batches(device) for form, data in datasets.items()}
    readers = {form: TrainingBatches(data, experiment.training, 0, pin) for form, data in stored.items()}
    batches = {form: [reader.read(i).to(device) for i in range(STEPS)] for form, reader in readers.items()}
    alternatives: dict[str, Callable[[], object]] = {}
    for form, reader in readers.items():
        alternatives[f"{form}, on the device"] = partial(_train_on, trainer, batches[form])
        alternatives[f"{form}, from the cache"] = partial(_train_from_store, trainer, reader, device)
        if device.type == "cuda":
            resident = TrainingBatches(datasets[form].on_device(device), experiment.training, 0, pin)
            alternatives[f"{form}, gathered on the device"] = partial(_train_from_store, trainer, resident, device)
    first_form, first = next(iter(batches.items()))
    alternatives |= _encoder_steps(trainer, encoders, workload, first[0].images, device)
    with plain_attention(device):
        times = compare(
            alternatives,
            device,
            rounds=3,
            parts=dict.fromkeys(alternatives, STEPS) | {ONLINE: 1.0, PUBLISHED: 1.0},
        )
        floors = {form: _floor(trainer, batches[form][0], machine) for form in datasets}
        shares = _operators(trainer, first[:2], device)
    rows = [Measurement(timed, floor=floors.get(timed.name.partition(",")[0])) for timed in times]
    shape = tuple(first[0].states.values.shape)
    return Case(
        f"training, {name}",
        f"One step of {name}, {experiment.training.precision}: {first_form} {shape}",
        rows,
        {"operators, %": shares},
    )


def _train_on(trainer: Trainer, batches: Sequence[Batch]) -> None:
    for batch in batches:
        trainer.train_step([batch])


def _train_from_store(trainer: Trainer, reader: TrainingBatches, device: torch.device) -> None:
    for batch in prefetch(reader.read, range(STEPS), prefetch_count(device, reader.dataset.prefetched_batches)):
        trainer.train_step([batch.to(device)])


def _encoder_steps(
    trainer: Trainer,
    encoders: tuple[AnySpeechEncoder, ClipEncoder],
    workload: Workload,
    vectors: Tensor,
    device: torch.device,
) -> dict[str, Callable[[], object]]:
    """Return the training steps that run one or both encoders. `vectors` are the images' if CLIP does not run."""
    speech, clip = encoders
    published_speech = copy.deepcopy(speech)
    undo_speed_up(published_speech)
    waveforms, pictures = _encoder_inputs(workload, clip, device)
    ids = torch.arange(len(pictures), device=device)

    def encode_speech(encoder: AnySpeechEncoder) -> Padded:
        with torch.no_grad(), autocast(device, trainer.training.precision):
            return encoder(waveforms)

    def online() -> None:
        trainer.train_step([Batch(encode_speech(speech), vectors, ids)])

    def published() -> None:
        with torch.no_grad(), autocast(device, trainer.training.precision):
            images = F.normalize(clip.encode_image(pictures).float(), dim=-1)
        trainer.train_step([Batch(encode_speech(published_speech), images, ids)])

    return {ONLINE: online, PUBLISHED: published}


def _encoder_inputs(workload: Workload, clip: ClipEncoder, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Draw the waveforms of a batch, and its pictures in the size that CLIP expects."""
    generator = torch.Generator().manual_seed(0)
    seconds = utterance_seconds(workload, workload.batch)
    size = clip.model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    waveforms = [(torch.randn(int(s * SAMPLE_RATE), generator=generator) / 10).to(device) for s in seconds]
    return waveforms, list(torch.randn(len(seconds), 3, height, width, generator=generator).to(device))


def _floor(trainer: Trainer, batch: Batch, machine: Machine) -> float:
    """Return the least possible seconds of a step: those to read the states once or those of its matrix products.

    The result is the larger of the two.
    """
    graphed, trainer.text_tower = trainer.text_tower, trainer.model.text_tower  # a graph hides its products
    with FlopCounterMode(display=False) as counter:
        trainer.train_step([batch])
    trainer.text_tower = graphed
    rate = machine.fp32 if trainer.training.precision == "fp32" else machine.half
    return max(batch.states.values.nbytes / machine.bandwidth, counter.get_total_flops() / rate)


def _operators(trainer: Trainer, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Return the share of a step's time, in %, of each of the eight slowest operators."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU], acc_events=True) as profiler:
        _train_on(trainer, batches)
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    longest = sorted(times, key=lambda name: -times[name])[:8]
    return {name: round(100 * times[name] / sum(times.values()), 1) for name in longest}
