"""Run commands in a project folder with small encoders and a corpus of a dozen pictures."""

from pathlib import Path

import torch
import yaml
from click.testing import CliRunner
from shipped import PARAMS, RUN
from small import ARCHITECTURES, clip_encoder, speech_encoder

from sclip.cli import main

TINY = {
    "base": "none",
    "recipe": "published",
    "corpus": {
        "kind": "scenes",
        "seed": 1,
        "pictures": {"train": 12, "dev": 4, "test": 6},
        "captions": {"train": 1, "dev": 1, "test": 2},
        "voices": {"train": 2, "dev": 1, "test": 1},
        "nouns": 24,
    },
    "encoders": {"speech": {"name": "speech"}, "clip": {"name": "local-dir:clip"}},
    "features": {"shard_megabytes": 1},
    "training": {"steps": 6, "warmup_steps": 2, "batch": 6, "precision": "fp32", "dev_every": 3, "learning_rate": 1e-3},
    "arch": {name: {} for name in ARCHITECTURES},
}


def write_encoders(folder: Path) -> list[str]:
    """Write the two encoders that the preset TINY names, and return their hashes."""
    torch.manual_seed(0)
    encoders = {"speech": speech_encoder(), "clip": clip_encoder()}
    for name, encoder in encoders.items():
        encoder.save(folder / name)
    return [encoder.fingerprint() for encoder in encoders.values()]


def write_preset(name: str, file: str = "", **changes) -> tuple[str, ...]:
    """Write params.yaml with one more preset, TINY with `changes`, and return the options that choose it."""
    file = file or f"{name}.yaml"
    params = yaml.safe_load(PARAMS.read_text())
    params["presets"][name] = TINY | changes
    params["run"] = RUN | {"presets": [name]}
    Path(file).write_text(yaml.safe_dump(params))
    return ("--preset", name, "--params", file)


def run_sclip(*command: str, status: int = 0) -> str:
    """Run a command that must end with `status`, and return its output."""
    result = CliRunner().invoke(main, command)
    assert result.exit_code == status, result.output
    return result.output
