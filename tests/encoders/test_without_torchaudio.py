"""Nothing but MFCCs needs torchaudio, so everything else works where it is not installed."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sclip.config import SpeechEncoderConfig
from sclip.encoders.open import open_speech
from sclip.errors import UserError

ROOT = Path(__file__).parents[2]
HIDDEN = """
    import sys

    sys.modules["torchaudio"] = None  # neither found nor imported, as if it was not installed
"""


def run(code: str) -> None:
    script = textwrap.dedent(HIDDEN) + textwrap.dedent(code)
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=240)


def test_every_module_is_imported_without_torchaudio():
    run("""
        import importlib, pkgutil
        import sclip

        for module in pkgutil.walk_packages(sclip.__path__, "sclip."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    """)


def test_a_model_encodes_and_its_head_is_trained_without_torchaudio():
    run("""
        import torch
        import sclip

        model = sclip.load("models/scenes-hybrid-cif")
        assert model.encode_speech(["data/examples/dog.wav"]).isfinite().all()
        assert model.keywords(["data/examples/dog.wav"])[0]
        waveform = torch.randn(16000) / 10
        output = model.train().head(model.speech([waveform]), model.text_tower)
        output.sentence.sum().backward()
        assert any(parameter.grad is not None for parameter in model.head.parameters())
    """)


def test_mfccs_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(UserError, match=r"MFCCs need torchaudio, which cannot be imported .* another speech encoder"):
        open_speech(SpeechEncoderConfig("mfcc"))
