"""All of params.yaml, read and checked before anything runs.

A preset is an experiment: a corpus, two encoders, how features are stored, how heads are trained, and exceptions for
single architectures. `Params.experiment` combines a preset and an architecture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sclip import paths
from sclip.config.architecture import Architecture, HeadConfig, ObjectiveConfig
from sclip.config.checks import require, require_seed
from sclip.config.corpora import CorpusConfig, ManifestConfig
from sclip.config.encoders import Encoders
from sclip.config.features import FeaturesConfig
from sclip.config.pretraining import Pretraining
from sclip.config.training import TrainingConfig
from sclip.errors import UserError
from sclip.parsing import as_table, check_keys, entry, merged, parse, parse_yaml, read_yaml


@dataclass(frozen=True)
class Preset:
    corpus: CorpusConfig
    encoders: Encoders
    features: FeaturesConfig
    training: TrainingConfig
    # Exceptions for single architectures: any part of {head, objective, training}.
    arch: dict[str, dict[str, Any]]
    on_error: Literal["fail", "skip"] = "fail"  # a bad row stops the stage, or is left out and counted


@dataclass(frozen=True)
class Run:
    """The presets, architectures and seeds that `dvc repro` runs."""

    presets: tuple[str, ...]
    architectures: tuple[str, ...]
    seeds: tuple[int, ...]  # each from 0 to LARGEST_SEED

    def __post_init__(self) -> None:
        for key, values in vars(self).items():
            require(values != (), f"{key}: expected at least one")
        for i, seed in enumerate(self.seeds):
            require_seed(f"seeds[{i}]", seed)


@dataclass(frozen=True)
class Experiment:
    """One architecture in one preset."""

    head: HeadConfig
    objective: ObjectiveConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        self.architecture  # noqa: B018  checks that the losses fit the head

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.head, self.objective)


@dataclass(frozen=True)
class _ParamsFile:
    run: Run
    pretrain: Pretraining
    arch: dict[str, Architecture]
    presets: dict[str, Preset]


@dataclass(frozen=True)
class Params(_ParamsFile):
    """All of params.yaml, and the experiment of each preset and architecture."""

    where: str
    experiments: dict[str, dict[str, Experiment]]

    def preset(self, name: str) -> Preset:
        return entry(self.presets, name, f"{self.where}: presets")

    def experiment(self, preset: str, arch: str) -> Experiment:
        return entry(entry(self.experiments, preset, f"{self.where}: presets"), arch, f"{self.where}: arch")


def load_params(path: str | Path = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read and check params.yaml.

    An override is KEY=VALUE, as in `dvc exp run -S`: a full key with dots, and a value in YAML.
    """
    path = Path(path)
    data = read_yaml(path)
    for override in overrides:
        data = _override(data, override)
    file: _ParamsFile = parse(_ParamsFile, data, str(path))
    for key, table in (("presets", file.presets), ("architectures", file.arch)):
        for name in getattr(file.run, key):
            entry(table, name, f"{path}: run.{key}")
    experiments = {}
    for name in file.presets:
        _check_preset(file, name, f"{path}: presets.{name}")
        experiments[name] = {arch: _experiment(data, name, arch, str(path)) for arch in file.arch}
    return Params(**vars(file), where=str(path), experiments=experiments)


def _check_preset(file: _ParamsFile, name: str, where: str) -> None:
    """Check a preset against the other parts of params.yaml."""
    preset = file.presets[name]
    for arch in preset.arch:
        entry(file.arch, arch, f"{where}.arch")
    manifest = preset.corpus.path if isinstance(preset.corpus, ManifestConfig) else None
    if manifest is not None and Path(manifest).resolve() == paths.manifest(name).resolve():
        raise UserError(f"{where}.corpus.path: `make-corpus` writes {manifest}; move your manifest to another path")
    for arch in file.run.architectures if name in file.run.presets else ():
        if arch not in preset.arch:
            raise UserError(f"{where}.arch: no {arch!r}, which run.architectures lists; add `{arch}: {{}}`")


def _experiment(data: Mapping[str, Any], preset: str, arch: str, path: str) -> Experiment:
    """Combine an architecture with a preset: its training, and its exceptions for the architecture."""
    where = f"{path}: presets.{preset}.arch.{arch}"
    exceptions = data["presets"][preset]["arch"].get(arch, {})
    check_keys(Experiment, exceptions, where)
    base = {**data["arch"][arch], "training": data["presets"][preset]["training"]}
    experiment: Experiment = parse(Experiment, merged(base, exceptions), where)
    return experiment


def _override(data: Any, override: str) -> Any:
    """Apply an override to the plain data of params.yaml."""
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"override {override!r}: expected KEY=VALUE")
    nested = parse_yaml(value, f"override {key}")
    table, *names = key.split(".")
    if len(names) > 1 and table in ("presets", "arch"):  # an override of a part must not create a new preset
        entry(as_table(data, key).get(table, {}), names[0], f"override {key}: {table}")
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return merged(as_table(data, key), nested)
