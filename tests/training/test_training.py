"""A training does what the recipe says, keeps its best, and does not care about being killed."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import ARCHITECTURES, model
from training.kept import keep, opened
from training.victim import run

import sclip
from sclip.config import TrainingConfig
from sclip.training import loop
from sclip.training.batches import TrainingBatches
from sclip.training.development import mean_recalls
from sclip.training.loop import Trainer, learning_rate, train

HERE = Path(__file__).parent
CPU = torch.device("cpu")
SHORT = TrainingConfig(
    steps=40, warmup_steps=4, batch=16, learning_rate=1e-2, crop_frames=40, precision="fp32", dev_every=10
)


@pytest.fixture(autouse=True)
def one_core(cores):
    cores(1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return keep(tmp_path_factory.mktemp("kept"))


def trained(corpus, arch, tmp_path, training=SHORT):
    made = model(arch)
    summary = train(
        opened(corpus, "train"), opened(corpus, "dev"), made, training, 0, "cpu", tmp_path / arch, tmp_path / "scratch"
    )
    return made, summary, json.loads((tmp_path / arch / "history.json").read_text())


def test_schedule():
    training = TrainingConfig(steps=100, warmup_steps=10, learning_rate=1e-3, final_learning_rate=1e-8)
    rates = [learning_rate(step, training) for step in range(101)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(5e-4)
    assert rates[10] == max(rates) == pytest.approx(1e-3)
    assert rates[55] == pytest.approx((1e-3 + 1e-8) / 2)
    assert rates[100] == pytest.approx(1e-8)
    assert learning_rate(0, dataclasses.replace(training, warmup_steps=0)) == 1e-3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_learns(corpus, arch, tmp_path, monkeypatch):
    """Sixteen utterances, by heart; other recordings of the same things are then found, too."""
    if arch.endswith("cif"):
        monkeypatch.setitem(ARCHITECTURES, arch, with_more_slots(ARCHITECTURES[arch]))
    longer = dataclasses.replace(SHORT, steps=60, learning_rate=5e-3, crop_frames=70, dev_every=20)
    _, summary, history = trained(corpus, arch, tmp_path, longer)
    assert [row["step"] for row in history] == [20, 40, 60]
    loss = [row["train/loss/total"] for row in history]
    assert loss[-1] < 0.85 * loss[0]
    branches = {"parallel", "cascaded"} if arch.startswith("hybrid") else {arch.partition("-")[0]}
    assert set(summary.dev) == branches
    assert min(summary.dev.values()) > 80  # ten of sixteen, 62.5, are found by chance
    assert not (tmp_path / "scratch").exists()


def with_more_slots(architecture):
    """The utterances are too short for the two or three that they would have."""
    replace, head = dataclasses.replace, architecture.head
    cif = replace(head.keywords.cif, frames_per_slot=5)
    return replace(architecture, head=replace(head, keywords=replace(head.keywords, cif=cif)))


def test_keeps_the_best(corpus, tmp_path, monkeypatch):
    given = iter([30.0, 60.0, 60.0, 50.0])
    weights = []

    def recalls(found, _):
        weights.append({name: tensor.clone() for name, tensor in found.head.state_dict().items()})
        return {"parallel": next(given), "cascaded": 70.0 + len(weights)}

    monkeypatch.setattr(loop, "mean_recalls", recalls)
    _, summary, history = trained(corpus, "hybrid", tmp_path)
    assert (summary.step, summary.dev) == (20, {"parallel": 60.0, "cascaded": 72.0})
    assert [row["dev/parallel"] for row in history] == [30, 60, 60, 50]
    saved = load_file(tmp_path / "hybrid/model.safetensors")
    for name, tensor in weights[1].items():
        assert torch.equal(saved[f"head.{name}"], tensor), name
    assert not torch.equal(weights[1]["tokens"], weights[3]["tokens"])


def test_what_is_saved_is_what_was_developed(corpus, tmp_path):
    made, summary, _ = trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, steps=5))
    again = sclip.load(tmp_path / "parallel")
    assert mean_recalls(again, opened(corpus, "dev")) == summary.dev
    assert all(torch.equal(a, b) for a, b in zip(made.head.parameters(), again.head.parameters(), strict=True))


RANDOM_STEP = random.randint(6, 11)


@pytest.mark.parametrize(
    ("arch", "number", "when", "last"),
    [
        ("cascaded-cif", signal.SIGKILL, RANDOM_STEP, RANDOM_STEP // 5 * 5),
        ("parallel", signal.SIGKILL, "saving", 5),
        ("hybrid-cif", signal.SIGTERM, 6, 7),
        ("parallel", signal.SIGTERM, "developing", 5),
        ("cascaded", signal.SIGINT, 4, 5),  # a step behind which the development split is to be tried
    ],
)
def test_an_interrupted_training_ends_like_one_that_was_not(arch, number, when, last, tmp_path, caplog):
    """In weights, history and curves. A request to stop costs no step; a kill costs those since the last save."""
    keep(tmp_path)
    whole = run(tmp_path, arch, "whole")
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, HERE / "victim.py", tmp_path, arch, str(int(number)), str(when)]
    victim = subprocess.run(command, env=env, capture_output=True, timeout=50)
    stopped = number != signal.SIGKILL
    assert victim.returncode == (128 + number if stopped else -number), victim.stderr.decode()
    assert (f"{arch}: stopped and saved at step {last}" in victim.stderr.decode()) == stopped
    assert not (tmp_path / "killed").exists()
    caplog.clear()
    killed = run(tmp_path, arch, "killed")
    assert f"goes on from step {last} of 12" in caplog.text
    assert (killed.step, killed.dev) == (whole.step, whole.dev)

    def ends(name):
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        history = json.loads((tmp_path / name / "history.json").read_text())
        curves = (tmp_path / f"{name}-curves").rglob("*.tsv")
        lines = {path.name: path.read_text() for path in curves if path.name != "steps_a_second.tsv"}
        return weights, [{k: v for k, v in row.items() if k != "train/steps_a_second"} for row in history], lines

    assert ends("killed") == ends("whole"), when
    _, history, curves = ends("killed")
    assert [row["step"] for row in history] == [5, 10, 12]
    assert len(curves["total.tsv"].splitlines()) == 4


def test_another_training_s_checkpoint(corpus, tmp_path, caplog, monkeypatch):
    """Whatever decides the result makes a training another one."""
    sets = opened(corpus, "train"), opened(corpus, "dev")

    def stopped(made, training=SHORT, seed=0, sets=sets):
        """Until the first checkpoint; where it began."""
        began = []

        def stop(trainer, dataset):
            raise KeyboardInterrupt

        def step(trainer, batch):
            began.append(trainer.step)
            return one_step(trainer, batch)

        one_step = Trainer.train_step
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", step)
            patch.setattr(loop, "SAVE_EVERY", 0.0)
            patch.setattr(Trainer, "develop", stop)
            with pytest.raises(KeyboardInterrupt):
                train(*sets, made, training, seed, "cpu", tmp_path / "out", tmp_path / "scratch")
        return began[0]

    assert stopped(model("parallel")) == 0
    assert stopped(model("parallel")) == 9  # the tenth step was not done with
    caplog.clear()
    others = [
        {"made": model("parallel"), "seed": 1},
        {"made": model("parallel", seed=1)},
        {"made": model("parallel"), "training": dataclasses.replace(SHORT, weight_decay=0.0)},
        {"made": model("parallel"), "sets": (sets[0], sets[0])},
    ]
    for other in others:
        assert stopped(**other) == 0
        assert "of another configuration, data or code; training starts anew" in caplog.text


def test_training_starts_over_after_a_damaged_checkpoint(corpus, tmp_path, caplog):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/checkpoint.pt").touch()
    _, _, history = trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, steps=5))
    assert [row["step"] for row in history] == [5]
    assert "checkpoint.pt: its SHA-256 does not match" in caplog.text


def test_replaces_a_stale_model(corpus, tmp_path):
    (tmp_path / "parallel").mkdir()
    (tmp_path / "parallel/stale").touch()
    trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, steps=5))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and "speech" not in str(path)) == [
        "README.md", "config.json", "history.json", "model.safetensors", "open_clip_config.json",
        "open_clip_model.safetensors",
    ]  # fmt: skip


def test_model_folder_is_on_the_disk_before_the_checkpoint_is_deleted(corpus, tmp_path, monkeypatch):
    """Whatever order the disk writes in, a power failure leaves the checkpoint or the complete model."""
    out, scratch = tmp_path / "models/parallel", tmp_path / "scratch"
    synced, at_deletion, sync, delete = set(), [], os.fsync, shutil.rmtree

    def recorded_sync(handle):
        sync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        # A folder counts with what it holds at that time.
        synced.add((path.stat().st_ino, tuple(sorted(os.listdir(path))) if path.is_dir() else path.stat().st_mtime_ns))

    def recorded_delete(path, **options):
        if path == scratch:
            at_deletion.append(set(synced))
        delete(path, **options)

    monkeypatch.setattr("os.fsync", recorded_sync)
    monkeypatch.setattr("shutil.rmtree", recorded_delete)
    training = dataclasses.replace(SHORT, steps=2, warmup_steps=1)
    train(opened(corpus, "train"), opened(corpus, "dev"), model("parallel"), training, 0, "cpu", out, scratch)
    assert not scratch.exists()
    written = [out.parent, out, *out.rglob("*")]
    assert len(written) > 8
    for path in written:
        content = tuple(sorted(os.listdir(path))) if path.is_dir() else path.stat().st_mtime_ns
        assert (path.stat().st_ino, content) in at_deletion[0], path


def one_step(corpus, arch, precision, device=CPU):
    training = dataclasses.replace(SHORT, precision=precision, warmup_steps=0)
    trainer = Trainer(model(arch), training, 0, device)
    batches = TrainingBatches(opened(corpus, "train"), training, 0, pin=device.type == "cuda")
    row = trainer.train_step([batches.read(0).to(device)])()
    assert all(parameter.dtype == torch.float32 for parameter in trainer.parameters)
    return row


def test_a_step_of_two_batches_takes_their_mean(corpus):
    batches = TrainingBatches(opened(corpus, "train"), SHORT, 0, pin=False)
    first, second = batches.read(0), batches.read(1)

    def gradient(*step):
        trainer = Trainer(model("parallel"), dataclasses.replace(SHORT, gradient_clip=1e9), 0, CPU)
        attention = trainer.model.head.attention
        attention.dropout = attention.feed_forward.dropout = 0.0
        trainer.train_step(step)
        return torch.cat([parameter.grad.flatten() for parameter in trainer.parameters])

    assert not torch.allclose(gradient(first), gradient(second))
    torch.testing.assert_close(gradient(first, second), (gradient(first) + gradient(second)) / 2)


def test_steps_of_several_batches_go_on(corpus, tmp_path, monkeypatch):
    read, sets = [], (opened(corpus, "train"), opened(corpus, "dev"))
    plain = TrainingBatches.read
    monkeypatch.setattr(TrainingBatches, "read", lambda batches, i: read.append(i) or plain(batches, i))
    training = dataclasses.replace(SHORT, steps=4, warmup_steps=1, accumulate=3)
    train(*sets, model("parallel"), training, 0, "cpu", tmp_path / "out", tmp_path / "scratch")
    assert read == list(range(12))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_bf16(corpus, arch):
    full, half = one_step(corpus, arch, "fp32"), one_step(corpus, arch, "bf16")
    assert full.keys() == half.keys()
    assert half["train/loss/total"] == pytest.approx(full["train/loss/total"], rel=0.05)
    assert half["train/gradient_norm"] == pytest.approx(full["train/gradient_norm"], rel=0.3)
    assert half != full


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_on_a_gpu(corpus, arch, precision):
    row = one_step(corpus, arch, precision, torch.device("cuda"))
    dropout = 0.2  # drawn otherwise there
    assert row["train/loss/total"] == pytest.approx(one_step(corpus, arch, "fp32")["train/loss/total"], rel=dropout)


def test_mistakes(corpus, tmp_path):
    with pytest.raises(sclip.UserError, match=r"training\.precision: fp16 needs a GPU; a CPU trains in fp32 or bf16"):
        trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, precision="fp16"))
    wild = dataclasses.replace(SHORT, learning_rate=1e30, warmup_steps=0)
    for arch in ARCHITECTURES:
        with pytest.raises(sclip.UserError, match=r"step \d+: the loss is nan, in fp32"):
            trained(corpus, arch, tmp_path / arch, wild)
    with pytest.raises(sclip.UserError, match="step 1: vectors of the development split are not finite, in fp32"):
        trained(corpus, "parallel", tmp_path, dataclasses.replace(wild, steps=1))
    keep(tmp_path, train=1, dev=1)
    with pytest.raises(sclip.UserError, match="split train: expected at least 2 pictures, found 1"):
        trained(tmp_path, "parallel", tmp_path)
    (tmp_path / "several").mkdir()
    keep(tmp_path / "several", train=4, dev=1, captions=4)
    with pytest.raises(sclip.UserError, match="split train: expected at least 2 pictures, found 1"):
        trained(tmp_path / "several", "parallel", tmp_path)
