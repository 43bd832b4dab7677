"""What test_processes.py starts, alone and under torchrun: steps of every architecture, extraction, evaluation."""

import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from small import ARCHITECTURES, model, speech_encoder
from stored_corpus import open_split as opened

from sclip import distributed
from sclip.config import FeaturesConfig, TrainingConfig
from sclip.errors import Problems
from sclip.evaluation.evaluate import evaluate
from sclip.features import extract
from sclip.training.batches import TrainingBatches
from sclip.training.loop import Trainer, train

STEP = TrainingConfig(batch=16, crop_frames=40, precision="fp32", warmup_steps=0, learning_rate=1e-2, steps=2)
VARIANTS = {name: {} for name in ARCHITECTURES} | {"cascaded-cif, padding counted": {"norm_counts_padding": True}}


def steps(kept: Path, variant: str) -> dict[str, torch.Tensor]:
    """The losses of two steps, and after the first its gradients and what is known of the slots. (Adam then moves what
    has no gradient, such as a bias in front of a BatchNorm, by what rounding says.) No dropout: it is drawn otherwise
    in every process."""
    arch, changes = variant.partition(",")[0], VARIANTS[variant]
    made = model(arch)
    made.head.attention.dropout = 0.0
    if changes:
        made.head.keywords.norm.counts_padding = changes["norm_counts_padding"]
    trainer = Trainer(made, STEP, 0, torch.device("cpu"))
    batches = TrainingBatches(opened(kept, "train"), STEP, 0, pin=False)
    found = {"loss": torch.tensor(trainer.train_step([batches.read(0)])()["train/loss/total"])}
    for name, parameter in trainer.trained.named_parameters():
        if parameter.grad is not None:
            found[f"gradient {name}"] = parameter.grad.clone()
    found |= {name: buffer.clone() for name, buffer in trainer.trained.named_buffers() if "running" in name}
    return found | {"next loss": torch.tensor(trainer.train_step([batches.read(1)])()["train/loss/total"])}


def main(kept: Path, recordings: Path, out: Path) -> None:
    torch.set_num_threads(1)
    extract.MEGABYTE = 15_000
    with distributed.process_group("cpu"):
        torch.manual_seed(0)
        config = FeaturesConfig(shard_megabytes=1, batch_seconds=1.0, components=60)
        problems = Problems(skip=True)
        extract.extract_features(recordings, out / "features", speech_encoder(), config, "cpu", problems)
        dropout, F.dropout = F.dropout, lambda x, *_, **__: x
        found = {variant: steps(kept, variant) for variant in VARIANTS}
        F.dropout = dropout
        sets = opened(kept, "train"), opened(kept, "dev")
        training = dataclasses.replace(STEP, steps=4, dev_every=2)
        train(*sets, model("hybrid-cif"), training, 0, "cpu", out / "model", out / "scratch")
        evaluate(model("hybrid-cif"), sets[1], "cpu", out / "results")
        if distributed.is_main():
            torch.save({"steps": found, "skipped": problems.skipped, "notes": problems.notes}, out / "found.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
