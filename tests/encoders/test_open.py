"""Encoders by name, and with weights drawn anew."""

import json
import shutil

import pytest
import torch
from open_clip import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from small import CLIP_CONFIG, clip_encoder, recordings, speech_encoder

from sclip.config import ClipEncoderConfig, SpeechEncoderConfig
from sclip.encoders.mfcc import MfccEncoder
from sclip.encoders.open import open_clip_encoder, open_speech, recorded_name, shortest_recording
from sclip.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for layout in ("group", "layer"):
        speech_encoder(feat_extract_norm=layout).save(folder / f"speech-{layout}")
    clip_encoder().save(folder / "clip")
    (folder / "custom-clip").mkdir()
    config = {"model_cfg": CLIP_CONFIG | {"custom_text": True}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (folder / "custom-clip/open_clip_config.json").write_text(json.dumps(config))
    save_file(CustomTextCLIP(**CLIP_CONFIG).state_dict(), folder / "custom-clip/open_clip_model.safetensors")
    MfccEncoder().save(folder / "mfcc")
    return folder


def test_the_shortest_recording_is_known_without_weights(folders, tmp_path):
    shutil.copy(folders / "speech-group/config.json", tmp_path)
    trained = open_speech(SpeechEncoderConfig(str(folders / "speech-group")))
    for name, samples in (
        (str(tmp_path), trained.shortest),
        (str(folders / "mfcc"), MfccEncoder.shortest),
        ("mfcc", 560),
        ("someone/not-downloaded", 400),
    ):
        assert shortest_recording(SpeechEncoderConfig(name)) == samples


def test_an_encoder_is_recorded_by_the_name_that_its_settings_lead_to(folders):
    speech = SpeechEncoderConfig(f"{folders}/speech-group", random_seed=2)
    for config, opened in (
        (SpeechEncoderConfig("mfcc"), open_speech),
        (SpeechEncoderConfig(f"{folders}/mfcc"), open_speech),
        (speech, open_speech),
        (ClipEncoderConfig(f"local-dir:{folders}/clip"), open_clip_encoder),
        (ClipEncoderConfig(f"{folders}/./clip/"), open_clip_encoder),
    ):
        assert recorded_name(config) == opened(config).source.name


@torch.no_grad()
@pytest.mark.parametrize("layout", ["group", "layer"])
def test_random_weights_of_a_speech_encoder_depend_on_the_seed(folders, layout):
    name = str(folders / f"speech-{layout}")
    trained = open_speech(SpeechEncoderConfig(name))
    one, again, other = (open_speech(SpeechEncoderConfig(name, random_seed=seed)) for seed in (1, 1, 2))
    assert one.fingerprint() == again.fingerprint()
    assert len({trained.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3
    assert one.normalize_waveform == trained.normalize_waveform == (layout == "layer")
    assert f"{name} (random weights, seed 1)" == one.source.name
    for module in one.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all())
    states, trained_states = (e(recordings(8000)).values for e in (one, trained))
    assert states.shape == trained_states.shape and not torch.allclose(states, trained_states, atol=0.1)
    assert not any(p.requires_grad for p in one.parameters()) and not one.model.training


@torch.no_grad()
@pytest.mark.parametrize(("name", "kind"), [("clip", CLIP), ("custom-clip", CustomTextCLIP)])
def test_random_weights_of_clip_depend_on_the_seed(folders, name, kind):
    name = f"local-dir:{folders / name}"
    trained = open_clip_encoder(ClipEncoderConfig(name))
    one, again, other = (open_clip_encoder(ClipEncoderConfig(name, random_seed=seed)) for seed in (1, 1, 2))
    assert isinstance(one.model, kind)
    assert one.fingerprint() == again.fingerprint()
    assert len({trained.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3
    assert one.encode_text(["a dog"]).shape == trained.encode_text(["a dog"]).shape
    assert str(one.preprocess) == str(trained.preprocess)


def test_mfccs_are_opened_by_name_or_folder(folders):
    named, saved = open_speech(SpeechEncoderConfig("mfcc")), open_speech(SpeechEncoderConfig(str(folders / "mfcc")))
    assert isinstance(named, MfccEncoder) and isinstance(saved, MfccEncoder)
    assert named.fingerprint() == saved.fingerprint()
    with pytest.raises(UserError, match="speech encoder mfcc: has no random_seed, found 0"):
        open_speech(SpeechEncoderConfig("mfcc", random_seed=0))


def test_random_weights_of_a_tag_have_its_own_layout():
    """MobileCLIP2-S0, which is small, with an image tower of timm; one with a tokenizer of its own is refused."""
    clip = open_clip_encoder(ClipEncoderConfig("MobileCLIP2-S0/dfndr2b", random_seed=0))
    assert isinstance(clip.model, CustomTextCLIP)
    assert clip.refusal == "its text tower is not causal"
    with pytest.raises(UserError, match=r"its tokenizer is in the hub repo facebook/xlm-v-base, .* local-dir:FOLDER"):
        open_clip_encoder(ClipEncoderConfig("ViT-H-14-worldwide/metaclip2_worldwide", random_seed=0))
