"""A training that is killed: `python victim.py FOLDER ARCH WHEN`, at a step or while `saving` its second checkpoint."""

import os
import signal
import sys
from pathlib import Path

import torch
from small import model
from training.kept import opened

from sclip.config import TrainingConfig
from sclip.training import loop

TRAINING = TrainingConfig(
    steps=12, warmup_steps=2, batch=6, learning_rate=1e-2, crop_frames=40, precision="fp32", dev_every=5
)


def run(folder: Path, arch: str, name: str) -> loop.Summary:
    sets = opened(folder, "train"), opened(folder, "dev")
    places = folder / name, folder / f"{name}-scratch", folder / f"{name}-curves"
    return loop.train(*sets, model(arch), TRAINING, 3, "cpu", *places)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, arch, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if when == "saving":
        write, written = Path.write_bytes, []

        def write_half(path, data):
            written.append(path)
            if len(written) == 1:
                return write(path, data)
            write(path, data[: len(data) // 2])
            return die()

        Path.write_bytes = write_half
    else:
        step = loop.Trainer.train_step

        def step_or_die(trainer, batch):
            return die() if trainer.step == int(when) else step(trainer, batch)

        loop.Trainer.train_step = step_or_die
    run(folder, arch, "killed")
