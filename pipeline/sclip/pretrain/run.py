"""`sclip pretrain`: makes an encoder, and its card."""

import dataclasses
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from sclip.config import Params
from sclip.errors import UserError
from sclip.files import atomic_folder
from sclip.pretrain.clip import pretrain_clip
from sclip.pretrain.speech import pretrain_speech

OUT = {"speech": Path("models/mini-hubert"), "clip": Path("models/mini-clip")}
TITLES = {
    "speech": "mini-hubert: a small HuBERT that hears the scenes",
    "clip": "mini-clip: a small CLIP that sees the scenes",
}
ABOUT = {
    "speech": """\
A `transformers` HuBERT of base layout, 50 frames a second, pre-trained by masked prediction: of clusters of MFCCs
first, of clusters of its own hidden states then. Its data is speech alone: captions of scenes spoken by synthetic
voices, no text. It has heard none of the test's pairs of things and none of its speakers, nor of development's.""",
    "clip": """\
An `open_clip` model with CLIP's tokenizer, trained on pictures of scenes and written captions alone: half sentences,
half loose words. It has seen none of the test's or development's pairs of things.""",
}


def pretrain(params: Params, which: str, out: Path | None, device: str) -> list[Path]:
    """Write the encoder's folder, with README.md and quality.json, in place of an older one."""
    folder = out or OUT[which]
    config: Any = params.pretrain.speech if which == "speech" else params.pretrain.clip
    make: Any = pretrain_speech if which == "speech" else pretrain_clip
    scratch = folder.with_name(f"{folder.name}.scratch")
    if folder.exists() and not (folder / "quality.json").is_file():
        raise UserError(f"{folder}: not an encoder that this command made; move it away first")
    with atomic_folder(folder) as unfinished:
        quality = make(config, torch.device(device), unfinished, scratch)
        (unfinished / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
        (unfinished / "README.md").write_text(_card(which, config, quality, device), encoding="utf-8")
    shutil.rmtree(scratch)
    return [folder]


def _card(which: str, config: Any, quality: dict[str, Any], device: str) -> str:
    numbers = "\n".join(f"| {key} | {value} |" for key, value in quality.items())
    settings = json.dumps(dataclasses.asdict(config))
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} CPU threads"
    return f"""\
# {TITLES[which]}

{ABOUT[which]}

Made by `sclip pretrain {which}`, torch {torch.__version__} on {where}, {platform.machine()}. Weights are kept in half
precision. Settings, the seed among them (`pretrain.{which}` in params.yaml):

    {settings}

Measured on pictures, phrases and voices of the test, none of which it was trained on (`minutes` are those of training):

| | |
|---|---|
{numbers}
"""
