"""`sclip pretrain`: pre-train an encoder, and write its model card."""

import dataclasses
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from sclip.config import Params
from sclip.errors import UserError
from sclip.files import atomic_folder, locked
from sclip.pretrain.clip import pretrain_clip
from sclip.pretrain.speech import pretrain_speech

OUT = {"speech": Path("models/mini-hubert"), "clip": Path("models/mini-clip")}
TITLES = {
    "speech": "mini-hubert: a small HuBERT for the scenes corpus",
    "clip": "mini-clip: a small CLIP for the scenes corpus",
}
ABOUT = {
    "speech": """\
A `transformers` HuBERT with the layout of HuBERT base and 50 frames per second. It was pre-trained by masked
prediction, first of clusters of MFCCs, then of clusters of its own hidden states. The training data is speech without
text: captions of scenes, spoken by synthetic voices. It contains no pair of things and no speaker of the development
and test splits.""",
    "clip": """\
An `open_clip` model with CLIP's tokenizer. It was trained on pictures of scenes and written captions: 60 % of the
captions are sentences, and 40 % are loose words. The training data contains no pair of things of the development and
test splits.""",
}


def pretrain(params: Params, which: str, out: Path | None, device: str) -> Path:
    """Write the encoder's folder, with README.md and quality.json, and return it. It replaces an older one."""
    folder = out or OUT[which]
    config: Any = params.pretrain.speech if which == "speech" else params.pretrain.clip
    make: Any = pretrain_speech if which == "speech" else pretrain_clip
    scratch = folder.with_name(f"{folder.name}.scratch")
    if folder.exists() and not (folder / "quality.json").is_file():
        raise UserError(
            f"{folder}: the folder exists and has no quality.json, so `sclip pretrain` did not make it; "
            "move it away or choose another folder"
        )
    with locked(scratch):
        with atomic_folder(folder) as unfinished:
            quality = make(config, torch.device(device), unfinished, scratch)
            (unfinished / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
            (unfinished / "README.md").write_text(_card(which, config, quality, device), encoding="utf-8")
        shutil.rmtree(scratch)
    return folder


def _card(which: str, config: Any, quality: dict[str, Any], device: str) -> str:
    numbers = "\n".join(f"| {key} | {value} |" for key, value in quality.items())
    settings = json.dumps(dataclasses.asdict(config))
    where = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} CPU threads"
    )
    return f"""\
# {TITLES[which]}

{ABOUT[which]}

Made by `sclip pretrain {which}` with torch {torch.__version__} on {where}, {platform.machine()}. The weights are stored
in half precision. These are the settings, including the seed (`pretrain.{which}` in params.yaml):

    {settings}

Measured on pictures, phrases and voices of the test split, which the training data does not contain (`minutes` is the
duration of the training):

| | |
|---|---|
{numbers}
"""
