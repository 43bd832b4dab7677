"""Long runs: memory and open files stay flat, and a signal ends a run within seconds with its state saved."""

import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest
import torch
from small import model
from stored_corpus import open_split, write_corpus

from sclip.config import TrainingConfig
from sclip.training.loop import train
from sclip.training.trainer import Trainer

HERE = Path(__file__).parent
STEPS, EVERY = int(os.environ.get("SCLIP_SOAK_STEPS", "4000")), 200
TRAINING = TrainingConfig(
    steps=STEPS, warmup_steps=4, batch=8, learning_rate=1e-3, crop_frames=40, precision="fp32", dev_every=500
)
MOST_GROWTH = 8_000_000  # bytes in the second half of a run, for the history and the allocator
MOST_SECONDS = 5.0  # from a signal to the end of the process, as SLURM's --signal needs


def memory() -> int:
    """Return the bytes of this process's memory that are its own."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.soak
@pytest.mark.parametrize("arch", ["parallel", "hybrid-cif"])
def test_memory_and_open_files_are_flat(tmp_path, monkeypatch, cores, arch, record_property):
    cores(1)
    corpus = write_corpus(tmp_path)
    measured: list[tuple[int, int]] = []
    step = Trainer.train_step

    def measured_step(self, batches):
        if self.step % EVERY == 0:
            measured.append((memory(), len(os.listdir("/proc/self/fd"))))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", measured_step)
    sets = open_split(corpus, "train"), open_split(corpus, "dev")
    train(*sets, model(arch), TRAINING, 0, "cpu", tmp_path / "out", tmp_path / "scratch", tmp_path / "curves")
    middle = measured[len(measured) // 2 :]
    growth = max(bytes_ for bytes_, _ in middle[-3:]) - middle[0][0]
    record_property("growth", growth)
    assert len(measured) == STEPS // EVERY
    assert growth < MOST_GROWTH, measured
    assert len({files for _, files in middle}) == 1, measured


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", [0.3, 1.1])
def test_a_signal_ends_a_training_within_five_seconds(tmp_path, number, moment):
    write_corpus(tmp_path)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    started = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "trains\n"
    time.sleep(moment)
    began = time.monotonic()
    started.send_signal(number)
    output, _ = started.communicate()
    seconds = time.monotonic() - began
    assert started.returncode == 128 + number, output
    assert seconds < MOST_SECONDS
    stopped = re.search(r"stopped and saved at step (\d+)", output)
    assert stopped is not None, output
    digest, _, content = (tmp_path / "scratch/checkpoint.pt").read_bytes().partition(b"\n")
    assert torch.load(BytesIO(content), weights_only=True)["state"]["step"] == int(stopped[1])
    assert len(digest) == 64


if __name__ == "__main__":
    import logging

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    folder = Path(sys.argv[1])
    first = Trainer.train_step

    def announced_step(self, batches):
        if self.step == 0:
            print("trains", flush=True)
        return first(self, batches)

    Trainer.train_step = announced_step
    endless = dataclasses.replace(TRAINING, steps=10_000_000)
    train(
        *(open_split(folder, split) for split in ("train", "dev")),
        *(model("hybrid-cif"), endless, 0, "cpu", folder / "out", folder / "scratch", folder / "curves"),
    )
