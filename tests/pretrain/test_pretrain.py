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
    taught_by=1,
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
    given = object.__new__(Params)
    object.__setattr__(given, "pretrain", Pretraining(SPEECH, CLIP))
    return given


def interrupted_after(steps: int, monkeypatch) -> None:
    original = progress.Progress.save

    def save(self):
        original(self)
        if self.step == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "save", save)


@pytest.mark.parametrize("which", ["clip", "speech"])
def test_an_interrupted_pretraining_ends_with_the_same_weights(which, params, tmp_path, monkeypatch):
    (whole,) = pretrain(params, which, tmp_path / "whole", "cpu")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupted_after(2, patched)
        pretrain(params, which, tmp_path / "broken", "cpu")
    assert not (tmp_path / "broken").exists()
    (again,) = pretrain(params, which, tmp_path / "broken", "cpu")
    (file,) = (path.name for path in whole.glob("*.safetensors"))
    expected, found = load_file(whole / file), load_file(again / file)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert {t.dtype for t in found.values() if t.is_floating_point()} == {torch.float16}
    quality = json.loads((again / "quality.json").read_text())
    assert all(key in (again / "README.md").read_text() for key in quality)
    assert not list(tmp_path.glob("*.scratch"))


def test_folders_load_as_the_real_ones_do(params, tmp_path):
    (speech,) = pretrain(params, "speech", tmp_path / "speech", "cpu")
    encoder = SpeechEncoder.from_pretrained(str(speech))
    assert (encoder.states, encoder.width, encoder.frame_seconds) == (2, 48, 0.02)
    assert encoder([torch.randn(8000)]).values.isfinite().all()
    (clip,) = pretrain(params, "clip", tmp_path / "clip", "cpu")
    assert ClipEncoder.from_pretrained(f"local-dir:{clip}").encode_text(["two dogs"]).shape == (1, 32)


def test_what_was_not_made_here_is_not_replaced(params, tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(UserError, match="move it away"):
        pretrain(params, "clip", tmp_path / "precious", "cpu")


def test_clusters_find_what_is_there():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    classes = torch.arange(3).repeat(50)
    points = centres[classes] + 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    found = assign(points, cluster(points, 12))  # more than there are: each pure
    assert purity(found, classes) == 1.0
    assert purity(torch.zeros(150, dtype=torch.long), classes) == pytest.approx(1 / 3)
