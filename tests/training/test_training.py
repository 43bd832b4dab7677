"""Test the training recipe, the choice of the best weights, and resuming after an interruption."""

import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import ARCHITECTURES, WITH_VISUAL_WORDS, model
from stored_corpus import open_split, write_corpus
from training.interrupted_run import run

import sclip
from sclip.config import TrainingConfig
from sclip.errors import UserError
from sclip.objective import Losses
from sclip.training import loop, trainer
from sclip.training.batches import TrainingBatches
from sclip.training.curves import curves
from sclip.training.development import mean_recalls
from sclip.training.loop import train
from sclip.training.trainer import Trainer, learning_rate

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
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def trained(corpus, arch, tmp_path, training=SHORT):
    sets, trained_model = (open_split(corpus, "train"), open_split(corpus, "dev")), model(arch)
    result = train(*sets, trained_model, training, 0, "cpu", tmp_path / arch, tmp_path / "scratch")
    return trained_model, result, json.loads((tmp_path / arch / "history.json").read_text())


def test_learning_rate_warms_up_and_decays_linearly():
    training = TrainingConfig(steps=100, warmup_steps=10, learning_rate=1e-3, final_learning_rate=1e-8)
    rates = [learning_rate(step, training) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == max(rates) == pytest.approx(1e-3)
    assert rates[54] == pytest.approx((1e-3 + 1e-8) / 2)
    assert rates[99] == pytest.approx(1e-8)
    assert learning_rate(0, dataclasses.replace(training, warmup_steps=0)) == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 2e-8), (1, 4e-8), (4_998, 9.998e-5), (4_999, 1e-4), (5_000, 9.9997778e-5), (49_999, 1e-8)],
)
def test_learning_rate_is_the_published_one(step, rate):
    assert learning_rate(step, TrainingConfig()) == pytest.approx(rate, rel=1e-8)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_training_memorizes_a_small_corpus(corpus, arch, tmp_path, monkeypatch):
    """Train on sixteen utterances. The development split has other utterances of the same pictures."""
    if arch.endswith("cif"):
        monkeypatch.setitem(ARCHITECTURES, arch, with_more_slots(ARCHITECTURES[arch]))
    longer = dataclasses.replace(SHORT, steps=60, learning_rate=5e-3, crop_frames=70, dev_every=20)
    _, result, history = trained(corpus, arch, tmp_path, longer)
    assert [row["step"] for row in history] == [20, 40, 60]
    loss = [row["train/loss/total"] for row in history]
    assert loss[-1] < 0.85 * loss[0]
    head = ARCHITECTURES[arch].head
    expected = {"parallel": head.utterance, "cascaded": head.keywords is not None}
    assert set(result.dev) == {branch for branch, is_there in expected.items() if is_there}
    assert min(result.dev.values()) > 80  # chance: 10 of 16, 62.5 %
    assert 0 < result.seconds < 600
    assert not (tmp_path / "scratch").exists()


def with_more_slots(architecture):
    """Return the architecture with more slots, because these short utterances would have only two or three."""
    replace, head = dataclasses.replace, architecture.head
    cif = replace(head.keywords.cif, frames_per_slot=5)
    return replace(architecture, head=replace(head, keywords=replace(head.keywords, cif=cif)))


def test_model_has_the_weights_of_the_best_dev_score(corpus, tmp_path, monkeypatch):
    scores = iter([30.0, 60.0, 60.0, 50.0])
    weights = []

    def recalls(evaluated, _):
        weights.append({name: tensor.clone() for name, tensor in evaluated.head.state_dict().items()})
        return {"parallel": next(scores), "cascaded": 70.0 + len(weights)}

    monkeypatch.setattr(trainer, "mean_recalls", recalls)
    _, result, history = trained(corpus, "hybrid", tmp_path)
    assert (result.step, result.dev) == (20, {"parallel": 60.0, "cascaded": 72.0})
    assert [row["dev/parallel"] for row in history] == [30, 60, 60, 50]
    saved = load_file(tmp_path / "hybrid/model.safetensors")
    for name, tensor in weights[1].items():
        assert torch.equal(saved[f"head.{name}"], tensor), name
    assert not torch.equal(weights[1]["tokens"], weights[3]["tokens"])


def test_with_few_pictures_the_last_of_equally_good_weights_are_kept(corpus, monkeypatch):
    """With up to ten pictures R@10 is 100 from the first step on, and the first weights are hardly trained."""
    dev_set = open_split(corpus, "dev")
    for pictures, recalls, kept in ((10, [100, 100], 2), (10, [100, 90], 1), (11, [100, 100], 1)):
        few = dataclasses.replace(dev_set, images=torch.zeros(pictures, dev_set.images.shape[1]))
        training = trainer.Trainer(model("parallel"), SHORT, 0, CPU)
        for step, recall in enumerate(recalls, 1):
            monkeypatch.setattr(trainer, "mean_recalls", Mock(return_value={"parallel": recall}))
            training.step = step
            training.evaluate_dev(few)
        assert training.best["step"] == kept


def test_saved_model_has_the_reported_dev_recalls(corpus, tmp_path):
    trained_model, result, _ = trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, steps=5))
    loaded = sclip.load(tmp_path / "parallel")
    assert mean_recalls(loaded, open_split(corpus, "dev")) == result.dev
    pairs = zip(trained_model.head.parameters(), loaded.head.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("arch", "number", "when", "last"),
    [
        ("cascaded-cif", signal.SIGKILL, 8, 5),
        ("parallel", signal.SIGKILL, "saving", 5),
        ("hybrid-cif", signal.SIGHUP, 6, 7),
        ("parallel", signal.SIGTERM, "evaluating", 5),
        ("sclip hybrid-cif", signal.SIGKILL, 8, 5),
        ("cascaded", signal.SIGINT, 4, 5),  # the development split is evaluated after step 5
    ],
)
def test_resume_gives_identical_weights_history_and_curves(arch, number, when, last, tmp_path, caplog):
    """Interrupt and resume. SIGKILL loses the steps since the last checkpoint; the other signals lose none."""
    write_corpus(tmp_path)
    uninterrupted = run(tmp_path, arch, "uninterrupted")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]), "TMPDIR": str(tmp_path)}
    command = [sys.executable, HERE / "interrupted_run.py", tmp_path, arch, str(int(number)), str(when)]
    process = subprocess.run(command, env=env, capture_output=True, timeout=300)
    handled = number != signal.SIGKILL
    assert process.returncode == (128 + number if handled else -number), process.stderr.decode()
    assert (f"{arch}: stopped and saved at step {last}" in process.stderr.decode()) == handled
    assert not (tmp_path / "interrupted").exists()
    caplog.clear()
    resumed = run(tmp_path, arch, "interrupted")
    assert f"resumes from step {last} of 12" in caplog.text
    assert (resumed.step, resumed.dev) == (uninterrupted.step, uninterrupted.dev)

    def results(name):
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        history = json.loads((tmp_path / name / "history.json").read_text())
        files = (tmp_path / f"{name}-curves").rglob("*.tsv")
        lines = {path.name: path.read_text() for path in files if path.name != "steps_a_second.tsv"}
        return weights, [{k: v for k, v in row.items() if k != "train/steps_a_second"} for row in history], lines

    assert results("interrupted") == results("uninterrupted"), when
    _, history, lines = results("interrupted")
    assert [row["step"] for row in history] == [5, 10, 12]
    assert len(lines["total.tsv"].splitlines()) == 4


def test_a_git_repository_without_a_commit_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    with pytest.raises(UserError, match="make a first commit"), curves(tmp_path / "curves", []):
        pass


def test_a_worktree_without_its_repository_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(HERE.parents[1] / ".dvc", ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    Path(".git").write_text("gitdir: /nonexistent/.git/worktrees/x\n")
    message = rf"{tmp_path}/\.git names a folder that does not exist; make it available, or move .*\.git away"
    with pytest.raises(UserError, match=message), curves(tmp_path / "curves", []):
        pass


def test_checkpoint_is_ignored_if_seed_weights_settings_or_data_differ(corpus, tmp_path, caplog, monkeypatch):
    sets = open_split(corpus, "train"), open_split(corpus, "dev")

    def first_step(start, training=SHORT, seed=0, sets=sets):
        """Train until the first evaluation, and return the step at which training started."""
        steps = []

        def stop(trainer, dataset):
            raise KeyboardInterrupt

        def recorded_step(trainer, batch):
            steps.append(trainer.step)
            return train_step(trainer, batch)

        train_step = Trainer.train_step
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", recorded_step)
            patch.setattr(loop, "SAVE_EVERY", 0.0)
            patch.setattr(Trainer, "evaluate_dev", stop)
            with pytest.raises(KeyboardInterrupt):
                train(*sets, start, training, seed, "cpu", tmp_path / "out", tmp_path / "scratch")
        return steps[0]

    assert first_step(model("parallel")) == 0
    assert first_step(model("parallel")) == 9  # the evaluation after the tenth step raised before the step was saved
    caplog.clear()
    others = {
        "seed (0, now 1)": {"start": model("parallel"), "seed": 1},
        "seed (1, now 0), initial weights, CLIP": {"start": model("parallel", seed=1)},
        "training.weight_decay (1e-06, now 0.0), initial weights, CLIP": {
            "start": model("parallel"),
            "training": dataclasses.replace(SHORT, weight_decay=0.0),
        },
        "training.weight_decay (0.0, now 1e-06), data": {"start": model("parallel"), "sets": (sets[0], sets[0])},
    }
    for different, other in others.items():
        assert first_step(**other) == 0
        moved = f"checkpoint.pt: its training differs from this one in {different}; moved to checkpoint."
        assert moved in caplog.text
    caplog.clear()
    assert first_step(model("parallel")) == 9  # continues from the checkpoint that was moved aside
    assert "step 0" not in caplog.text
    finished = dataclasses.replace(SHORT, steps=2, warmup_steps=1)
    train(*sets, model("parallel"), finished, 0, "cpu", tmp_path / "out", tmp_path / "scratch")
    assert not (tmp_path / "scratch/checkpoint.pt").exists()
    assert first_step(model("parallel")) == 9


def test_training_starts_from_step_0_after_a_damaged_checkpoint(corpus, tmp_path, caplog):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/checkpoint.pt").touch()
    _, _, history = trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, steps=5))
    assert [row["step"] for row in history] == [5]
    assert "checkpoint.pt: its SHA-256 does not match" in caplog.text


def test_training_replaces_an_older_model_folder(corpus, tmp_path):
    (tmp_path / "parallel").mkdir()
    (tmp_path / "parallel/old").touch()
    trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, steps=5))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and "speech" not in str(path)) == [
        "README.md", "config.json", "history.json", "model.safetensors", "open_clip_config.json",
        "open_clip_model.safetensors",
    ]  # fmt: skip


def test_model_folder_is_on_the_disk_before_the_checkpoint_is_deleted(corpus, tmp_path, monkeypatch):
    """Record which files were synced when the checkpoint was deleted.

    After a power failure either the checkpoint or the complete model folder must be on the disk.
    """
    out, scratch = tmp_path / "models/parallel", tmp_path / "scratch"
    synced, synced_at_deletion, sync, delete = set(), [], os.fsync, shutil.rmtree

    def recorded_sync(handle):
        sync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        # A synced folder is identified by its file list, because a later change is not on the disk.
        synced.add((path.stat().st_ino, tuple(sorted(os.listdir(path))) if path.is_dir() else path.stat().st_mtime_ns))

    def recorded_delete(path, **options):
        if path == scratch:
            synced_at_deletion.append(set(synced))
        delete(path, **options)

    monkeypatch.setattr("os.fsync", recorded_sync)
    monkeypatch.setattr("shutil.rmtree", recorded_delete)
    training = dataclasses.replace(SHORT, steps=2, warmup_steps=1)
    train(open_split(corpus, "train"), open_split(corpus, "dev"), model("parallel"), training, 0, "cpu", out, scratch)
    assert not scratch.exists()
    written = [out.parent, out, *out.rglob("*")]
    assert len(written) > 8
    for path in written:
        content = tuple(sorted(os.listdir(path))) if path.is_dir() else path.stat().st_mtime_ns
        assert (path.stat().st_ino, content) in synced_at_deletion[0], path


def first_row(corpus, arch, precision, device=CPU):
    training = dataclasses.replace(SHORT, precision=precision, warmup_steps=0)
    data, trained_model = open_split(corpus, "train"), model(arch)
    words = loop.open_visual_words(data, trained_model)
    trainer = Trainer(trained_model, training, 0, device, words)
    batches = TrainingBatches(data, training, 0, pin=device.type == "cuda")
    row = trainer.train_step([batches.read(0).to(device)])()
    assert all(parameter.dtype == torch.float32 for parameter in trainer.parameters)
    return row


def test_a_checkpoint_of_a_gpu_resumes_with_the_optimizer_of_this_device(corpus):
    trainers = [Trainer(model("parallel"), SHORT, 0, CPU) for _ in range(2)]
    batch = TrainingBatches(open_split(corpus, "train"), SHORT, 0, pin=False).read(0)
    trainers[0].train_step([batch])
    state = trainers[0].state_dict()
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = True
    trainers[1].load_state_dict(copy.deepcopy(state))
    assert [group["fused"] for group in trainers[1].optimizer.param_groups] == [False]
    rows = [trainer.train_step([batch])() for trainer in trainers]
    assert rows[0] == rows[1]


def test_gradient_of_two_batches_is_their_mean(corpus):
    batches = TrainingBatches(open_split(corpus, "train"), SHORT, 0, pin=False)
    first, second = batches.read(0), batches.read(1)

    def gradient(*step):
        training = dataclasses.replace(SHORT, gradient_clip=1e9, accumulate=len(step))
        trainer = Trainer(model("parallel"), training, 0, CPU)
        attention = trainer.model.head.attention
        attention.dropout = attention.feed_forward.dropout = 0.0
        trainer.train_step(step)
        return torch.cat([parameter.grad.flatten() for parameter in trainer.parameters])

    assert not torch.allclose(gradient(first), gradient(second))
    torch.testing.assert_close(gradient(first, second), (gradient(first) + gradient(second)) / 2)


def test_accumulating_steps_read_consecutive_batches(corpus, tmp_path, monkeypatch):
    numbers, sets = [], (open_split(corpus, "train"), open_split(corpus, "dev"))
    read = TrainingBatches.read
    monkeypatch.setattr(TrainingBatches, "read", lambda batches, i: numbers.append(i) or read(batches, i))
    training = dataclasses.replace(SHORT, batch=5, steps=4, warmup_steps=1, accumulate=3)
    train(*sets, model("parallel"), training, 0, "cpu", tmp_path / "out", tmp_path / "scratch")
    assert numbers == list(range(12))


def test_a_step_does_not_combine_batches_of_two_epochs(corpus):
    training = dataclasses.replace(SHORT, batch=3, accumulate=2)  # five batches of 3 in an epoch of 16 utterances
    batches = TrainingBatches(open_split(corpus, "train"), training, 0, pin=False)
    assert [list(batches.of_step(step)) for step in range(5)] == [[0, 1], [2, 3], [4], [5, 6], [7, 8]]
    assert batches.steps_per_epoch == 3


def test_development_split_is_evaluated_after_each_epoch_by_default(corpus, tmp_path):
    training = dataclasses.replace(SHORT, batch=5, steps=8, dev_every=None)  # three batches in an epoch
    _, _, history = trained(corpus, "parallel", tmp_path, training)
    assert [row["step"] for row in history if "dev/parallel" in row] == [3, 6, 8]


def test_the_history_has_the_temperature_and_not_its_inverse(corpus):
    assert first_row(corpus, "parallel", "fp32")["train/temperature"] == pytest.approx(0.07, rel=0.05)


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *WITH_VISUAL_WORDS])
def test_bf16_step_is_close_to_fp32(corpus, arch, bf16):
    full, half = first_row(corpus, arch, "fp32"), first_row(corpus, arch, "bf16")
    assert full.keys() == half.keys()
    assert half["train/loss/total"] == pytest.approx(full["train/loss/total"], rel=0.05)
    assert half["train/gradient_norm"] == pytest.approx(full["train/gradient_norm"], rel=0.3)
    assert half != full


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("arch", [*ARCHITECTURES, *WITH_VISUAL_WORDS])
def test_gpu_step_is_close_to_cpu(corpus, arch, precision):
    row = first_row(corpus, arch, precision, torch.device("cuda"))
    tolerance = 0.2  # a GPU draws other dropout masks
    assert row["train/loss/total"] == pytest.approx(first_row(corpus, arch, "fp32")["train/loss/total"], rel=tolerance)


def test_unusable_settings_and_data_are_errors(corpus, tmp_path):
    with pytest.raises(sclip.UserError, match=r"training\.precision: fp16 needs a GPU; on a CPU set it to"):
        trained(corpus, "parallel", tmp_path, dataclasses.replace(SHORT, precision="fp16"))
    diverging = dataclasses.replace(SHORT, learning_rate=1e30, warmup_steps=0)
    for arch in ARCHITECTURES:
        with pytest.raises(sclip.UserError, match=r"step \d+: the loss is not finite, in fp32"):
            trained(corpus, arch, tmp_path / arch, diverging)
    with pytest.raises(sclip.UserError, match="step 1: vectors of the development split are not finite, in fp32"):
        trained(corpus, "parallel", tmp_path, dataclasses.replace(diverging, steps=2, dev_every=1))
    write_corpus(tmp_path, train=1, dev=1)
    with pytest.raises(sclip.UserError, match="split train: expected at least 2 pictures, found 1"):
        trained(tmp_path, "parallel", tmp_path)
    write_corpus(tmp_path / "several", train=4, dev=1, captions=4)
    with pytest.raises(sclip.UserError, match="split train: expected at least 2 pictures, found 1"):
        trained(tmp_path / "several", "parallel", tmp_path)


def set_nan(corpus, name, layer):
    """Overwrite one number of an utterance's stored states."""
    data = open_split(corpus, name.split("-")[0])
    store = data.store
    row = store.ids.index(name)
    shard = sorted((corpus / "features").glob("*.safetensors"))[int(store._shard[row])]
    content = bytearray(shard.read_bytes())
    place = content.index(store.utterance(row)[5, layer].numpy().tobytes())
    content[place + 2 : place + 4] = np.float16("nan").tobytes()
    shard.write_bytes(bytes(content))


@pytest.mark.parametrize(("name", "layer"), [("train-3", 1), ("train-11", 0), ("dev-2", 2)])
def test_an_utterance_that_makes_the_loss_not_finite_is_named(tmp_path, name, layer):
    write_corpus(tmp_path)
    set_nan(tmp_path, name, layer)
    row = int(name.split("-")[1]) + 1 + 16 * name.startswith("dev")
    message = rf"manifest row {row} \({name}\): layer {layer}: hidden states in the cache are not finite"
    with pytest.raises(sclip.UserError, match=message):
        trained(tmp_path, "parallel", tmp_path, dataclasses.replace(SHORT, crop_frames=100))


def test_the_utterance_is_looked_for_in_the_batch_of_the_step_that_failed(tmp_path):
    """The loss is first read after the second step, whose batch has the utterance. No earlier batch has it."""
    write_corpus(tmp_path)
    training = dataclasses.replace(SHORT, batch=4, crop_frames=100, dev_every=2)
    batches = TrainingBatches(open_split(tmp_path, "train"), training, 0, pin=False)
    name = batches.dataset.rows[int(batches.indices(1)[0])].id
    set_nan(tmp_path, name, 1)
    with pytest.raises(sclip.UserError, match=rf"\({name}\): layer 1: hidden states in the cache are not finite"):
        trained(tmp_path, "parallel", tmp_path, training)


@pytest.mark.parametrize(
    ("parameters", "others"),
    [(1, ";"), (2, r" \(and those of 1 other parameter\);"), (3, r" \(and those of 2 other parameters\);")],
)
def test_the_first_parameter_whose_gradient_is_not_finite_is_named_with_its_step(
    corpus, tmp_path, monkeypatch, parameters, others
):
    step = Trainer.train_step

    def step_with_hook(self, batches):
        if self.step == 6:
            head = self.trained["head"]
            for weight in (head.weighting.logits, head.utterance[0].weight, head.utterance[0].bias)[:parameters]:
                weight.register_hook(lambda gradient: gradient * float("inf"))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", step_with_hook)
    message = rf"step 7: the gradient of head\.weighting\.logits is not finite, in fp32{others}"
    with pytest.raises(sclip.UserError, match=message):
        trained(corpus, "parallel", tmp_path)


def test_a_scale_of_fp16_that_every_step_has_halved_ends_the_training():
    diverging = Trainer(model("parallel"), SHORT, 0, CPU)
    for exponent in (1, -16):
        diverging.scaler = Mock(is_enabled=lambda: True, get_scale=lambda scale=2.0**exponent: scale)
        diverging.check_finite()
    diverging.scaler = Mock(is_enabled=lambda: True, get_scale=lambda: 2.0**-17)
    with pytest.raises(sclip.UserError, match="step 0: gradients overflow, even with a loss scale of 1"):
        diverging.check_finite()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_loss_that_is_not_finite_in_one_of_the_batches_of_a_step_is_reported(failing):
    own = Trainer(model("parallel"), SHORT, 0, CPU)
    for step, values in enumerate(([1.0, 2.0], [1.0, 2.0])):
        own.step = step
        values[failing] = float("inf") if step else values[failing]
        totals = map(torch.tensor, values)
        own._watch([Losses(total, parallel=total) for total in totals], [torch.zeros(())] * len(own.parameters))
    with pytest.raises(sclip.UserError, match=r"step 2: the loss is not finite, in fp32 \(parallel\);"):
        own.check_finite()


def test_gradients_are_clipped_as_torch_does(corpus):
    data = open_split(corpus, "train")
    own, expected = (Trainer(model("hybrid-cif"), SHORT, 0, CPU) for _ in range(2))
    expected._clip_gradients = lambda: (torch.nn.utils.clip_grad_norm_(expected.parameters, SHORT.gradient_clip), [])
    for number in range(3):
        batch = TrainingBatches(data, SHORT, 0, pin=False).read(number)
        rows = [trainer.train_step([batch])() for trainer in (own, expected)]
        assert rows[0] == rows[1]
    for one, other in zip(own.parameters, expected.parameters, strict=True):
        assert torch.equal(one, other)
