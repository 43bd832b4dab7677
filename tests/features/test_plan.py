"""Plans: their estimates equal what is then written, and their advice follows from disk, memory and device."""

import dataclasses
import math
import shutil
from collections import namedtuple

import miniature
import numpy as np
import pytest
import soundfile
import torch
from small import clip_encoder, speech_encoder

from sclip.config import ClipEncoderConfig, Encoders, FeaturesConfig, Flickr8kConfig, Preset, SpeechEncoderConfig
from sclip.config import TrainingConfig as Training
from sclip.corpora.make import find_rows, make_corpus
from sclip.errors import Problems, UserError
from sclip.features import plan
from sclip.features.embed import embed_clip
from sclip.features.extract import extract_features
from sclip.features.plan import describe_plan, make_plan


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A miniature Flickr8k with recordings of 1 to 3 seconds."""
    folder = tmp_path_factory.mktemp("flickr8k")
    miniature.flickr8k(folder)
    random = np.random.default_rng(0)
    for path in (folder / "flickr_audio/wavs").iterdir():
        noise = random.standard_normal(int(16_000 * random.uniform(1, 3))) / 10
        soundfile.write(path, noise, 16_000, subtype="PCM_16")
    return folder


def plan_preset(corpus, folder, **features):
    torch.manual_seed(0)
    encoders = Encoders(SpeechEncoderConfig("small"), ClipEncoderConfig("small"))
    config = FeaturesConfig(batch_seconds=10, **features)
    preset = Preset("none", Flickr8kConfig("flickr8k", str(corpus)), encoders, config, Training(), "published", {})
    speech, clip = speech_encoder(), clip_encoder()
    rows, _ = find_rows(preset.corpus, folder / "manifest.jsonl", Problems())
    return make_plan(preset, rows, folder, speech, clip, "cpu"), preset, speech, clip


@pytest.mark.parametrize("compute", ["bf16", "fp16"])
def test_plan_measures_recordings_of_other_rates_in_half_precision(corpus, compute, tmp_path, monkeypatch):
    folder = tmp_path / "flickr8k"
    shutil.copytree(corpus, folder)
    for path in (folder / "flickr_audio/wavs").iterdir():
        soundfile.write(path, np.random.default_rng(0).standard_normal((44_100, 2)) / 10, 44_100)
    monkeypatch.setattr(plan, "SPEECH_SECONDS", 0.3)
    monkeypatch.setattr(plan, "PICTURE_SECONDS", 0.1)
    result, *_ = plan_preset(folder, tmp_path, compute=compute)
    assert result.seconds == pytest.approx(65)
    assert result.speech_speed > 0


@pytest.mark.parametrize(
    ("storage", "sample"), [("fp16", 2_000), ("fp16", 40), ("fp32", 2_000), ("fp32", 40), ("int8", 2_000)]
)
def test_plan_predicts_what_is_written(corpus, sample, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SAMPLE", sample)
    monkeypatch.setattr(plan, "SPEECH_SECONDS", 0.3)
    monkeypatch.setattr(plan, "PICTURE_SECONDS", 0.1)
    features = {"components": 90} if storage == "int8" else {"precision": storage}
    result, preset, speech, clip = plan_preset(corpus, tmp_path, **features)
    assert make_corpus(preset.corpus, tmp_path / "manifest.jsonl", Problems()) == 65 == result.utterances
    extracted = extract_features(
        speech, preset.features, tmp_path / "manifest.jsonl", tmp_path / "f", "cpu", Problems()
    )
    embedded = embed_clip(clip, tmp_path / "manifest.jsonl", tmp_path / "v", "cpu", Problems())
    assert (result.pictures, extracted.utterances) == (embedded.images, 65)
    tolerance = 0.05 if sample == 40 else 1e-6
    assert result.frames == pytest.approx(extracted.frames, rel=tolerance)
    assert result.state_bytes(storage) == pytest.approx(extracted.gigabytes * 1e9, rel=0.05)
    assert result.vector_bytes == (embedded.images + embedded.captions) * clip.joint_width * 4
    assert result.speech_speed > 0
    assert result.picture_speed > 0


def test_plan_says_that_the_disk_is_too_small_and_what_fits(corpus, tmp_path, monkeypatch):
    for name in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
        monkeypatch.setattr(plan, name, 0.05)
    large, *_ = plan_preset(corpus, tmp_path, precision="fp32")
    assert large.fits
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(int(large.needed * 0.6)))
    small, *_ = plan_preset(corpus, tmp_path, precision="fp32")
    text = "\n".join(describe_plan(small, "mine", tmp_path, "cpu"))
    assert not small.fits
    assert "The caches do not fit" in text
    assert "Make data/mine a link to a larger disk, or set presets.mine.features to precision: fp16" in text
    assert dataclasses.replace(small, storage="fp16").fits
    assert "already there" not in text
    (tmp_path / "features").mkdir()
    (tmp_path / "features/0.safetensors").write_bytes(bytes(3_000_000))
    again, *_ = plan_preset(corpus, tmp_path, precision="fp32")
    assert not again.fits  # other states are removed only when the new ones are written
    assert f"already there in {tmp_path}: 3.0 MB" in "\n".join(describe_plan(again, "mine", tmp_path, "cpu"))


def test_plan_refuses_what_the_extraction_refuses(corpus, tmp_path):
    with pytest.raises(UserError, match=r"features\.components: expected at most 96, the numbers of a frame"):
        plan_preset(corpus, tmp_path, components=100_000)


def test_plan_names_the_folder_whose_disk_it_cannot_measure(tmp_path):
    """A user without the right to write would see the random name of a temporary file otherwise."""
    with pytest.raises(UserError, match=r"missing: the disk's speed is measured with a temporary file of 64 MB in"):
        plan._disk_speed(tmp_path / "missing")


def test_plan_names_what_cannot_be_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SPEECH_SECONDS", 0.05)
    folder = tmp_path / "flickr8k"
    shutil.copytree(corpus, folder)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of the sampled pictures can be read; run `sclip check-corpus`"):
        plan_preset(folder, tmp_path)


def test_fastest_storage_depends_on_disk_memory_and_device(corpus, tmp_path, monkeypatch):
    for name in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
        monkeypatch.setattr(plan, name, 0.05)
    measured, *_ = plan_preset(corpus, tmp_path)
    large = dataclasses.replace(measured, free_bytes=10**12, memory_bytes=10**12, disk_speed=1e9, speech_speed=100.0)
    assert large.fastest == "fp16"
    half = dataclasses.replace(large, compute="fp16")
    advice = "set presets.mine.features.compute to fp32"
    texts = ["\n".join(describe_plan(case, "mine", tmp_path, "cpu")) for case in (large, half)]
    assert [advice in text for text in texts] == [False, True]
    assert advice not in "\n".join(describe_plan(half, "mine", tmp_path, "cuda"))
    needs_gpu = "on a CPU set presets.mine.training.precision to fp32 or bf16"  # fp16 is the default
    assert needs_gpu in texts[0]
    assert needs_gpu not in "\n".join(describe_plan(large, "mine", tmp_path, "cuda"))
    assert needs_gpu not in "\n".join(
        describe_plan(dataclasses.replace(large, training="fp32"), "mine", tmp_path, "cpu")
    )
    assert "from memory" in texts[0]
    medium = dataclasses.replace(large, memory_bytes=int(3 * large.state_bytes("int8")))
    assert (medium.fastest, medium.read_speed("int8")) == ("int8", math.inf)
    assert "Fastest for training on this machine: presets.mine.features with components: 24" in "\n".join(
        describe_plan(medium, "mine", tmp_path, "cpu")
    )
    disk_speed = 99 * measured.state_bytes("int8") / measured.seconds
    uncached = dataclasses.replace(large, memory_bytes=0, disk_speed=disk_speed)
    assert uncached.read_speed("int8") == pytest.approx(99)
    assert uncached.fastest == "online"
    assert dataclasses.replace(uncached, speech_speed=98.0).fastest == "int8"
    assert dataclasses.replace(uncached, speech_speed=98.0, free_bytes=measured.vector_bytes + 1).fastest == "online"
