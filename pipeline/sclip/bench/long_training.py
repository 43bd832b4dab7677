"""Time whole trainings on frames that are on the device already: reading, steps, logging and evaluations.

A few steps are timed, and the duration of all steps of the preset is computed from them.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import FRAMES_PER_SECOND, Case, Measurement, Workload, utterance_seconds
from sclip.bench.models import random_model, random_visual_words
from sclip.bench.stored import random_directions
from sclip.bench.timing import Timed, compare
from sclip.concurrency import prefetch, prefetch_count
from sclip.config import Params
from sclip.corpora.rows import Row
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.features.dataset import Dataset
from sclip.features.resident import ResidentStore
from sclip.features.store import CODES
from sclip.training.batches import TrainingBatches
from sclip.training.loop import LOG_EVERY
from sclip.training.trainer import Trainer

STEPS = 2 * LOG_EVERY  # per round
CAPTIONS = 5  # per picture


def long_training_case(
    params: Params, workload: Workload, speech: AnySpeechEncoder, clip: ClipEncoder, device: torch.device
) -> Case:
    """Time the training of each architecture of the workload's preset."""
    train_set, dev_set = (
        random_resident_dataset(workload, count, speech, clip.joint_width, device)
        for count in (workload.utterances, workload.utterances // 6)
    )
    alternatives: dict[str, Callable[[], object]] = {}
    evaluations: dict[str, int] = {}
    steps: dict[str, int] = {}
    for arch in params.experiments[workload.preset]:
        experiment = params.experiment(workload.preset, arch)
        model = random_model(arch, experiment, speech, clip)
        trainer = Trainer(model, experiment.training, 0, device, random_visual_words(model))
        batches = TrainingBatches(train_set, experiment.training, 0, pin=device.type == "cuda")
        alternatives[arch] = partial(_train, trainer, batches)
        alternatives[f"{arch}, evaluation"] = partial(trainer.evaluate_dev, dev_set)
        steps[arch] = experiment.training.steps
        evaluations[arch] = math.ceil(steps[arch] / (experiment.training.dev_every or batches.steps_per_epoch))
    times = compare(alternatives, device, rounds=3, parts=dict.fromkeys(steps, STEPS))
    seconds = {timed.name: timed.seconds for timed in times}
    minutes = {
        arch: round((steps[arch] * seconds[arch] + evaluations[arch] * seconds[f"{arch}, evaluation"]) / 60, 1)
        for arch in steps
    }
    return Case(
        "long-training",
        f"A step, and an evaluation of {len(dev_set):,} utterances; {len(train_set):,} utterances on the device",
        [Measurement(timed, _rate(timed)) for timed in times],
        {
            f"minutes of {arch}, {steps[arch]:,} steps and {evaluations[arch]} evaluations": minutes[arch]
            for arch in steps
        },
    )


def _rate(timed: Timed) -> str:
    return "" if "evaluation" in timed.name else f"{1 / timed.seconds:,.0f} steps a second"


def _train(trainer: Trainer, batches: TrainingBatches) -> None:
    """Run STEPS steps as the training loop does."""
    reader = prefetch(batches.read, range(STEPS), prefetch_count(trainer.device, batches.dataset.prefetched_batches))
    for i, batch in enumerate(reader, 1):
        measure = trainer.train_step([batch.to(trainer.device)])
        if i % LOG_EVERY == 0:
            measure()


def random_resident_dataset(
    workload: Workload, count: int, speech: AnySpeechEncoder, joint: int, device: torch.device
) -> Dataset:
    """Return a dataset of `count` utterances with random codes on the device."""
    lengths = torch.tensor([int(s * FRAMES_PER_SECOND) for s in utterance_seconds(workload, count)])
    features = {
        "states": speech.states,
        "width": speech.width,
        "components": workload.components,
        "precision": CODES,
        "frame_seconds": 1 / FRAMES_PER_SECOND,
    }
    codes = torch.empty(int(lengths.sum()), workload.components, dtype=torch.int8, device=device).random_(-60, 60)
    store = ResidentStore(features, codes, lengths, random_directions(speech, workload.components))
    pictures = math.ceil(count / CAPTIONS)
    images: Tensor = F.normalize(torch.randn(pictures, joint, generator=torch.Generator().manual_seed(0)), dim=-1)
    return Dataset(
        rows=[Row("", "train", Path(), Path(), "")] * count,
        frames=lengths,
        images=images,
        image_index=torch.arange(count) // CAPTIONS,
        captioned=torch.empty(0, dtype=torch.long),
        captions=images[:0],
        store=store,
        store_rows=torch.arange(count),
        index="",
        clip={},
        tokens=None,
    )
