"""Train a head on hidden states and picture vectors, in runs that can be interrupted and resumed.

- The optimizer is Adam, with linear warm-up, linear decay, and gradients clipped by their norm.
- A step runs the head, the losses and CLIP's text tower. It runs the speech encoder only if nothing is stored.
- **A run that is killed at any moment and started again gives the result of an uninterrupted run**, on a CPU bit for
  bit. Everything random in a step follows from (seed, step), and the checkpoint holds everything else.
- The trained model has the weights with the best mean R@10 on the development split. The score is that of the branch
  `parallel` if the head has one, otherwise of `cascaded`. If two steps have equal scores, the earlier one counts; if
  the split has so few pictures that R@10 always finds the right one, the later one counts.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sclip import distributed
from sclip.concurrency import prefetch, prefetch_count
from sclip.config import TrainingConfig
from sclip.device import plain_attention
from sclip.errors import UserError
from sclip.features.dataset import Dataset
from sclip.files import atomic_folder
from sclip.fingerprints import TRAINING, code_fingerprint, module_fingerprint, tensors_fingerprint
from sclip.model.speechclip import SpeechCLIP
from sclip.training.batches import Batch, TrainingBatches
from sclip.training.checkpoints import CHECKPOINT_FILE, Checkpoint
from sclip.training.curves import HistoryRow, Log, curves
from sclip.training.interruption import Interrupted, Interruption, interruptions
from sclip.training.trainer import Diverged, Trainer
from sclip.visual_words import VisualWords

log = logging.getLogger(__name__)

HISTORY_FILE = "history.json"
LOG_EVERY = 20  # steps
SAVE_EVERY = 60.0  # seconds
RESUME = "run the same command again to resume"


@dataclass(frozen=True)
class TrainingResult:
    step: int  # the step with the best weights
    dev: dict[str, float]  # mean R@10 of these weights on the development split, by branch
    seconds: float  # training time, without interruptions


def train(
    train_set: Dataset,
    dev_set: Dataset,
    model: SpeechCLIP,
    training: TrainingConfig,
    seed: int,
    device: str | torch.device,
    out: Path,
    scratch: Path,
    curves_folder: Path | None = None,
) -> TrainingResult:
    """Train `model`, and write its best weights and its history to the model folder `out`.

    The folder `scratch` holds the checkpoint of an unfinished run. It is deleted at the end, unless it also holds
    checkpoints of other trainings.
    """
    if len(train_set.images) < 2:
        raise UserError(
            f"split train: expected at least 2 pictures, found {len(train_set.images)}; "
            "add pictures, because the loss compares each utterance with the pictures of other utterances"
        )
    trainer = Trainer(model, training, seed, torch.device(device), open_visual_words(train_set, model))
    checkpoint = Checkpoint(scratch / CHECKPOINT_FILE, _identity(train_set, dev_set, trainer))
    state = checkpoint.load()
    if state is not None:
        trainer.load_state_dict(state)
        log.info(f"{model.name}: resumes from step {trainer.step} of {training.steps}")
    train_set, dev_set = train_set.on_device(trainer.device), dev_set.on_device(trainer.device)
    try:
        _run(trainer, train_set, dev_set, checkpoint, curves_folder)
        if distributed.is_main():
            _write_model_folder(trainer, out)
            checkpoint.delete()
    except OSError as error:  # such as that of a full disk
        raise OSError(error.errno, f"{error.strerror or error}; {RESUME}", error.filename) from None
    distributed.barrier()
    return TrainingResult(trainer.best["step"], trainer.best["dev"], trainer.seconds)


def open_visual_words(train_set: Dataset, model: SpeechCLIP) -> VisualWords | None:
    """Return the losses of visual words for the model's vocabulary, or None if both have a weight of 0."""
    objective = model.architecture.objective
    if not (objective.visual_words or objective.token_balance):
        return None
    assert model.vocabulary is not None
    assert train_set.tokens is not None  # the vocabulary comes from them
    return VisualWords(train_set.tokens, model.vocabulary)


def _run(
    trainer: Trainer, train_set: Dataset, dev_set: Dataset, checkpoint: Checkpoint, curves_folder: Path | None
) -> None:
    """Train the remaining steps. If a signal arrives, save a checkpoint and exit."""
    with (
        curves(curves_folder if distributed.is_main() else None, trainer.history) as log_row,
        plain_attention(trainer.device),
        interruptions() as interruption,
    ):
        session = _Session(trainer, dev_set, checkpoint, log_row, interruption)
        try:
            session.run(train_set)
        except Interrupted:
            session.save()
            if distributed.is_main():
                log.info(f"{trainer.model.name}: stopped and saved at step {trainer.step}; {RESUME}")
            raise SystemExit(128 + int(interruption.signal or 0)) from None


class _Session:
    """Run one call of `train`: train the remaining steps, log them, and save checkpoints."""

    def __init__(
        self, trainer: Trainer, dev_set: Dataset, checkpoint: Checkpoint, log_row: Log, interruption: Interruption
    ):
        self.trainer, self.dev_set, self.checkpoint, self.log_row = trainer, dev_set, checkpoint, log_row
        self.interruption = interruption
        self.saved_at = self.timed_from = time.monotonic()
        self.timed_step = trainer.step
        self.started_at = self.saved_at - trainer.seconds

    def run(self, train_set: Dataset) -> None:
        """Train until the last step. Raise Interrupted if a signal arrives, which loses no finished step."""
        trainer, steps = self.trainer, self.trainer.training.steps
        batches = TrainingBatches(train_set, trainer.training, trainer.seed, pin=trainer.device.type == "cuda")
        with tqdm(
            total=steps, initial=trainer.step, desc=trainer.model.name, disable=distributed.bar_disabled()
        ) as bar:
            if trainer.pending_dev_row is not None:
                self.evaluate_dev(trainer.pending_dev_row, bar)
            numbers = chain.from_iterable(map(batches.of_step, range(trainer.step, steps)))
            reader = prefetch(batches.read, numbers, prefetch_count(trainer.device, train_set.prefetched_batches))
            dev_every = trainer.training.dev_every or batches.steps_per_epoch
            try:
                while trainer.step < steps:
                    step_batches = islice(reader, len(batches.of_step(trainer.step)))
                    is_dev_step = (trainer.step + 1) % dev_every == 0 or trainer.step + 1 == steps
                    self.train_step(step_batches, is_dev_step, bar)
            except Diverged as error:
                for number in batches.of_step(error.step - 1):
                    train_set.check_finite(batches.indices(number))  # the cause may be an utterance
                raise

    def train_step(self, step_batches: Iterable[Batch], is_dev_step: bool, bar: "tqdm[Any]") -> None:
        """Train one step; then log it, evaluate and save a checkpoint if they are due."""
        trainer = self.trainer
        with self.interruption.may_interrupt():
            batches = [batch.to(trainer.device) for batch in step_batches]
        measure = trainer.train_step(batches)
        bar.update()
        if is_dev_step or trainer.step % LOG_EVERY == 0:
            row: HistoryRow = {"step": trainer.step} | measure()
            seconds = time.monotonic() - self.timed_from
            row["train/steps_a_second"] = (trainer.step - self.timed_step) / seconds
            self.evaluate_dev(row, bar) if is_dev_step else self.record(row)
        if time.monotonic() - self.saved_at > SAVE_EVERY:
            self.save()
        self.interruption.check()

    def evaluate_dev(self, row: HistoryRow, bar: "tqdm[Any]") -> None:
        """Evaluate the development split, and log the result with `row`, the measurements of the last step."""
        self.trainer.pending_dev_row = row
        self.interruption.check()
        with self.interruption.may_interrupt():
            dev_recalls = self.trainer.evaluate_dev(self.dev_set)
        row = row | {f"dev/{branch}": recall for branch, recall in dev_recalls.items()}
        _show_dev_recalls(bar, self.trainer.model.name, row)
        self.record(row)
        self.trainer.pending_dev_row = None
        self.save()

    def record(self, row: HistoryRow) -> None:
        self.trainer.history.append(row)
        self.log_row(row)
        self.timed_from, self.timed_step = time.monotonic(), self.trainer.step

    def save(self) -> None:
        self.trainer.seconds = time.monotonic() - self.started_at
        if distributed.is_main():
            self.checkpoint.save(self.trainer.state_dict())
        self.saved_at = time.monotonic()


def _show_dev_recalls(bar: "tqdm[Any]", name: str, row: HistoryRow) -> None:
    """Show the recalls in the progress bar, or log them if the bar is disabled."""
    if not distributed.is_main():
        return
    recalls = {key.removeprefix("dev/"): f"{value:.2f}" for key, value in row.items() if key.startswith("dev/")}
    if bar.disable:
        text = ", ".join(f"{branch} {recall}" for branch, recall in recalls.items())
        log.info(f"{name}: step {row['step']}: loss {row['train/loss/total']:.4f}, dev mean R@10 {text}")
    else:
        bar.set_postfix(recalls)


def _identity(train_set: Dataset, dev_set: Dataset, trainer: Trainer) -> dict[str, Any]:
    """Return everything that decides the result, as plain data.

    The device and the number of threads are left out. They change rounding, but a run may resume on another machine.
    """
    model, words = trainer.model, trainer.visual_words
    teacher = None if words is None else tensors_fingerprint(dict(words.named_buffers()), {"scale": words.scale})
    return {
        "architecture": dataclasses.asdict(model.architecture),
        "training": dataclasses.asdict(trainer.training),
        "seed": trainer.seed,
        "initial weights": module_fingerprint(trainer.trained, {}),
        "CLIP": model.clip.fingerprint(),
        "vocabulary": None if model.vocabulary is None else model.vocabulary.ids,
        "visual words": teacher,
        "data": [train_set.fingerprint(), dev_set.fingerprint()],
        "code": code_fingerprint(TRAINING),
        "version of torch": torch.__version__,
    }


def _write_model_folder(trainer: Trainer, out: Path) -> None:
    """Write the best weights and the history to a model folder, and replace an older folder."""
    trainer.trained.load_state_dict(trainer.best["weights"])
    with atomic_folder(out) as unfinished:
        trainer.model.save_pretrained(unfinished)
        lines = ",\n".join(json.dumps(row) for row in trainer.history)
        (unfinished / HISTORY_FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
