"""Training a head on kept frames and pictures' vectors: the published recipe, and runs that survive interruption.

- Adam, linear warm-up from 0, linear decay, gradients clipped by their norm
- only the head, the losses' temperature and CLIP's text tower are run; the speech encoder stays where it is
- **killed at any moment and started again, a run ends as if nothing had happened**, on a CPU bit for bit: whatever is
  random in a step follows from (seed, step), and everything else is in the checkpoint
- the weights that are kept are those with the best mean R@10 on the development split, by the utterance vector where
  there is one; of equals the earliest
"""

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from sclip import distributed
from sclip.concurrency import PREFETCHED_BATCHES, prefetch, prefetch_count
from sclip.config import TrainingConfig
from sclip.device import autocast
from sclip.errors import UserError
from sclip.features.dataset import Dataset
from sclip.files import atomic_folder
from sclip.fingerprints import TRAINING, code_fingerprint, module_fingerprint
from sclip.heads.head import HeadOutput
from sclip.model.speechclip import SpeechCLIP
from sclip.objective import Losses
from sclip.training.batches import Batch, TrainingBatches, derived_seed
from sclip.training.checkpoints import Checkpoint
from sclip.training.curves import HistoryRow, Log, curves
from sclip.training.development import mean_recalls
from sclip.training.interruption import Interrupted, Interruption, interruptions

log = logging.getLogger(__name__)

HISTORY_FILE = "history.json"
LOG_EVERY = 20  # steps
SAVE_EVERY = 60.0  # seconds
SAVED = ("step", "seconds", "history", "undeveloped", "best")  # of a Trainer


@dataclass(frozen=True)
class TrainingResult:
    step: int  # whose weights were kept
    dev: dict[str, float]  # their mean R@10 on the development split, by branch
    seconds: float  # of training, interruptions left out


def learning_rate(step: int, training: TrainingConfig) -> float:
    """Of the step with `step` others before it."""
    if step < training.warmup_steps:
        return training.learning_rate * step / training.warmup_steps
    decayed = (step - training.warmup_steps) / (training.steps - training.warmup_steps)
    return training.learning_rate + decayed * (training.final_learning_rate - training.learning_rate)


class Trainer:
    """What a step changes."""

    def __init__(self, model: SpeechCLIP, training: TrainingConfig, seed: int, device: torch.device):
        if training.precision == "fp16" and device.type == "cpu":
            raise UserError("training.precision: fp16 needs a GPU; a CPU trains in fp32 or bf16")
        self.model, self.training, self.seed, self.device = model, training, seed, device
        self.trained = nn.ModuleDict({"head": model.head, "objective": model.objective}).to(device)
        if model.text_tower is not None:
            model.text_tower.tower.to(device)
        self.parameters = list(self.trained.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, training.learning_rate, weight_decay=training.weight_decay)
        self.scaler = GradScaler(device.type, enabled=training.precision == "fp16")
        self.step = 0
        self.seconds = 0.0
        self.history: list[HistoryRow] = []
        self.undeveloped: HistoryRow | None = None  # of a step behind which the development split is still to be tried
        self.best: dict[str, Any] = {"score": -1.0}

    def train_step(self, batches: Sequence[Batch]) -> Callable[[], HistoryRow]:
        """Returns what measures the step (of several batches, the last), for those that are logged."""
        torch.manual_seed(derived_seed(self.seed, "step", self.step) + distributed.rank())
        self.trained.train()
        rate = learning_rate(self.step, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        for batch in batches:
            with autocast(self.device, self.training.precision):
                output = self.model.head(batch.states, self.model.text_tower, self.step)
                losses = self.model.objective(output, batch.images, batch.image_ids)
            if not bool(losses.total.isfinite()):
                raise self._diverged(f"step {self.step + 1}: the loss is {losses.total.item()}")
            torch.autograd.backward(self.scaler.scale(losses.total / len(batches)))
        distributed.average_([p.grad for p in self.parameters if p.grad is not None])
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.training.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return lambda: self._measured(losses, output, norm, rate)

    @torch.no_grad()
    def _measured(self, losses: Losses, output: HeadOutput, norm: Tensor, rate: float) -> HistoryRow:
        found = {f"loss/{name}": loss for name, loss in vars(losses).items() if loss is not None}
        found["gradient_norm"] = norm
        found["temperature"] = 1 / self.model.objective.log_scale.exp()
        if output.cif is not None:
            found["slots/found"] = output.cif.firing.slots.lengths.double().mean()
            found["slots/weight"] = output.cif.quantity.double().mean()
            found["slots/target"] = output.cif.target.double().mean()
        if output.keywords is not None and self.model.head.keywords is not None:
            used = self.model.head.keywords.quantize.perplexities(output.keywords)
            found |= {f"keywords/{name}": used[name] for name in ("code_perplexity", "prob_perplexity")}
        row = {"learning_rate": rate} | {name: float(value) for name, value in found.items()}
        # A norm is infinite where fp16 overflowed and the scaler left the step out; JSON has no word for it.
        return {f"train/{name}": value for name, value in row.items() if math.isfinite(value)}

    def develop(self, dataset: Dataset) -> dict[str, float]:
        """Looks at the development split, and keeps the weights if they are the best so far."""
        found = mean_recalls(self.model, dataset)
        if any(map(math.isnan, found.values())):
            raise self._diverged(f"step {self.step}: vectors of the development split are not finite")
        score = found["parallel"] if "parallel" in found else found["cascaded"]
        if score > self.best["score"]:
            weights = {name: tensor.cpu().clone() for name, tensor in self.trained.state_dict().items()}
            self.best = {"score": score, "step": self.step, "dev": found, "weights": weights}
        return found

    def _diverged(self, what: str) -> UserError:
        precision = self.training.precision
        fp32 = "" if precision == "fp32" else ", or training.precision fp32,"
        return UserError(f"{what}, in {precision}; a lower training.learning_rate{fp32} may help")

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in SAVED}
        parts = {name: getattr(self, name).state_dict() for name in ("trained", "optimizer", "scaler")}
        return own | parts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in SAVED:
            setattr(self, name, state[name])
        for name in ("trained", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(state[name])


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
    """Train what `model` begins with, and leave the best as a model folder `out`, its history inside.

    `scratch` holds the checkpoint of an unfinished run, and is gone at the end.
    """
    if len(train_set.images) < 2:
        raise UserError(
            f"split train: expected at least 2 pictures, found {len(train_set.images)}; "
            "the loss compares an utterance with the pictures of others"
        )
    device = torch.device(device)
    trainer = Trainer(model, training, seed, device)
    checkpoint = Checkpoint(scratch / "checkpoint.pt", _identity(train_set, dev_set, trainer))
    saved = checkpoint.load()
    if saved is not None:
        trainer.load_state_dict(saved)
        log.info(f"{model.name}: goes on from step {trainer.step} of {training.steps}")
    first = distributed.is_main()
    with (
        curves(curves_folder if first else None, trainer.history) as log_row,
        plain_attention(device),
        interruptions() as interruption,
    ):
        session = _Session(trainer, dev_set, checkpoint, log_row, interruption)
        try:
            session.run(train_set)
        except Interrupted:
            session.save()
            if first:
                log.info(f"{model.name}: stopped and saved at step {trainer.step}; run it again to resume")
            raise SystemExit(128 + int(interruption.signal or 0)) from None
    if first:
        _write(trainer, out, scratch)
    distributed.barrier()
    return TrainingResult(trainer.best["step"], trainer.best["dev"], trainer.seconds)


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """On a CPU torch's fused attention, its backward above all, is slower than the same in plain products; and these
    it works out in fp32 whatever the precision, unless told not to."""
    if device.type != "cpu":
        yield
        return
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)  # as it is by default


class _Session:
    """One call of `train`: it takes the steps that are left, logs them, and saves the trainer."""

    def __init__(
        self, trainer: Trainer, dev_set: Dataset, checkpoint: Checkpoint, log_row: Log, interruption: Interruption
    ):
        self.trainer, self.dev_set, self.checkpoint, self.log_row = trainer, dev_set, checkpoint, log_row
        self.interruption = interruption
        self.saved = self.timed_from = time.monotonic()
        self.timed_step = trainer.step
        self.started = self.saved - trainer.seconds

    def run(self, train_set: Dataset) -> None:
        """Raises Interrupted between two steps, or while the development split is tried, if a signal asks for it."""
        trainer, training = self.trainer, self.trainer.training
        batches = TrainingBatches(train_set, training, trainer.seed, pin=trainer.device.type == "cuda")
        each = training.accumulate
        with tqdm(
            total=training.steps, initial=trainer.step, desc=trainer.model.name, disable=distributed.bar_disabled()
        ) as bar:
            if trainer.undeveloped is not None:
                self.develop(trainer.undeveloped, bar)
            left = range(trainer.step * each, training.steps * each)
            read = prefetch(batches.read, left, prefetch_count(trainer.device, PREFETCHED_BATCHES))
            while trainer.step < training.steps:
                with self.interruption.may_interrupt():
                    step = [batch.to(trainer.device) for batch in islice(read, each)]
                measure = trainer.train_step(step)
                bar.update()
                develops = trainer.step % training.dev_every == 0 or trainer.step == training.steps
                if develops or trainer.step % LOG_EVERY == 0:
                    row: HistoryRow = {"step": trainer.step} | measure()
                    seconds = time.monotonic() - self.timed_from
                    row["train/steps_a_second"] = (trainer.step - self.timed_step) / seconds
                    self.develop(row, bar) if develops else self.record(row)
                if time.monotonic() - self.saved > SAVE_EVERY:
                    self.save()
                self.interruption.check(trainer.device)

    def develop(self, row: HistoryRow, bar: "tqdm[Any]") -> None:
        """Try the development split, and log it with `row`, what was measured of the step before."""
        self.trainer.undeveloped = row
        self.interruption.check(self.trainer.device)
        with self.interruption.may_interrupt():
            found = self.trainer.develop(self.dev_set)
        row = row | {f"dev/{branch}": recall for branch, recall in found.items()}
        _tell(bar, self.trainer.model.name, row)
        self.record(row)
        self.trainer.undeveloped = None
        self.save()

    def record(self, row: HistoryRow) -> None:
        self.trainer.history.append(row)
        self.log_row(row)
        self.timed_from, self.timed_step = time.monotonic(), self.trainer.step

    def save(self) -> None:
        self.trainer.seconds = time.monotonic() - self.started
        if distributed.is_main():
            self.checkpoint.save(self.trainer.state_dict())
        self.saved = time.monotonic()


def _tell(bar: "tqdm[Any]", name: str, row: HistoryRow) -> None:
    """On a terminal beside the bar, elsewhere as a line."""
    if not distributed.is_main():
        return
    recalls = {key.removeprefix("dev/"): f"{value:.2f}" for key, value in row.items() if key.startswith("dev/")}
    if bar.disable:
        shown = ", ".join(f"{branch} {recall}" for branch, recall in recalls.items())
        log.info(f"{name}: step {row['step']}: loss {row['train/loss/total']:.4f}, dev mean R@10 {shown}")
    else:
        bar.set_postfix(recalls)


def _identity(train_set: Dataset, dev_set: Dataset, trainer: Trainer) -> dict[str, Any]:
    """Everything that decides the result. Sums come out otherwise on other hardware or with other threads, as they
    would in any run; a training may move there."""
    model = trainer.model
    return {
        "architecture": dataclasses.asdict(model.architecture),
        "training": dataclasses.asdict(trainer.training),
        "seed": trainer.seed,
        "start": module_fingerprint(trainer.trained, {}),
        "clip": model.clip.fingerprint(),
        "vocabulary": None if model.vocabulary is None else model.vocabulary.ids,
        "data": [train_set.fingerprint(), dev_set.fingerprint()],
        "code": code_fingerprint(TRAINING),
        "torch": torch.__version__,
    }


def _write(trainer: Trainer, out: Path, scratch: Path) -> None:
    """Write the best weights and the history as a model folder, in place of an older one; delete the checkpoint."""
    trainer.trained.load_state_dict(trainer.best["weights"])
    with atomic_folder(out) as unfinished:
        trainer.model.save_pretrained(unfinished)
        lines = ",\n".join(json.dumps(row) for row in trainer.history)
        (unfinished / HISTORY_FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    shutil.rmtree(scratch)
