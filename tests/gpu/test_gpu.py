"""What only a GPU can show. `make test-gpu` runs these tests and the other tests with the mark `gpu`."""

import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from golden_files import cases
from project import TINY, run_sclip, write_encoders, write_preset
from safetensors.torch import load_file
from small import ARCHITECTURES, WITH_VISUAL_WORDS, clip_encoder, model, recordings
from stored_corpus import open_split, write_corpus
from test_golden_heads import Case, check_gradients, check_outputs
from text_towers import keywords, settings, vectors_and_gradients
from torch import nn

from sclip.config import AttentionConfig, SpeechEncoderConfig, TrainingConfig
from sclip.device import autocast
from sclip.encoders.convolutions import speed_up_convolutions
from sclip.encoders.open import open_speech
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.metrics_file import read_metrics
from sclip.evaluation.scores import scores
from sclip.features.store import DIRECTIONS_FILE, FeatureStore
from sclip.heads.attention import AttentionLayer, attend_by_sequences, attend_with_mask
from sclip.padded import Padded
from sclip.paths import features_folder
from sclip.training.batches import TrainingBatches
from sclip.training.graphs import GraphedTextTower
from sclip.training.loop import open_visual_words
from sclip.training.trainer import Trainer

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
TRAINING = TrainingConfig(steps=8, warmup_steps=2, batch=8, precision="fp32", learning_rate=1e-3)
HUBERT_BASE = "facebook/hubert-base-ls960"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def trainer_of(corpus, arch, training=TRAINING):
    data, trained_model = open_split(corpus, "train"), model(arch)
    return Trainer(trained_model, training, 0, CUDA, open_visual_words(data, trained_model))


def on_cpu(value):
    """Copy the tensors of nested dataclasses to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **{f.name: on_cpu(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", cases())
def test_heads_match_the_published_code(name, mode):
    case = Case(name)
    states, data = case.states, case.data
    case.tower.tower.to(CUDA), case.head.to(CUDA), case.objective.to(CUDA)
    case.states, case.data = states.to(CUDA), {key: tensor.to(CUDA) for key, tensor in data.items()}
    output, losses = case.run(mode)
    if mode == "train":
        losses.total.backward()
    case.tower.tower.cpu(), case.head.cpu(), case.objective.cpu()  # with their gradients
    case.states, case.data = states, data
    check_outputs(case, on_cpu(output), on_cpu(losses), mode)
    if mode == "train":
        check_gradients(case, "grad.")


def fill_free_memory_with_nan(like):
    blocks = [torch.full_like(like, torch.nan) for _ in range(9)]
    del blocks


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_attention_by_sequences_equals_attention_with_a_mask(kind):
    torch.manual_seed(0)
    attended = torch.arange(150, device=CUDA) < torch.tensor([150, 1, 128, 97], device=CUDA)[:, None]
    projected = torch.randn(4, 150, 3, 8, 24, device=CUDA, dtype=kind).requires_grad_()
    probe = torch.randn(4, 150, 8, 24, device=CUDA, dtype=kind)
    results = []
    for attention in (attend_by_sequences, attend_with_mask):
        mixed = attention(*projected.unbind(2), attended, dropout=0.0)
        fill_free_memory_with_nan(mixed)  # so that a gradient which a kernel does not write is NaN
        results.append([mixed, *torch.autograd.grad(mixed, projected, probe)])
    for by_sequences, with_mask in zip(*results, strict=True):
        largest = float(with_mask.abs().max())
        torch.testing.assert_close(by_sequences, with_mask, rtol=0.02, atol=0.01 * largest)


def test_attention_of_half_precision_is_computed_by_sequences(monkeypatch):
    calls = []
    monkeypatch.setattr("sclip.heads.attention.attend_by_sequences", lambda query, *_: calls.append(1) or query)
    layer = AttentionLayer(192, AttentionConfig(heads=8)).to(CUDA)
    frames = Padded(torch.randn(2, 9, 192, device=CUDA), torch.tensor([9, 4], device=CUDA))
    layer(torch.randn(1, 192, device=CUDA), frames)
    assert not calls
    with torch.autocast("cuda", torch.bfloat16):
        layer(torch.randn(1, 192, device=CUDA), frames)
    assert calls


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02), ("fp16", 0.002)])
def test_convolutions_with_groups_equal_those_of_the_library(precision, tolerance):
    torch.manual_seed(0)
    convolution = nn.Conv1d(96, 96, 32, padding=16, groups=4).to(CUDA)
    x = torch.randn(3, 96, 70, device=CUDA)
    expected = convolution(x)
    speed_up_convolutions(convolution)
    with autocast(CUDA, precision):
        torch.testing.assert_close(convolution(x).float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("arch", [*ARCHITECTURES, *WITH_VISUAL_WORDS])
def test_a_step_waits_for_the_gpu_only_where_listed(corpus, arch, precision):
    training = dataclasses.replace(TRAINING, precision=precision)
    trainer, batches = (
        trainer_of(corpus, arch, training),
        TrainingBatches(open_split(corpus, "train"), training, 0, True),
    )
    batch = batches.read(1)
    for warm_up in (batches.read(0), batch):  # allocates memory and the optimizer's state, and captures graphs
        trainer.train_step([warm_up.to(CUDA)])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            trainer.train_step([batch.to(CUDA)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = sorted({Path(wait.filename).name for wait in waits if "synchroniz" in str(wait.message)})
    assert places == (["cif.py"] if "cif" in arch else [])


def test_resident_frames_give_the_same_batches_and_losses(corpus):
    data = open_split(corpus, "train")
    resident = data.on_device(CUDA)
    assert resident.store is not data.store
    losses = []
    training = dataclasses.replace(TRAINING, learning_rate=1e-12)  # so that rounding does not grow from step to step
    first = TrainingBatches(data, training, 0, pin=False).read(0).states.values
    for dataset in (data, resident):
        trainer, batches = trainer_of(corpus, "hybrid-cif", training), TrainingBatches(dataset, training, 0, pin=True)
        assert torch.equal(batches.read(0).to(CUDA).states.values.cpu(), first)
        losses.append([trainer.train_step([batches.read(i).to(CUDA)])()["train/loss/total"] for i in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_batches_of_frames_that_do_not_fit_are_pinned(corpus, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 0))
    data = open_split(corpus, "train")
    states = TrainingBatches(data.on_device(CUDA), TRAINING, 0, pin=False).read(0).states
    assert states.values.is_pinned()
    assert torch.equal(states.values, TrainingBatches(data, TRAINING, 0, pin=False).read(0).states.values)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_training_continues(corpus, precision):
    training = dataclasses.replace(TRAINING, precision=precision)
    batches = TrainingBatches(open_split(corpus, "train"), training, 0, pin=True)

    def losses(trainer, steps):
        return [trainer.train_step([batches.read(i).to(CUDA)])()["train/loss/total"] for i in steps]

    expected = losses(trainer_of(corpus, "hybrid-cif", training), range(8))
    interrupted, resumed = (trainer_of(corpus, "hybrid-cif", training) for _ in range(2))
    losses(interrupted, range(4))
    resumed.load_state_dict(interrupted.state_dict())
    assert losses(resumed, range(4, 8)) == pytest.approx(expected[4:], rel=1e-3 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05), ("fp16", 0.01)])
def test_text_tower_as_graphs_gives_the_same_vectors_and_gradients(precision, tolerance):
    plain = clip_encoder().text_tower
    plain.tower.to(CUDA)
    graphed = GraphedTextTower(plain)
    for seed, slots in enumerate([6, 20, 3, 6, 75, 18]):
        expected, actual = (
            [result.float() for result in vectors_and_gradients(tower, keywords(slots, 3, seed, CUDA), precision)]
            for tower in (plain, graphed)
        )
        for graph_result, tower_result in zip(actual, expected, strict=True):
            largest = float(tower_result.abs().max())  # half precision rounds relative to the sums' parts
            torch.testing.assert_close(graph_result, tower_result, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("arch", ["cascaded", "cascaded-cif"])
def test_training_with_graphs_gives_the_same_losses(corpus, arch, precision):
    training = settings(precision)
    batches = TrainingBatches(open_split(corpus, "train"), training, 0, pin=True)

    def losses(trainer):
        steps = [[batches.read(number).to(CUDA) for number in (2 * i, 2 * i + 1)] for i in range(4)]
        return [trainer.train_step(step)()["train/loss/total"] for step in steps]

    plain, graphed = (trainer_of(corpus, arch, training) for _ in range(2))
    plain.text_tower = plain.model.text_tower
    assert isinstance(graphed.text_tower, GraphedTextTower)
    assert losses(graphed) == pytest.approx(losses(plain), rel=1e-3 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_hidden_states_of_hubert_base_in_half_precision(precision, record_property):
    """Compare the hidden states of HuBERT base, with random weights, with fp32 on the same GPU."""
    torch.manual_seed(0)
    encoder = open_speech(SpeechEncoderConfig(HUBERT_BASE, random_seed=0)).to(CUDA)
    waveforms = [waveform.to(CUDA) for waveform in recordings(64000, 48000, 80000)]
    with torch.inference_mode():
        exact = encoder(waveforms)
        with autocast(CUDA, precision):
            rounded = encoder(waveforms)
    exact_states, states = (
        torch.cat([utterance.float() for utterance in batch], 1) for batch in (exact, rounded)
    )  # (L, frames, D)
    difference = (states - exact_states).norm(dim=(1, 2)) / exact_states.norm(dim=(1, 2))
    largest = int(difference.argmax())
    record_property("largest relative difference", f"{difference[largest]:.2g} in state {largest}")
    record_property("of each state", " ".join(f"{one:.2g}" for one in difference.tolist()))
    assert states.isfinite().all()
    assert float(difference.max()) < {"fp16": 0.01, "bf16": 0.05}[precision]


def test_intervals_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    ranks, pictures = torch.randint(1, 3000, (5000,), generator=generator), torch.arange(5000) % 1000
    expected = scores(ranks, pictures, Bootstrap(1000, 0))
    actual = scores(ranks.to(CUDA), pictures.to(CUDA), Bootstrap(1000, 0, CUDA))
    for name, estimate in expected.items():
        assert actual[name] == pytest.approx(estimate, rel=1e-9)


@pytest.mark.parametrize("features", [{"precision": "fp32"}, {"components": 40}], ids=["states", "codes"])
def test_extracted_frames_are_those_of_the_cpu(features, tmp_path, monkeypatch):
    """Many small batches and shards, so that the memory to which a GPU copies its results is used again and again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sclip.features.extract.MEGABYTE", 20_000)
    write_encoders(tmp_path)
    preset = write_preset("tiny", features={"shard_megabytes": 1, "batch_seconds": 6.0, "compute": "fp32"} | features)
    run_sclip("make-corpus", *preset)
    folder, frames = features_folder("tiny"), []
    for device in ("cpu", CUDA.type):
        run_sclip("extract-features", *preset, "--device", device)
        store = FeatureStore.open(folder)
        frames.append([utterance.float() for utterance in store.read(torch.arange(len(store.ids)))])
        shards = [path for path in folder.glob("*.safetensors") if path.name != DIRECTIONS_FILE]
        assert len(shards) > 3
        for path in shards:  # the directions of codes stay
            path.unlink()
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if "precision" in features else {"rtol": 0, "atol": 1}
    for on_gpu, expected in zip(*reversed(frames), strict=True):
        torch.testing.assert_close(on_gpu, expected, **tolerance)
    changed = torch.cat([(a != b).flatten() for a, b in zip(*frames, strict=True)]).float().mean()
    assert "precision" in features or float(changed) < 0.01  # of the codes


def make_project(folder, monkeypatch, **features):
    """Write the caches of a small preset in `folder`, and return the options that choose it."""
    monkeypatch.chdir(folder)
    write_encoders(folder)
    settings = {"training": TINY["training"] | {"precision": "fp16"}, "features": TINY["features"] | features}
    preset = write_preset("tiny", **settings)
    for command in ("make-corpus", "extract-features", "embed-clip"):
        run_sclip(command, *preset, *(() if command == "make-corpus" else ("--device", CUDA.type)))
    return preset


@pytest.fixture
def project(tmp_path, monkeypatch):
    return make_project(tmp_path, monkeypatch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stages_run(project, arch):
    run_sclip("train", "--arch", arch, *project, "--device", CUDA.type)
    run_sclip("evaluate", "--arch", arch, *project, "--device", CUDA.type)
    assert Path(f"results/tiny/runs/{arch}/seed-0/metrics.json").is_file()


@pytest.mark.parametrize("features", [{"components": 40}, {"online": True}], ids=["codes", "online"])
def test_a_training_on_codes_and_one_without_a_cache_run(features, tmp_path, monkeypatch):
    preset = make_project(tmp_path, monkeypatch, **features)
    for command in ("train", "evaluate"):
        run_sclip(command, "--arch", "hybrid-cif", *preset, "--device", CUDA.type)
    assert read_metrics(Path("results/tiny/runs/hybrid-cif/seed-0/metrics.json"))["counts"]["utterances"] == 12


def test_torchrun_with_nccl_gives_the_same_weights(project):
    weights = []
    for launcher in ((sys.executable,), (sys.executable, "-m", "torch.distributed.run", "--standalone")):
        command = [*launcher, "-m", "sclip", "train", "--arch", "hybrid-cif", *project, "--device", "cuda"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stderr[-3000:]
        weights.append(load_file("models/tiny/hybrid-cif/seed-0/model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0.1, atol=1e-2)
