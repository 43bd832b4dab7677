"""Write pictures and recordings of noise, and empty files."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


def write_files(*names: str) -> None:
    for name in names:
        _with_folder(name).touch()


def write_pictures(*names: str, first: int = 0) -> None:
    """Write pictures that differ by their number, which starts at `first`."""
    for i, name in enumerate(names, first):
        noise = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).save(_with_folder(name))


def write_recordings(*names: str, first: int = 0, samples: int = 8_000) -> None:
    """Write recordings that differ by their number, which starts at `first`."""
    for i, name in enumerate(names, first):
        noise = np.random.default_rng(i).standard_normal(samples) / 10
        soundfile.write(_with_folder(name), noise, 16_000)


def _with_folder(name: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
