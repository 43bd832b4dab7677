"""A plan against what is then written."""

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
from sclip.corpora.make import make_corpus
from sclip.errors import Problems
from sclip.features import plan
from sclip.features.embed import embed_clip
from sclip.features.extract import extract_features
from sclip.features.plan import describe_plan, make_plan


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Recordings of 1 to 3 seconds."""
    folder = tmp_path_factory.mktemp("flickr8k")
    miniature.flickr8k(folder)
    random = np.random.default_rng(0)
    for path in (folder / "flickr_audio/wavs").iterdir():
        noise = random.standard_normal(int(16_000 * random.uniform(1, 3))) / 10
        soundfile.write(path, noise, 16_000, subtype="PCM_16")
    return folder


def planned(corpus, folder, **features):
    torch.manual_seed(0)
    encoders = Encoders(SpeechEncoderConfig("small"), ClipEncoderConfig("small"))
    config = FeaturesConfig(batch_seconds=10, **features)
    preset = Preset(Flickr8kConfig("flickr8k", str(corpus)), encoders, config, Training(), {})
    speech, clip = speech_encoder(), clip_encoder()
    return make_plan(preset, folder / "manifest.jsonl", speech, clip, "cpu", Problems()), preset, speech, clip


@pytest.mark.parametrize("compute", ["bf16", "fp16"])
def test_recordings_of_other_rates_are_planned_in_half_precision(corpus, compute, tmp_path, monkeypatch):
    folder = tmp_path / "flickr8k"
    shutil.copytree(corpus, folder)
    for path in (folder / "flickr_audio/wavs").iterdir():
        soundfile.write(path, np.random.default_rng(0).standard_normal((44_100, 2)) / 10, 44_100)
    monkeypatch.setattr(plan, "SPEECH_SECONDS", 0.3)
    monkeypatch.setattr(plan, "PICTURE_SECONDS", 0.1)
    found, *_ = planned(folder, tmp_path, compute=compute)
    assert found.seconds == pytest.approx(65)
    assert found.speech_speed > 0


@pytest.mark.parametrize(
    ("kept", "sample"), [("fp16", 2_000), ("fp16", 40), ("fp32", 2_000), ("fp32", 40), ("int8", 2_000)]
)
def test_what_is_planned_is_what_is_written(corpus, sample, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "SAMPLE", sample)
    monkeypatch.setattr(plan, "SPEECH_SECONDS", 0.3)
    monkeypatch.setattr(plan, "PICTURE_SECONDS", 0.1)
    features = {"components": 90} if kept == "int8" else {"precision": kept}
    found, preset, speech, clip = planned(corpus, tmp_path, **features)
    assert make_corpus(preset.corpus, tmp_path / "manifest.jsonl", Problems()) == found.utterances == 65
    done = extract_features(tmp_path / "manifest.jsonl", tmp_path / "f", speech, preset.features, "cpu", Problems())
    embedded = embed_clip(tmp_path / "manifest.jsonl", tmp_path / "v", clip, "cpu", Problems())
    assert (found.pictures, done.utterances) == (embedded.images, 65)
    close = 0.05 if sample == 40 else 1e-6
    assert found.frames == pytest.approx(done.frames, rel=close)
    assert found.bytes(kept) == pytest.approx(done.gigabytes * 1e9, rel=0.05)
    assert found.vector_bytes == (embedded.images + embedded.captions) * clip.joint_width * 4
    assert found.speech_speed > 0
    assert found.picture_speed > 0


def test_a_disk_that_is_too_small(corpus, tmp_path, monkeypatch):
    for name in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
        monkeypatch.setattr(plan, name, 0.05)
    found, *_ = planned(corpus, tmp_path, precision="fp32")
    assert found.fits
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(int(found.needed * 0.6)))
    small, *_ = planned(corpus, tmp_path, precision="fp32")
    told = "\n".join(describe_plan(small, "mine", tmp_path, "cpu"))
    assert not small.fits
    assert "It will not fit" in told
    assert "Make data/mine a link to a larger disk, or set presets.mine.features to precision: fp16" in told
    assert dataclasses.replace(small, kept="fp16").fits


def test_what_is_best_depends_on_the_disk_the_memory_and_the_device(corpus, tmp_path, monkeypatch):
    for name in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
        monkeypatch.setattr(plan, name, 0.05)
    found, *_ = planned(corpus, tmp_path)
    much = dataclasses.replace(found, free_bytes=10**12, memory_bytes=10**12, disk_speed=1e9, speech_speed=100.0)
    assert much.best == "fp16"
    half = dataclasses.replace(much, compute="fp16")
    advice = "set presets.mine.features.compute to fp32"
    told = [
        "\n".join(describe_plan(*case)) for case in ((much, "mine", tmp_path, "cpu"), (half, "mine", tmp_path, "cpu"))
    ]
    assert [advice in text for text in told] == [False, True]
    assert advice not in "\n".join(describe_plan(half, "mine", tmp_path, "cuda"))
    assert "from memory" in "\n".join(describe_plan(much, "mine", tmp_path, "cpu"))
    little = dataclasses.replace(much, memory_bytes=int(3 * much.bytes("int8")))
    assert (little.best, little.pace("int8")) == ("int8", math.inf)
    assert "Fastest to train from here: presets.mine.features with components: 24" in "\n".join(
        describe_plan(little, "mine", tmp_path, "cpu")
    )
    none = dataclasses.replace(much, memory_bytes=0, disk_speed=99 * found.bytes("int8") / found.seconds)
    assert none.pace("int8") == pytest.approx(99)
    assert none.best == "online"
    assert dataclasses.replace(none, speech_speed=98.0).best == "int8"
    assert dataclasses.replace(none, speech_speed=98.0, free_bytes=found.vector_bytes + 1).best == "online"
