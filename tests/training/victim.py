"""A training that is killed or interrupted: `python victim.py FOLDER ARCH SIGNAL WHEN`.

WHEN is a step, `saving` for its second checkpoint, or `developing` for its first trial of the development split.
"""

import logging
import os
import sys
import time
from pathlib import Path

import torch
from small import model
from training.kept import opened

from sclip.config import TrainingConfig
from sclip.training import loop

TRAINING = TrainingConfig(
    steps=12, warmup_steps=2, batch=6, learning_rate=1e-2, crop_frames=40, precision="fp32", dev_every=5
)


def run(folder: Path, arch: str, name: str) -> loop.TrainingResult:
    sets = opened(folder, "train"), opened(folder, "dev")
    places = folder / name, folder / f"{name}-scratch", folder / f"{name}-curves"
    return loop.train(*sets, model(arch), TRAINING, 3, "cpu", *places)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    folder, arch, number, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if when == "saving":
        write, written = Path.write_bytes, []

        def write_half(path, data):
            written.append(path)
            if len(written) == 1:
                return write(path, data)
            write(path, data[: len(data) // 2])
            return die(number)

        Path.write_bytes = write_half
    elif when == "developing":

        def die_and_wait(trainer, dataset):
            die(number)
            time.sleep(60)

        loop.Trainer.develop = die_and_wait
    else:
        step = loop.Trainer.train_step

        def step_or_die(trainer, batch):
            if trainer.step == int(when):
                die(number)
            return step(trainer, batch)

        loop.Trainer.train_step = step_or_die
    run(folder, arch, "killed")
