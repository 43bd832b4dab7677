"""What a training step and an evaluation do on a GPU, checked without one."""

import dataclasses

import pytest
import torch
from small import ARCHITECTURES, WITH_VISUAL_WORDS, model, recordings, speech_encoder, w2v_bert
from stored_corpus import open_split, write_corpus

from sclip.config import TrainingConfig
from sclip.encoders.inputs import LogMelInput
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.inference import infer_vectors
from sclip.evaluation.scores import scores
from sclip.features.resident import ResidentStore
from sclip.training.batches import TrainingBatches
from sclip.training.loop import open_visual_words
from sclip.training.trainer import Trainer

if torch.cuda.is_available():
    pytest.skip("torch has one accelerator in a process, and here it is a GPU (tests/gpu)", allow_module_level=True)

from rehearsed_device import DEVICE, rehearsal

TRAINING = TrainingConfig(steps=4, warmup_steps=2, batch=8, precision="fp32", learning_rate=1e-3)
# The number of slots is the size of a tensor.
CIF_WAITS = {"heads/cif.py:integrate_and_fire": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def coded_corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("coded"), components=40)


def trainer_and_batches(corpus, arch, device):
    data, trained_model = open_split(corpus, "train"), model(arch)
    trainer = Trainer(trained_model, TRAINING, 0, device, open_visual_words(data, trained_model))
    return trainer, TrainingBatches(data, TRAINING, 0, pin=device == DEVICE)


def listed_waits(arch):
    keywords = (ARCHITECTURES | WITH_VISUAL_WORDS)[arch].head.keywords
    return CIF_WAITS if keywords is not None and keywords.cif is not None else {}


@pytest.mark.parametrize(
    ("stored", "arch"),
    [
        *(("corpus", arch) for arch in (*ARCHITECTURES, *WITH_VISUAL_WORDS)),
        *(("coded_corpus", arch) for arch in ("parallel", "hybrid-cif")),
    ],
)
def test_a_step_waits_for_the_device_only_where_listed(stored, arch, monkeypatch, request):
    corpus = request.getfixturevalue(stored)
    trainer, batches = trainer_and_batches(corpus, arch, torch.device("cpu"))
    on_cpu = trainer.train_step([batches.read(0)])()
    with rehearsal(monkeypatch) as device:
        trainer, batches = trainer_and_batches(corpus, arch, DEVICE)
        batch = batches.read(0)
        batch.to(DEVICE)  # copies the directions of codes, once
        device.waits.clear()
        device.blocking_copies.clear()
        measure = trainer.train_step([batch.to(DEVICE)])
        assert device.waits == listed_waits(arch)
        assert not device.blocking_copies
        assert measure() == pytest.approx(on_cpu, rel=1e-5)


@pytest.mark.parametrize("arch", ["parallel", "hybrid", "hybrid-cif"])
def test_development_split_is_evaluated_on_the_device(corpus, arch, monkeypatch):
    dev_set = open_split(corpus, "dev")
    expected = trainer_and_batches(corpus, arch, torch.device("cpu"))[0].evaluate_dev(dev_set)
    # The device's tensors cannot be created in inference mode.
    monkeypatch.setattr("sclip.training.development.infer_vectors", torch.no_grad()(infer_vectors.__wrapped__))
    with rehearsal(monkeypatch):
        assert trainer_and_batches(corpus, arch, DEVICE)[0].evaluate_dev(dev_set) == expected


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *WITH_VISUAL_WORDS])
def test_a_device_without_fp64_trains_and_evaluates(corpus, arch, monkeypatch):
    """As on Apple's GPUs: fp64 is computed on the CPU."""
    dev_set = open_split(corpus, "dev")
    trainer, batches = trainer_and_batches(corpus, arch, torch.device("cpu"))
    row, dev = trainer.train_step([batches.read(0)])(), trainer.evaluate_dev(dev_set)
    monkeypatch.setattr("sclip.device.WITHOUT_FP64", {DEVICE.type})
    monkeypatch.setattr("sclip.training.development.infer_vectors", torch.no_grad()(infer_vectors.__wrapped__))
    with rehearsal(monkeypatch) as device:
        device.has_fp64 = False
        with pytest.raises(TypeError, match="a device without fp64"):
            torch.ones(3).to(DEVICE).double()
        trainer, batches = trainer_and_batches(corpus, arch, DEVICE)
        assert trainer.train_step([batches.read(0).to(DEVICE)])() == pytest.approx(row, rel=1e-5)
        assert trainer.evaluate_dev(dev_set) == pytest.approx(dev)


def test_log_mel_features_need_no_fp64_on_the_device(monkeypatch):
    (waveform,) = recordings(4000)
    expected = LogMelInput().features(waveform)
    monkeypatch.setattr("sclip.device.WITHOUT_FP64", {DEVICE.type})
    with rehearsal(monkeypatch) as device:
        device.has_fp64 = False
        features = LogMelInput().features(waveform.to(DEVICE))
        assert features.device == DEVICE
        assert torch.equal(features.cpu(), expected)


@pytest.mark.parametrize("stored", ["corpus", "coded_corpus"])
def test_resident_frames_give_the_same_batches(stored, monkeypatch, request):
    data = open_split(request.getfixturevalue(stored), "train")
    stored = TrainingBatches(data, TRAINING, 0, pin=False)
    with rehearsal(monkeypatch) as device:
        store = ResidentStore.copy(data.store, data.store_rows, DEVICE)
        copied = dataclasses.replace(data, store=store, store_rows=torch.arange(len(data)))
        resident = TrainingBatches(copied, TRAINING, 0, pin=True)
        device.blocking_copies.clear()
        for number in range(3):
            there, here = resident.read(number).to(DEVICE), stored.read(number)
            for actual, expected in (
                (there.states.values, here.states.values),
                (there.states.lengths, here.states.lengths),
                (there.images, here.images),
                (there.image_ids, here.image_ids),
            ):
                assert actual.device == DEVICE
                assert torch.equal(actual.cpu(), expected)
        assert not device.blocking_copies


def test_encoders_compute_on_the_device(monkeypatch):
    audio, pictures = recordings(8000, 6000), torch.rand(2, 3, 16, 16)
    expected = model("hybrid-cif")
    with rehearsal(monkeypatch):
        moved = model("hybrid-cif").to(DEVICE)
        for actual, vectors in (
            (moved.encode_speech(audio), expected.encode_speech(audio)),
            (moved.encode_image(pictures), expected.encode_image(pictures)),
            (moved.encode_text(["a dog"]), expected.encode_text(["a dog"])),
        ):
            assert actual.device == DEVICE
            torch.testing.assert_close(actual.cpu(), vectors)


@pytest.mark.parametrize("kind", ["waveforms", "normalised", "log-mel"])
def test_a_batch_reaches_the_speech_encoder_without_waiting(kind, monkeypatch):
    encoder = SpeechEncoder(w2v_bert(), Source("random")) if kind == "log-mel" else speech_encoder()
    encoder.input.normalize = kind == "normalised"
    waveforms = recordings(8000, 6000, 7000)
    expected = encoder(waveforms)
    with rehearsal(monkeypatch) as device, torch.no_grad():
        encoder.to(DEVICE)
        encoder(waveforms)  # copies what every batch needs
        device.waits.clear()
        device.blocking_copies.clear()
        output = encoder(waveforms)
        assert not device.blocking_copies
        assert device.waits == {"encoders/speech.py:forward": 1}  # transformers asks whether a batch has padding
        torch.testing.assert_close(output.values.cpu(), expected.values)
        assert torch.equal(output.lengths.cpu(), expected.lengths)


def test_the_rehearsal_refuses_and_records(monkeypatch):
    with rehearsal(monkeypatch) as device:
        there, here = torch.ones(3).to(DEVICE), torch.ones(3)
        assert device.blocking_copies == {"backward": 1}
        with pytest.raises(RuntimeError, match="tensors on both devices"):
            there + here
        assert not device.waits
        assert float(there.sum() + torch.tensor(1.0)) == 4
        assert there[there > 0].shape == (3,)
        assert sum(device.waits.values()) == 2
        here.pin_memory().to(DEVICE, non_blocking=True)
        assert sum(device.blocking_copies.values()) == 1


def test_intervals_are_computed_on_the_device(monkeypatch):
    ranks, pictures = torch.arange(1, 61), torch.arange(60) % 20
    expected = scores(ranks, pictures, Bootstrap(20, seed=0))
    with rehearsal(monkeypatch) as device:
        bootstrap = Bootstrap(20, 0, DEVICE)
        assert bootstrap.weights.device == DEVICE
        device.waits.clear()
        assert scores(ranks.to(DEVICE), pictures.to(DEVICE), bootstrap) == expected
        assert set(device.waits) == {"evaluation/bootstrap.py:estimate"}  # reads the results
