"""Train until a signal arrives: `python interrupted_run.py FOLDER ARCH SIGNAL WHEN`.

The process sends itself SIGNAL. WHEN is a step, `saving` for the second write of a checkpoint, or `evaluating` for the
first evaluation of the development split.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
from small import model
from stored_corpus import open_split

from sclip.config import TrainingConfig
from sclip.training import loop

TRAINING = TrainingConfig(
    steps=12, warmup_steps=2, batch=6, learning_rate=1e-2, crop_frames=40, precision="fp32", dev_every=5
)


def run(folder: Path, arch: str, name: str) -> loop.TrainingResult:
    sets = open_split(folder, "train"), open_split(folder, "dev")
    folders = folder / name, folder / f"{name}-scratch", folder / f"{name}-curves"
    return loop.train(*sets, model(arch), TRAINING, 3, "cpu", *folders)


def send_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    if number == signal.SIGHUP:  # a shell sends it more than once
        os.kill(os.getpid(), number)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    folder, arch, number, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if when == "saving":
        write, written = Path.write_bytes, []

        def write_half(path, data):
            written.append(path)
            if len(written) == 1:
                return write(path, data)
            write(path, data[: len(data) // 2])
            return send_signal(number)

        Path.write_bytes = write_half
    elif when == "evaluating":

        def send_signal_and_wait(trainer, dataset):
            send_signal(number)
            time.sleep(60)

        loop.Trainer.evaluate_dev = send_signal_and_wait
    else:
        train_step = loop.Trainer.train_step

        def train_step_with_signal(trainer, batch):
            if trainer.step == int(when):
                send_signal(number)
            return train_step(trainer, batch)

        loop.Trainer.train_step = train_step_with_signal
    run(folder, arch, "interrupted")
