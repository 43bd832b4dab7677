"""A small model, and the folder to use it in."""

from pathlib import Path

import pytest
import small

from sclip.apps import embedding
from sclip.encoders import waveforms


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return small.model("hybrid-cif").save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    """A model with other weights, of which CLIP's are other ones too."""
    return small.model("hybrid-cif", seed=1).save(tmp_path_factory.mktemp("other") / "other")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def embedded(monkeypatch) -> list[str]:
    """Return the names of the files that are read to be embedded, as they are read."""
    names: list[str] = []
    for module, name in ((embedding, "read_rgb"), (waveforms, "read_audio")):
        original = getattr(module, name)

        def read(path, *names_in_messages, original=original):
            names.append(Path(path).name)
            return original(path, *names_in_messages)

        monkeypatch.setattr(module, name, read)
    return names
