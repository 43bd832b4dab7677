"""A model's card says what the hub can read, and what its parts are and how they may be used."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from small import model

from sclip.model.card import base_models, encoder_licence, model_card
from sclip.model.folder import read_config

BASE_SPEECH, BASE_CLIP = "facebook/hubert-base-ls960", "timm/vit_base_patch32_clip_224.openai"
MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return read_config(model("hybrid").save(tmp_path_factory.mktemp("models") / "hybrid"))


def with_encoders(config, speech: str | None, clip: str | None, revision: str | None = None, **origin: str):
    """Return a configuration with other encoders and another origin."""
    return dataclasses.replace(
        config,
        speech_encoder=dataclasses.replace(config.speech_encoder, name=speech, revision=revision),
        clip_encoder=dataclasses.replace(config.clip_encoder, name=clip),
        origin=origin,
    )


def head(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("name", ["scenes-hybrid-cif", "scenes-cif", "scenes-parallel"])
def test_a_shipped_card_is_what_is_written_today(name):
    expected = model_card(read_config(MODELS / name), repo=f"models/{name}", licence="mit")
    assert (MODELS / name / "README.md").read_text() == expected


def test_the_hub_reads_the_metadata(config):
    data = ModelCard(model_card(config, licence="apache-2.0")).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "sclip", "feature-extraction")
    assert {"speech", "clip", "hybrid"} <= set(data.tags)
    unknown = ModelCard(model_card(config)).data
    assert (unknown.license, unknown.license_name) == ("other", "see-the-table-of-parts")


@pytest.mark.parametrize(
    ("speech", "clip", "origin", "expected"),
    [
        (BASE_SPEECH, "ViT-B-32-quickgelu/openai", {}, [BASE_SPEECH, BASE_CLIP]),
        (None, None, {"speech encoder": BASE_SPEECH, "CLIP": "ViT-B-32-quickgelu/openai"}, [BASE_SPEECH, BASE_CLIP]),
        ("../mini-hubert", "../mini-clip", {}, []),
        (None, None, {"speech encoder": "models/mini-hubert", "CLIP": "models/mini-clip"}, []),
        (None, None, {}, []),
        ("mfcc", "ViT-B-32-quickgelu/openai", {}, [BASE_CLIP]),
    ],
)
def test_base_models_are_hub_repos(config, speech, clip, origin, expected):
    assert base_models(with_encoders(config, speech, clip, **origin)) == expected
    assert head(model_card(with_encoders(config, speech, clip, **origin))).get("base_model", []) == expected


def test_a_repo_at_a_commit_is_a_base_model(config):
    changed = with_encoders(config, "team/speech", None, revision="1" * 40)
    assert base_models(changed) == ["team/speech"]


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("facebook/hubert-base-ls960", "Apache-2.0"),
        ("ViT-L-14-quickgelu/openai", "MIT"),
        ("../mini-hubert", "MIT"),
        ("local-dir:models/mini-clip", "MIT"),
        ("team/mini-clip", "see where it comes from"),
        ("", "see where it comes from"),
    ],
)
def test_licences_of_encoders(name, licence):
    assert encoder_licence(name) == licence


@pytest.mark.parametrize(
    ("origin", "language", "text"),
    [
        ({"trained on": "flickr8k"}, "en", "CC BY-SA 4.0"),
        ({"trained on": "places"}, "en", "Places Audio Captions"),
        ({"trained on": "speech-coco"}, "en", "recordings CC BY 4.0, in synthetic voices"),
        ({"trained on": "table", "language": "de"}, "de", "a corpus of the author's own"),
        ({"trained on": "table"}, None, "a corpus of the author's own"),
        ({}, None, "not recorded"),
    ],
)
def test_corpus_and_language(config, origin, language, text):
    card = model_card(dataclasses.replace(config, origin=origin))
    assert head(card).get("language") == language
    assert text in card
