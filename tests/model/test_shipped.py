"""The trained models that ship with the project work on recordings and pictures that they have never met."""

import re
import shutil
from pathlib import Path

import pytest
import torch

import sclip
from sclip.config import ScenesConfig, Splits
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import read_manifest
from sclip.errors import Problems, UserError

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = MODELS / "scenes-hybrid-cif"
PICTURES = 40


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Pictures and captions of another corpus: the pairs of things and the voices are those of the test split."""
    manifest = tmp_path_factory.mktemp("scenes") / "manifest.jsonl"
    one = Splits(1, 1, PICTURES)
    config = ScenesConfig("scenes", 99, one, Splits(1, 1, 1), Splits(1, 1, 3), nouns=60)
    make_corpus(config, manifest, Problems())
    return [row for row in read_manifest(manifest, Problems()) if row.split == "test"]


@pytest.mark.parametrize("name", ["scenes-hybrid-cif", "scenes-cif", "scenes-parallel"])
def test_speech_finds_its_picture(rows, name):
    model = sclip.load(MODELS / name)
    images = model.encode_image([row.image for row in rows])
    for branch in model.branches:
        least = {"parallel": 0.6, "cascaded": 0.7}[branch]  # chance: 1 in 40
        speech = model.encode_speech([row.audio for row in rows], branch=branch)
        correct = (speech @ images.T).argmax(1) == torch.arange(len(rows))
        assert float(correct.float().mean()) > least


def test_keywords_are_words_of_the_caption(rows):
    """Grounds and colours are the words that the model names best."""
    model = sclip.load(SHIPPED)
    grounds = {"grass", "sand", "snow", "water", "road", "carpet", "table", "wall"}
    captions = [grounds & set((row.text or "").split()) for row in rows]
    named = [{slot.pieces[0].text for slot in slots} for slots in model.keywords([row.audio for row in rows])]
    spoken = [(ground, words) for caption, words in zip(captions, named, strict=True) for ground in caption]
    assert len(spoken) > PICTURES / 2
    assert sum(ground in words for ground, words in spoken) > 0.8 * len(spoken)  # by chance: about 1 in 20


def test_a_saved_copy_does_not_need_the_folders_around_the_model(tmp_path):
    copy = sclip.load(sclip.load(SHIPPED).save(tmp_path / "copy"))
    assert (tmp_path / "copy/speech/config.json").is_file()
    recording = [torch.sin(torch.arange(16_000) / 20)]
    assert torch.allclose(copy.encode_speech(recording), sclip.load(SHIPPED).encode_speech(recording), atol=1e-5)


def test_the_model_loads_from_inside_its_folder_and_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(SHIPPED)
    assert sclip.load(tmp_path / "link").name == "hybrid-cif"
    monkeypatch.chdir(SHIPPED)
    assert sclip.load(".").name == "hybrid-cif"


@pytest.mark.parametrize("name", ["../../mini-hubert", "../", "../..", "../a/b"])
def test_an_encoder_elsewhere_in_the_file_system_is_refused(name, tmp_path):
    for file in SHIPPED.iterdir():
        text = file.read_bytes()
        if file.name == "config.json":
            text = text.replace(b"../mini-hubert", name.encode())
        (tmp_path / file.name).write_bytes(text)
    with pytest.raises(UserError, match="expected the name of a folder next to a local model folder"):
        sclip.load(tmp_path)


def test_a_model_without_its_encoders_says_which_folder_is_missing(tmp_path):
    """A model that was moved away from the encoders beside it, and one that was copied without its subfolders."""
    moved = shutil.copytree(SHIPPED, tmp_path / "moved")
    beside = f"{tmp_path.resolve()}/mini-hubert, which is missing; move this encoder together with the model"
    with pytest.raises(UserError, match=re.escape(f"{moved}/config.json: names an encoder in the folder {beside}")):
        sclip.load(moved)
    copy = sclip.load(SHIPPED).save(tmp_path / "copy")
    shutil.rmtree(copy / "clip")
    inside = f"{copy}/config.json: names an encoder in the folder {copy}/clip, which is missing; copy the model again"
    with pytest.raises(UserError, match=re.escape(inside)):
        sclip.load(copy)
