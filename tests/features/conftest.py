"""A small corpus on disk: recordings of noise, pictures of one colour."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from sclip.corpora.manifest import write_manifest

LENGTHS = (8000, 4321, 12000, 400, 6400, 9999, 2000, 7000, 11000, 5000)


class Corpus:
    """`rows` as the manifest has them; `write` after a change."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "manifest.jsonl"
        folder.mkdir()
        self.rows = []
        for i, length in enumerate(LENGTHS):
            self.record(f"{i}.wav", length, seed=i)
            Image.new("RGB", (20, 16), (20 * i, 255 - 20 * i, 99)).save(folder / f"{i // 2}.png")
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
