"""One training step, the evaluation of the development split, and the state that a checkpoint holds."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sclip import distributed
from sclip.config import TrainingConfig
from sclip.device import autocast, fp64, seed_generators
from sclip.errors import UserError, counted
from sclip.evaluation.retrieval import always_found
from sclip.features.dataset import Dataset
from sclip.heads.head import HeadOutput
from sclip.model.speechclip import SpeechCLIP
from sclip.objective import Losses
from sclip.training.batches import Batch, derived_seed
from sclip.training.curves import HistoryRow
from sclip.training.development import mean_recalls
from sclip.training.graphs import GraphedTextTower
from sclip.visual_words import VisualWords

SMALLEST_SCALE = 2.0**-16  # The scale of the loss in fp16 starts at 2 ** 16. Each overflow halves it.
SAVED = ("step", "seconds", "history", "pending_dev_row", "best")  # attributes of Trainer in a checkpoint


def learning_rate(step: int, training: TrainingConfig) -> float:
    """Return the learning rate of a step, as published. Step 0 is the first one, and its rate is above 0."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    decayed = (step + 1 - training.warmup_steps) / (training.steps - training.warmup_steps)
    return training.learning_rate + decayed * (training.final_learning_rate - training.learning_rate)


class Diverged(UserError):
    """Raised when numbers of a training step are not finite."""

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class Trainer:
    """Hold the state that training steps change: weights, optimizer, history and best weights."""

    def __init__(
        self,
        model: SpeechCLIP,
        training: TrainingConfig,
        seed: int,
        device: torch.device,
        visual_words: VisualWords | None = None,
    ):
        if training.precision == "fp16" and device.type == "cpu":
            raise UserError("training.precision: fp16 needs a GPU; on a CPU set it to fp32 or bf16")
        self.model, self.training, self.seed, self.device = model, training, seed, device
        self.trained = nn.ModuleDict({"head": model.head, "objective": model.objective}).to(device)
        self.text_tower = model.text_tower
        if self.text_tower is not None:
            self.text_tower.tower.to(device)
            if device.type == "cuda":
                self.text_tower = GraphedTextTower(self.text_tower)
        self.visual_words = None if visual_words is None else visual_words.to(device)
        self.parameters = list(self.trained.parameters())
        # One kernel updates all parameters on a GPU. On a CPU it would round differently.
        self.optimizer = torch.optim.Adam(
            self.parameters, training.learning_rate, weight_decay=training.weight_decay, fused=device.type == "cuda"
        )
        self.scaler = GradScaler(device.type, enabled=training.precision == "fp16")
        self.step = 0
        self.seconds = 0.0
        self.history: list[HistoryRow] = []
        self.pending_dev_row: HistoryRow | None = None  # row of the last step, if its dev evaluation is not finished
        self.best: dict[str, Any] = {"score": -1.0}
        # The first step in which each loss and each parameter's gradient was not finite, or 0. It stays on the device,
        # because reading it waits for the step.
        self.watched = [field.name for field in fields(Losses)] + [name for name, _ in self.trained.named_parameters()]
        self.failed_at = torch.zeros(len(self.watched), dtype=torch.long, device=device)
        self.zero = torch.zeros((), device=device)

    def train_step(self, batches: Sequence[Batch]) -> Callable[[], HistoryRow]:
        """Train one step, and return a function that computes the step's row of the history.

        Only some steps are logged, so the values are computed on demand. Losses are those of the last batch.
        """
        seed_generators(derived_seed(self.seed, "step", self.step) + distributed.rank(), self.device)
        self.trained.train()
        rate = learning_rate(self.step, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        losses_of_batches = []
        for batch in batches:
            losses, output = self._accumulate_gradients(batch)
            losses_of_batches.append(losses)
        distributed.average_([p.grad for p in self.parameters if p.grad is not None])
        self.scaler.unscale_(self.optimizer)
        norm, norms = self._clip_gradients()
        self._watch(losses_of_batches, norms)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return lambda: self._measurements(losses, output, norm, rate)

    def _accumulate_gradients(self, batch: Batch) -> tuple[Losses, HeadOutput]:
        """Add the gradients of one of the step's batches to the parameters' gradients.

        As published, the loss is divided by `accumulate` even if the step, at the end of an epoch, has fewer batches.
        """
        with autocast(self.device, self.training.precision):
            output = self.model.head(batch.states, self.text_tower, self.step)
            losses = self.model.objective(output, batch.images, batch.image_ids, self.visual_words)
        torch.autograd.backward(self.scaler.scale(losses.total / self.training.accumulate))
        return losses, output

    def _clip_gradients(self) -> tuple[Tensor, list[Tensor]]:
        """Clip the gradients as torch.nn.utils.clip_grad_norm_ does.

        Return their norm before clipping, and the norm of each parameter's gradient.
        """
        norms = torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None])
        norm = torch.linalg.vector_norm(torch.stack(norms))
        nn.utils.clip_grads_with_norm_(self.parameters, self.training.gradient_clip, norm)
        each = iter(norms)
        return norm, [self.zero if p.grad is None else next(each) for p in self.parameters]

    def _watch(self, losses_of_batches: Sequence[Losses], norms: Sequence[Tensor]) -> None:
        """Record which losses and which norms of gradients are not finite for the first time.

        In fp16 an overflow of gradients is usual: the scaler skips the step and lowers its scale.
        """
        # A sum of losses is not finite if one of them is not.
        values = [
            self.zero if of_batches[0] is None else reduce(operator.add, of_batches).detach().float()
            for of_batches in zip(*(vars(losses).values() for losses in losses_of_batches), strict=True)
        ]
        if not self.scaler.is_enabled():
            values += norms
        watched, stacked = self.failed_at[: len(values)], torch.stack(values)
        # The difference is NaN if the value is not finite. `isfinite` launches three more kernels on a GPU.
        failed = (stacked - stacked != 0) & (watched == 0)
        watched.masked_fill_(failed, self.step + 1)

    def check_finite(self) -> None:
        """Raise an error if a loss or a gradient was not finite. Wait for the last step."""
        steps = self.failed_at.tolist()
        first = min(filter(None, steps), default=0)
        if not first:
            self._check_scale()
            return
        names = [name for name, step in zip(self.watched, steps, strict=True) if step == first]
        losses = [name for name in names if name in self.watched[1 : -len(self.parameters)]]
        if names[0] == self.watched[0]:
            raise self._diverged(first, "the loss is not finite", f" ({', '.join(losses)})" if losses else "")
        others = f" (and those of {counted(len(names) - 1, 'other parameters')})" if names[1:] else ""
        raise self._diverged(first, f"the gradient of {names[0]} is not finite", others)

    def _check_scale(self) -> None:
        """Raise an error if the gradients overflow in fp16 again and again. Now and then is usual."""
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise self._diverged(self.step, f"gradients overflow, even with a loss scale of {SMALLEST_SCALE:g}")

    @torch.no_grad()
    def _measurements(self, losses: Losses, output: HeadOutput, norm: Tensor, rate: float) -> HistoryRow:
        self.check_finite()
        values = {f"loss/{name}": loss for name, loss in vars(losses).items() if loss is not None}
        values["gradient_norm"] = norm
        values["temperature"] = 1 / self.model.objective.log_scale.exp()
        if output.cif is not None:
            values["slots/found"] = fp64(output.cif.firing.slots.lengths).mean()
            values["slots/weight"] = fp64(output.cif.quantity).mean()
            values["slots/target"] = fp64(output.cif.target).mean()
        if output.keywords is not None and self.model.head.keywords is not None:
            perplexities = self.model.head.keywords.quantize.perplexities(output.keywords)
            values |= {f"keywords/{name}": perplexities[name] for name in ("code_perplexity", "prob_perplexity")}
        row = {"learning_rate": rate} | {name: float(value) for name, value in values.items()}
        # If fp16 overflows, the scaler skips the step and the norm is infinite, which JSON cannot represent.
        return {f"train/{name}": value for name, value in row.items() if math.isfinite(value)}

    def evaluate_dev(self, dataset: Dataset) -> dict[str, float]:
        """Return the mean R@10 on the development split by branch. Copy the weights if they are the best so far.

        With so few pictures that R@10 always finds the right one, the latest of equally good weights are the best.
        """
        dev_recalls = mean_recalls(self.model, dataset)
        if any(map(math.isnan, dev_recalls.values())):
            dataset.check_finite(torch.arange(len(dataset)))
            raise self._diverged(self.step, "vectors of the development split are not finite")
        score = dev_recalls[self.model.branches[0]]
        few = "R@10" in always_found(len(dataset.images))
        if score > self.best["score"] or (few and score == self.best["score"]):
            weights = {name: tensor.cpu().clone() for name, tensor in self.trained.state_dict().items()}
            self.best = {"score": score, "step": self.step, "dev": dev_recalls, "weights": weights}
        return dev_recalls

    def _diverged(self, step: int, problem: str, details: str = "") -> "Diverged":
        precision = self.training.precision
        fp32 = "" if precision == "fp32" else " or set training.precision to fp32"
        advice = f"try a lower training.learning_rate{fp32}"
        return Diverged(step, f"step {step}: {problem}, in {precision}{details}; {advice}")

    def state_dict(self) -> dict[str, Any]:
        self.check_finite()
        attributes = {name: getattr(self, name) for name in SAVED}
        modules = {name: getattr(self, name).state_dict() for name in ("trained", "optimizer", "scaler")}
        return attributes | modules

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in SAVED:
            setattr(self, name, state[name])
        # `fused` belongs to the device, and the checkpoint may come from another one.
        fused = self.optimizer.defaults["fused"]
        groups = [group | {"fused": fused} for group in state["optimizer"]["param_groups"]]
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
