"""Test a training run from params.yaml and stored features to a model folder that loads."""

import json
import shutil
from pathlib import Path

import pytest
import small
import torch
from click.testing import CliRunner
from project import write_encoders
from shipped import PARAMS
from small import CAPTIONS, load_params, recordings
from stored_corpus import write_corpus

import sclip
from sclip.cli import main
from sclip.training.run import run_training

OVERRIDES = [
    "presets.scenes.encoders={speech: {name: speech}, clip: {name: 'local-dir:clip'}}",
    "presets.scenes.features={components: null, compute: fp32}",
    "presets.scenes.training={steps: 6, warmup_steps: 1, batch: 8, precision: fp32, dev_every: 3}",
    "presets.scenes.arch.hybrid={training: {steps: 6}}",
    "presets.scenes.arch.parallel={training: {steps: 6}}",
]


@pytest.fixture
def params(tmp_path, monkeypatch):
    loaded = load_params(PARAMS, OVERRIDES)
    write_corpus(tmp_path / "data/scenes", encoders=write_encoders(tmp_path))
    monkeypatch.chdir(tmp_path)
    return loaded


def test_training_writes_a_model_folder_that_depends_only_on_the_seed(params, tmp_path):
    run_training(params, "scenes", "hybrid", 7)
    folder = tmp_path / "models/scenes/hybrid/seed-7"
    weights = (folder / "model.safetensors").read_bytes()
    model = sclip.load(folder)
    assert {piece.removesuffix("</w>") for piece in model.vocabulary.pieces[3:]} == set(CAPTIONS[0].split())
    assert model.encode_speech(recordings(16000)).shape == (1, 20)
    assert model.origin == {
        **{"trained on": "scenes", "preset": "scenes", "seed": "7", "language": "en"},
        **{"speech encoder": "speech", "CLIP": "clip"},
        "training": "6 steps of 8 utterances, fp32, learning rate 0.002, "
        "warmup steps 1, batches by length, dev every 3",
        "states in training": "hidden states stored in fp16, computed in fp32",
    }
    card = (folder / "README.md").read_text()
    assert "- states in training: hidden states stored in fp16, computed in fp32\n" in card
    assert "`encode_speech` and `keywords` compute exact hidden\nstates in fp32." in card
    assert [row["step"] for row in json.loads((folder / "history.json").read_text())] == [3, 6]
    assert not (tmp_path / "models/unfinished/scenes/hybrid/seed-7").exists()
    torch.manual_seed(99)  # the state of torch's generator must not matter
    run_training(params, "scenes", "hybrid", 7)
    assert (folder / "model.safetensors").read_bytes() == weights
    run_training(params, "scenes", "hybrid", 8)
    assert (folder.with_name("seed-8") / "model.safetensors").read_bytes() != weights


def test_a_development_split_of_few_pictures_gives_a_warning(params, tmp_path, caplog):
    run_training(params, "scenes", "parallel", 7)  # with 16 pictures
    assert "split dev" not in caplog.text
    write_corpus(tmp_path / "data/scenes", dev=10, encoders=write_encoders(tmp_path))
    run_training(params, "scenes", "parallel", 7)
    assert "split dev has 10 pictures, so R@10, which chooses the weights, hardly differs" in caplog.text


def test_features_of_another_encoder_are_an_error(params):
    """Use an encoder whose features have the same shape, as after a change of params.yaml.

    Without the error, the model folder would name an encoder that its head was not trained with.
    """
    for encoder, message in (
        ("speech", r"hidden states were computed by small \(.*\), not by speech \(random weights, seed 5\) \("),
        ("clip", r"vectors were computed by random \(.*\), not by clip \(random weights, seed 5\) \("),
    ):
        other = load_params(PARAMS, [*OVERRIDES, f"presets.scenes.encoders.{encoder}.random_seed=5"])
        with pytest.raises(sclip.UserError, match=message):
            run_training(other, "scenes", "parallel", 0)


@pytest.mark.parametrize("setting", ["compute=bf16", "precision=bf16", "components=288", "online=true"])
def test_feature_settings_that_differ_from_the_stored_states_are_an_error(params, setting):
    changed = load_params(PARAMS, [*OVERRIDES, f"presets.scenes.features.{setting}"])
    command = f"sclip extract-features --preset scenes -S presets.scenes.features.{setting}`"
    with pytest.raises(sclip.UserError) as error:
        run_training(changed, "scenes", "parallel", 0)
    assert "holds hidden states stored in fp16, computed in fp32" in str(error.value)
    assert f"asks for {setting.replace('=', ' ')}; run `{command}" in str(error.value)
    assert not Path("models/scenes").exists()


def test_states_that_other_code_computed_give_a_warning(params, caplog, monkeypatch):
    run_training(params, "scenes", "parallel", 0)
    assert "another version" not in caplog.text
    monkeypatch.setattr("sclip.features.settings.code_fingerprint", lambda roots: "changed")
    run_training(params, "scenes", "parallel", 1)
    assert (
        "data/scenes/features: its hidden states were computed by another version of sclip's code; `sclip "
        "extract-features --preset scenes` computes them again"
    ) in caplog.text


def test_vocabulary_is_of_the_training_captions_or_of_the_whole_corpus(params):
    """The published vocabularies were counted over all captions of a corpus."""
    sizes = {}
    for captions in ("train", "corpus"):
        overrides = [*OVERRIDES, f"presets.scenes.training.vocabulary={captions}"]
        run_training(load_params(PARAMS, overrides), "scenes", "hybrid", 0)
        pieces = sclip.load("models/scenes/hybrid/seed-0").vocabulary.pieces[3:]
        sizes[captions] = {piece.removesuffix("</w>") for piece in pieces}
    assert sizes["train"] == set(CAPTIONS[0].split())
    assert sizes["corpus"] == set(" ".join(CAPTIONS).split())


def test_corpus_without_text_trains_only_heads_without_keywords(params, tmp_path):
    write_corpus(tmp_path / "data/scenes", encoders=write_encoders(tmp_path), text=None)
    with pytest.raises(sclip.UserError, match=r"cascaded: keywords are words of captions, but no row of split train"):
        run_training(params, "scenes", "cascaded", 0)
    run_training(params, "scenes", "parallel", 0)


def trained(params, arch: str, seed: int, start=None) -> tuple[Path, sclip.SpeechCLIP]:
    run_training(params, "scenes", arch, seed, start=start)
    folder = Path(f"models/scenes/{arch}/seed-{seed}")
    return folder, sclip.load(folder)


def test_a_training_starts_from_the_weights_of_another_model(params, caplog):
    """The other model may have another vocabulary, because no weight depends on it."""
    smallest = ["presets.scenes.training.learning_rate=1e-30", "presets.scenes.training.final_learning_rate=0"]
    corpus = [*OVERRIDES, "presets.scenes.training.vocabulary=corpus"]
    folder, first = trained(load_params(PARAMS, corpus), "hybrid", 7)
    _, second = trained(load_params(PARAMS, [*OVERRIDES, *smallest]), "hybrid", 8, folder)
    assert len(second.vocabulary.ids) < len(first.vocabulary.ids)
    start = f", started from models/scenes/hybrid/seed-7 ({first.weights_digest[:12]})"
    assert second.origin["training"].endswith(start)
    weights = dict(second.head.named_parameters()) | dict(second.objective.named_parameters())
    expected = dict(first.head.named_parameters()) | dict(first.objective.named_parameters())
    assert "log_scale" in weights
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-25)
    assert "replace" not in caplog.text


def test_the_command_starts_from_a_model_folder_relative_to_where_one_is(params, tmp_path, monkeypatch):
    folder, _ = trained(params, "parallel", 7)
    shutil.copy(PARAMS, "params.yaml")
    monkeypatch.chdir(folder)
    arguments = ["scenes", "--arch", "parallel", "--seed", "8", "--device", "cpu", "--start-from", "."]
    overrides = [word for override in OVERRIDES for word in ("-S", override)]
    result = CliRunner().invoke(main, ["train", *arguments, "--params", "../../../../params.yaml", *overrides])
    assert result.exit_code == 0, result.output
    origin = sclip.load(tmp_path / "models/scenes/parallel/seed-8").origin
    assert f", started from {tmp_path}/models/scenes/parallel/seed-7 (" in origin["training"]


def test_a_model_that_does_not_fit_is_not_started_from(params, tmp_path):
    parallel, _ = trained(params, "parallel", 7)
    message = r"parallel/seed-7: head\.tokens: expected .*; its architecture is parallel, that of this training hybrid"
    with pytest.raises(sclip.UserError, match=message):
        run_training(params, "scenes", "hybrid", 8, start=parallel)
    other = small.model("hybrid", seed=5)
    other.save(tmp_path / "other")
    message = r"other: was trained with another speech encoder \(.*other/speech, here speech\); choose a model"
    with pytest.raises(sclip.UserError, match=message):
        run_training(params, "scenes", "hybrid", 8, start=tmp_path / "other")


def test_a_training_says_that_it_replaces_a_model_that_was_trained_in_another_way(params, caplog):
    for _ in range(2):
        run_training(params, "scenes", "parallel", 7)
    assert "replace" not in caplog.text
    changes = ["recipes.sclip.parallel.objective.margin=0.1", "presets.scenes.training.batch=7"]
    run_training(load_params(PARAMS, [*OVERRIDES, *changes]), "scenes", "parallel", 7)
    message = "models/scenes/parallel/seed-7: this training will replace a model that differs in "
    assert f"{message}objective.margin (0.0, now 0.1), training; to keep that model, stop" in caplog.text
