"""The program that test_distributed.py runs with and without torchrun: training steps, extraction and evaluation."""

import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from small import ARCHITECTURES, WITH_VISUAL_WORDS, model, speech_encoder
from stored_corpus import open_split

from sclip import distributed
from sclip.config import FeaturesConfig, TrainingConfig
from sclip.errors import Problems
from sclip.evaluation.evaluate import evaluate
from sclip.features import extract
from sclip.training.batches import TrainingBatches
from sclip.training.loop import open_visual_words, train
from sclip.training.trainer import Trainer

STEP = TrainingConfig(batch=16, crop_frames=40, precision="fp32", warmup_steps=0, learning_rate=1e-3, steps=2)
VARIANTS = {name: {} for name in (*ARCHITECTURES, *WITH_VISUAL_WORDS)} | {
    "cascaded-cif, padding counted": {"norm_counts_padding": True}
}


def train_two_steps(corpus: Path, variant: str) -> dict[str, torch.Tensor]:
    """Return the losses of two training steps, and the gradients and running statistics after the first.

    The second step has no gradients in the result. Where a gradient is zero but for rounding, such as that of a bias
    before a BatchNorm, Adam moves the parameter by the sign of the rounding. Dropout is off, because every process
    draws it differently.
    """
    arch, changes = variant.partition(",")[0], VARIANTS[variant]
    trained = model(arch)
    trained.head.attention.dropout = 0.0
    if changes:
        trained.head.keywords.norm.counts_padding = changes["norm_counts_padding"]
    data = open_split(corpus, "train")
    trainer = Trainer(trained, STEP, 0, torch.device("cpu"), open_visual_words(data, trained))
    batches = TrainingBatches(data, STEP, 0, pin=False)
    results = {"loss": torch.tensor(trainer.train_step([batches.read(0)])()["train/loss/total"])}
    for name, parameter in trainer.trained.named_parameters():
        if parameter.grad is not None:
            results[f"gradient {name}"] = parameter.grad.clone()
    results |= {name: buffer.clone() for name, buffer in trainer.trained.named_buffers() if "running" in name}
    return results | {"next loss": torch.tensor(trainer.train_step([batches.read(1)])()["train/loss/total"])}


def main(corpus: Path, manifest: Path, out: Path) -> None:
    torch.set_num_threads(1)
    extract.MEGABYTE = 15_000
    with distributed.process_group("cpu"):
        torch.manual_seed(0)
        config = FeaturesConfig(shard_megabytes=1, batch_seconds=1.0, components=60)
        problems = Problems(skip=True)
        extract.extract_features(speech_encoder(), config, manifest, out / "features", "cpu", problems)
        dropout, F.dropout = F.dropout, lambda x, *_, **__: x
        steps = {variant: train_two_steps(corpus, variant) for variant in VARIANTS}
        F.dropout = dropout
        datasets = open_split(corpus, "train"), open_split(corpus, "dev")
        training = dataclasses.replace(STEP, steps=4, dev_every=2)
        train(*datasets, model("hybrid-cif"), training, 0, "cpu", out / "model", out / "scratch")
        evaluate(model("hybrid-cif"), datasets[1], "cpu", out / "results")
        if distributed.is_main():
            torch.save({"steps": steps, "skipped": problems.skipped, "notes": problems.notes}, out / "steps.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
