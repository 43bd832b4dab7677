"""What a project folder has, and how a new one is made from the installed package.

In a clone, a stage depends on the source files that compute its result. A folder without them depends on code.json,
which has a fingerprint of the installed code for each stage. `dvc repro` writes it first, so an update of the package
reruns the stages whose code it changes.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sclip.config import LOSSES, Architecture, Params
from sclip.errors import UserError
from sclip.files import write_json
from sclip.fingerprints import stage_fingerprints
from sclip.model.listing import find_models
from sclip.paths import CODE, SHIPPED_MODELS, STARTER

# The files of a new folder, and where the package has them.
STARTER_FILES = {
    "params.yaml": "params.yaml",
    "results/paper.yaml": "paper.yaml",
    ".gitignore": "gitignore",
    ".dvcignore": "dvcignore",
    ".dvc/.gitignore": "dvc/gitignore",
    ".dvc/config": "dvc/config",
    ".dvc/plots": "dvc/plots",
    "models": "models",
}
NO_GIT = "    no_scm = true\n"  # in [core] of .dvc/config
HEADER = """\
# Written by `sclip init`. Each stage runs one command; `run` in params.yaml lists the presets, architectures and seeds.
# The parameters of a stage are those of its preset, and those of the presets from which others inherit.
# code.json has a fingerprint of the installed code for each stage, so an update of sclip reruns what it changes.
# Large files (pictures, recordings, shards) stay outside DVC's cache. The out of such a stage is a small file that the
# command writes last and that lists the large files.
"""


@dataclass(frozen=True)
class PresetRow:
    preset: str
    corpus: str
    recipe: str
    speech: str
    clip: str
    runs: bool  # `dvc repro` runs it


@dataclass(frozen=True)
class ArchRow:
    arch: str
    utterance: bool
    keywords: str | None  # where the slots come from
    attention_heads: int
    losses: dict[str, float]


@dataclass(frozen=True)
class ModelRow:
    model: str
    arch: str
    trained_on: str | None
    shipped: bool  # with the package; the name works in every folder


def list_presets(params: Params) -> list[PresetRow]:
    return [
        PresetRow(
            name,
            preset.corpus.kind,
            preset.recipe,
            _with_seed(preset.encoders.speech),
            _with_seed(preset.encoders.clip),
            name in params.run.presets,
        )
        for name, preset in params.presets.items()
    ]


def _with_seed(encoder: Any) -> str:
    return str(encoder.name) if encoder.random_seed is None else f"{encoder.name}, random weights"


def list_archs(params: Params, preset: str) -> list[ArchRow]:
    """Return the architectures of a preset, with its exceptions applied."""
    return [_arch_row(name, one.architecture) for name, one in params.experiments[preset].items()]


def _arch_row(name: str, architecture: Architecture) -> ArchRow:
    head, keywords = architecture.head, architecture.head.keywords
    slots = None if keywords is None else "CIF" if keywords.cif else f"{keywords.slots} learned slots"
    weights = {loss: getattr(architecture.objective, loss) for loss in LOSSES}
    return ArchRow(name, head.utterance, slots, head.attention.heads, {k: w for k, w in weights.items() if w})


def list_models() -> list[ModelRow]:
    """Return the model folders below models/, and the shipped ones under names that work in every folder."""
    shipped = {f"models/{model.folder.name}": model for model in find_models(SHIPPED_MODELS, depth=1)}
    others = {str(model.folder): model for model in find_models(Path("models"), depth=3)}  # models/PRESET/ARCH/seed-N
    models = others | shipped
    return [ModelRow(name, models[name].arch, models[name].trained_on, name in shipped) for name in sorted(models)]


def init_project(folder: Path) -> list[str]:
    """Write a project into an empty folder, and return the names of what was written. A .git there is left alone."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose a new or an empty folder")
    if folder.exists() and any(path.name != ".git" for path in folder.iterdir()):
        raise UserError(f"{folder}: is not empty; choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sclip-init-") as scratch:
        new = Path(scratch)
        for name, source in STARTER_FILES.items():
            _copy(STARTER / source, new / name)
        if not any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents)):
            with (new / ".dvc/config").open("a", encoding="utf-8") as config:
                config.write(NO_GIT)
        (new / "dvc.yaml").write_text(installed_stages(), encoding="utf-8")
        write_json(new / CODE, stage_fingerprints())  # DVC reads it before it runs the stage that writes it
        names = sorted(path.name for path in new.iterdir())
        for name in names:
            os.rename(new / name, folder / name)
    return names


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, but not its permissions, because an installed package may be read-only."""
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    else:
        for child in source.iterdir():
            _copy(child, target / child.name)


def installed_stages() -> str:
    """Return dvc.yaml for a folder without the source files: code.json stands for them."""
    stages = yaml.safe_load((STARTER / "stages.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        stage["params"] = [*stage["params"], {CODE.name: [name]}]
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith("pipeline/")]
        if not stage["deps"]:
            del stage["deps"]
    code = {"cmd": "sclip fingerprint-code", "always_changed": True, "outs": [{CODE.name: {"cache": False}}]}
    text: str = yaml.safe_dump({"stages": {"fingerprint-code": code, **stages}}, sort_keys=False, width=120)
    return HEADER + text
