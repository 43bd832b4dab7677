import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from sclip.config import MiniClipConfig, MiniHubertConfig, Params, Pretraining, PretrainingRound
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError
from sclip.pretrain import progress
from sclip.pretrain.clusters import assign, cluster, purity
from sclip.pretrain.pictures import draw_scenes
from sclip.pretrain.run import pretrain

CLIP = MiniClipConfig(
    seed=1, pictures=16, steps=4, batch=8, warmup_steps=2, width=32, patch=32, image_layers=1, text_layers=1, context=24
)
ROUND = PretrainingRound(clusters=8, steps=3)
SPEECH = MiniHubertConfig(
    seed=1,
    utterances=8,
    voices=2,
    rounds=(ROUND, ROUND),
    target_state=1,
    batch_seconds=8.0,
    warmup_steps=2,
    width=48,
    layers=1,
    conv_channels=(8,) * 7,
)


@pytest.fixture
def params(monkeypatch):
    monkeypatch.setattr("sclip.pretrain.clip.GALLERY", 20)
    monkeypatch.setattr("sclip.pretrain.speech.HELD_OUT", 8)
    monkeypatch.setattr(progress, "SECONDS", 0)
    params = object.__new__(Params)
    object.__setattr__(params, "pretrain", Pretraining(SPEECH, CLIP))
    return params


def interrupt_after(steps: int, monkeypatch) -> None:
    original = progress.Progress.save

    def save(self):
        original(self)
        if self.step == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "save", save)


@pytest.mark.parametrize("which", ["clip", "speech"])
def test_resumed_pretraining_gives_identical_weights(which, params, tmp_path, monkeypatch):
    uninterrupted = pretrain(params, which, tmp_path / "uninterrupted", "cpu")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_after(2, patched)
        pretrain(params, which, tmp_path / "resumed", "cpu")
    assert not (tmp_path / "resumed").exists()
    resumed = pretrain(params, which, tmp_path / "resumed", "cpu")
    (file,) = (path.name for path in uninterrupted.glob("*.safetensors"))
    expected, actual = load_file(uninterrupted / file), load_file(resumed / file)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert {t.dtype for t in actual.values() if t.is_floating_point()} == {torch.float16}
    quality = json.loads((resumed / "quality.json").read_text())
    assert all(key in (resumed / "README.md").read_text() for key in quality)
    assert not list(tmp_path.glob("*.scratch"))


def test_pretrained_folders_load_with_the_usual_loaders(params, tmp_path):
    speech = pretrain(params, "speech", tmp_path / "speech", "cpu")
    encoder = SpeechEncoder.from_pretrained(str(speech))
    assert (encoder.states, encoder.width, encoder.frame_seconds) == (2, 48, 0.02)
    assert encoder([torch.randn(8000)]).values.isfinite().all()
    clip = pretrain(params, "clip", tmp_path / "clip", "cpu")
    assert ClipEncoder.from_pretrained(f"local-dir:{clip}").encode_text(["two dogs"]).shape == (1, 32)


def test_a_folder_of_another_origin_is_not_replaced(params, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="move it away"):
        pretrain(params, "clip", tmp_path / "other", "cpu")


def test_scenes_of_two_splits_do_not_resemble_each_other():
    (train, _), (test, _) = draw_scenes("train", 24, seed=0), draw_scenes("test", 24, seed=0)
    assert sum(one.ground == other.ground for one, other in zip(train, test, strict=True)) < 12  # of eight grounds


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (SPEECH, {"warmup_steps": 0}, "warmup_steps: expected at least 1, found 0"),
        (SPEECH, {"width": 40}, "width: expected a multiple of 48, found 40"),
        (SPEECH, {"target_state": 2}, "target_state: expected 0 to 1, found 2"),
        (CLIP, {"width": 40}, "width: expected a multiple of 32, found 40"),
    ],
)
def test_unusable_settings_are_errors(settings, values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(settings, **values)


def test_clusters_of_separate_groups_are_pure():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    classes = torch.arange(3).repeat(50)
    points = centres[classes] + 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    clusters = assign(points, cluster(points, 12))  # more clusters than groups
    assert purity(clusters, classes) == 1.0
    assert purity(torch.zeros(150, dtype=torch.long), classes) == pytest.approx(1 / 3)
