"""Import checkpoints in the published format and compare vectors and keywords with the published code's results."""

import json

import pytest
import torch
from click.testing import CliRunner
from golden_files import GOLDEN, assert_close, checkpoints, load

import sclip
from sclip.cli import main

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module", params=checkpoints())
def imported(request, tmp_path_factory):
    """Return the imported model, the output of `sclip import`, the expected tensors and the sizes."""
    name = request.param
    folder = tmp_path_factory.mktemp("models") / name
    arguments = ["import", str(GOLDEN / f"{name}.ckpt"), str(folder), "--encoders", str(GOLDEN / f"{name}.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    sizes = json.loads((GOLDEN / f"{name}.json").read_text())
    return sclip.load(folder), result.output, load(f"{name}.expected.safetensors"), sizes


def waveforms(expected: dict) -> list[torch.Tensor]:
    count = sum(name.startswith("input.wav") for name in expected)
    return [expected[f"input.wav{i}"] for i in range(count)]


def test_imported_settings(imported):
    model, printed, _, sizes = imported
    assert model.name == sizes["arch"]
    assert model.architecture.head.attention.heads == sizes["heads"]
    assert model.architecture.head.normalize_states == sizes["normalize_states"]
    assert model.speech.normalize_waveform == sizes["normalize_waveform"]
    assert "unknown" not in printed


@torch.no_grad()
def test_hidden_states_match_published_code(imported):
    model, _, expected, _ = imported
    for i, waveform in enumerate(waveforms(expected)):
        assert_close(model.speech([waveform]).values[0], expected[f"output.hidden_states{i}"], f"hidden_states{i}")


@pytest.mark.parametrize("batch_size", [1, 8])
def test_vectors_match_published_code(imported, batch_size):
    model, _, expected, _ = imported
    for branch in ("parallel", "cascaded"):
        if f"output.{branch}_audio_feat" in expected:
            vectors = model.encode_speech(waveforms(expected), branch=branch, batch_size=batch_size)
            assert_close(vectors, expected[f"output.{branch}_audio_feat"], branch)
    images = model.encode_image(list(expected["input.image"]))
    assert_close(images, expected["output.image_feat"], "image_feat")


@torch.no_grad()
def test_keywords_match_published_code(imported):
    model, _, expected, _ = imported
    if "output.token_ids0" not in expected:
        with pytest.raises(sclip.UserError, match="has no keywords"):
            model.keywords(waveforms(expected))
        return
    assert list(model.vocabulary.ids) == expected["reduced_vocabulary"].tolist()
    keywords = model.keywords(waveforms(expected))
    for i, slots in enumerate(keywords):
        assert [slot.pieces[0].token for slot in slots] == expected[f"output.token_ids{i}"].tolist()
        states = model.speech([waveforms(expected)[i]])
        output = model.head(states, model.text_tower)
        assert_close(output.keywords.cosines[0], expected[f"output.cosine{i}"], f"cosine{i}")
        scores = torch.tensor([[piece.score for piece in slot.pieces] for slot in slots])
        allowed = expected[f"output.cosine{i}"].clone()
        allowed[:, list(model.vocabulary.blocked)] = -1
        assert_close(scores, allowed.topk(5).values, f"scores{i}")
        if f"output.alpha{i}" in expected:
            assert_close(output.cif.firing.alpha[0], expected[f"output.alpha{i}"], f"alpha{i}")
            assert all(0 <= s.span[0] < s.span[1] <= len(states.values[0, 0]) * 0.02 + 1e-9 for s in slots)
