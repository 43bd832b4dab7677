"""Encoders and models from hub repos, as they lie in the hub's own cache: no network needed, revisions pinned."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from small import model, recordings

import sclip
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError

FIRST, SECOND = "1" * 40, "2" * 40


def cached(repo: str, revisions: dict[str, Path]) -> None:
    """Put folders into the hub's cache as a repo's revisions; the last is main."""
    place = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    for commit, folder in revisions.items():
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = [model("hybrid", seed=seed) for seed in (1, 2)]
    folders = [m.save(folder / str(i)) for i, m in enumerate(models)]
    for part in ("speech", "clip"):
        cached(f"team/{part}", {FIRST: folders[0] / part, SECOND: folders[1] / part})
    cached("team/whole", {FIRST: folders[0], SECOND: folders[1]})
    return models


@torch.no_grad()
def test_encoders_are_those_of_the_revision(two_models):
    (waveform,) = recordings(5000)
    for revision, expected in ((FIRST, two_models[0]), (SECOND, two_models[1]), (None, two_models[1])):
        speech = SpeechEncoder.from_pretrained("team/speech", revision)
        clip = ClipEncoder.from_pretrained("hf-hub:team/clip", revision)
        assert speech.source.revision == clip.source.revision == (revision or SECOND)
        assert torch.equal(speech([waveform]).values, expected.speech([waveform]).values)
        assert torch.equal(clip.encode_text(["a dog"]), expected.clip.encode_text(["a dog"]))


def test_a_model_folder_names_the_commit(two_models, tmp_path):
    """Encoders by reference stay those that were trained with, whatever main becomes."""
    first = two_models[0]
    speech = SpeechEncoder.from_pretrained("team/speech", FIRST)
    clip = ClipEncoder.from_pretrained("hf-hub:team/clip", FIRST)
    built = sclip.SpeechCLIP("hybrid", first.architecture, speech, clip, first.vocabulary)
    built.head.load_state_dict(first.head.state_dict())
    again = sclip.load(built.save(tmp_path / "model"))
    assert again.speech.source.revision == FIRST
    assert torch.equal(again.encode_speech(recordings(5000)), first.encode_speech(recordings(5000)))


def test_models_are_those_of_the_revision(two_models):
    for load in (sclip.load, sclip.SpeechCLIP.from_pretrained):
        for revision, expected in ((FIRST, two_models[0]), (None, two_models[1])):
            found = load("team/whole", revision=revision)
            assert torch.equal(found.encode_speech(recordings(5000)), expected.encode_speech(recordings(5000)))


@pytest.mark.parametrize("place", ["..", Path("models").absolute().as_posix(), "models/../models"])
def test_a_repo_does_not_name_folders_on_this_machine(place, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree("models/scenes-parallel", folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"../mini-', f'"{place}/mini-'))
    repo = f"team/{tmp_path.name}"
    cached(repo, {FIRST: folder})
    for load in (sclip.load, sclip.SpeechCLIP.from_pretrained):
        with pytest.raises(UserError, match="expected the name of a folder next to a local model folder"):
            load(repo)


def test_options_of_the_hub_are_passed_on(two_models, tmp_path):
    with pytest.raises(UserError, match="team/whole: no such folder"):
        sclip.SpeechCLIP.from_pretrained("team/whole", revision=FIRST, cache_dir=tmp_path)


def test_missing_repos_and_revisions_give_one_line_errors(two_models):
    for load, name in (
        (SpeechEncoder.from_pretrained, "team/none"),
        (ClipEncoder.from_pretrained, "hf-hub:team/none"),
        (lambda name: SpeechEncoder.from_pretrained(name, "3" * 40), "team/speech"),
        (lambda name: ClipEncoder.from_pretrained(name, "3" * 40), "hf-hub:team/clip"),
        (sclip.load, "team/none"),
        (sclip.load, "no/such/folder"),
    ):
        with pytest.raises(UserError, match=name.removeprefix("hf-hub:")) as error:
            load(name)
        assert "\n" not in str(error.value)
