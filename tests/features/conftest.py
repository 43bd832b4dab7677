"""A small corpus on disk: recordings of noise, and pictures of colour gradients."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from sclip.corpora.manifest import write_manifest

LENGTHS = (8000, 4321, 12000, 400, 6400, 9999, 2000, 7000, 11000, 5000)


class Corpus:
    """The corpus's folder and the rows of its manifest. Call `write` after a change to `rows`."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "manifest.jsonl"
        folder.mkdir()
        self.rows = []
        for i, length in enumerate(LENGTHS):
            self.record(f"{i}.wav", length, seed=i)
            ramp = Image.linear_gradient("L").resize((20, 16))
            Image.merge("RGB", [ramp.point([(x + 20 * c) % 256 for x in range(256)]) for c in (i, 3 * i, 7 * i)]).save(
                folder / f"{i // 2}.png"
            )
            self.rows.append(
                {
                    "id": f"u{i}",
                    "split": "train",
                    "audio": f"{i}.wav",
                    "image": f"{i // 2}.png",
                    "image_id": f"p{i // 2}",
                    "text": f"a dog and {i} cats",
                }
            )
        self.write()

    def record(self, name, length, seed=0, rate=16000, channels=1):
        samples = np.random.default_rng(seed).normal(0, 0.1, (length, channels))
        soundfile.write(self.folder / name, samples, rate)

    def write(self):
        write_manifest(self.path, self.rows)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path / "corpus")
