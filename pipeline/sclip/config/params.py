"""All of params.yaml, read and checked before anything runs.

A preset is an experiment: a corpus, two encoders, how features are stored, how heads are trained, a recipe, and
exceptions for single architectures. A preset with a `base` inherits all settings that it does not set itself, with two
exceptions (see `_with_base` and `_inherited`). DVC does not know this rule, so dvc.yaml follows the keys of a preset
and those of all BASES, and these keys must exist. A recipe has a head and losses for each architecture.
`Params.experiment` combines a preset and an architecture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sclip import paths
from sclip.config.architecture import Architecture, HeadConfig, ObjectiveConfig
from sclip.config.checks import require, require_seed, require_stage_name
from sclip.config.corpora import CorpusConfig, ManifestConfig
from sclip.config.encoders import Encoders
from sclip.config.features import FeaturesConfig
from sclip.config.pretraining import Pretraining
from sclip.config.training import TrainingConfig
from sclip.errors import UserError
from sclip.parsing import as_table, entry, merged, parse, parse_yaml, read_yaml

BASES = ("scenes", "scenes-study", "flickr8k-base", "flickr8k-large", "spokencoco-large")  # as in dvc.yaml
NO_BASE = "none"
RECIPES = ("published", "sclip")  # as in dvc.yaml


@dataclass(frozen=True)
class Preset:
    base: str  # the preset from which this one inherits: one of BASES, or none
    corpus: CorpusConfig
    encoders: Encoders
    features: FeaturesConfig
    training: TrainingConfig
    recipe: str  # a key of `recipes`
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
            for value in values:
                require(values.count(value) == 1, f"{key}: {value!r} is listed more than once; list it once")
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
    recipes: dict[str, dict[str, Architecture]]
    presets: dict[str, Preset]

    def __post_init__(self) -> None:
        for preset in self.presets:
            require_stage_name("presets", preset)
            require(
                preset != "unfinished", "presets: unfinished: models/unfinished has checkpoints; choose another name"
            )
        for recipe, architectures in self.recipes.items():
            for arch in architectures:
                require_stage_name(f"recipes.{recipe}", arch)


@dataclass(frozen=True)
class Params(_ParamsFile):
    """All of params.yaml, and the experiment of each preset and architecture."""

    where: str
    experiments: dict[str, dict[str, Experiment]]

    def preset(self, name: str) -> Preset:
        return entry(self.presets, name, f"{self.where}: presets")

    def experiment(self, preset: str, arch: str) -> Experiment:
        recipe = self.preset(preset).recipe
        return entry(self.experiments[preset], arch, f"{self.where}: recipes.{recipe}")


def load_params(path: str | Path = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read and check params.yaml.

    An override is KEY=VALUE, as in `dvc exp run -S`: a full key with dots, and a value in YAML. As there, a table is
    merged into the one in the file, and any other value replaces what is there. DVC needs a + before a key that the
    file does not have; here it has no effect.
    """
    path = Path(path)
    data = read_yaml(path)
    for override in overrides:
        data = _override(data, override)
    written = as_table(as_table(data, str(path)).get("presets", {}), f"{path}: presets")
    # The bases come first, so that a mistake in one of them is not reported as that of a preset which inherits it.
    ordered = sorted(written, key=lambda name: name not in BASES)
    data = {**data, "presets": {name: _with_base(written, name, str(path)) for name in ordered}}
    file: _ParamsFile = parse(_ParamsFile, data, str(path))
    for name in file.run.presets:
        entry(file.presets, name, f"{path}: run.presets")
    experiments = {}
    for name in file.presets:
        where = f"{path}: presets.{name}"
        _check_preset(file, name, where)
        if name in file.run.presets:
            _check_keys_of_dvc(written, name, file, str(path))
        preset, recipe = data["presets"][name], data["recipes"][file.presets[name].recipe]
        experiments[name] = {arch: _experiment(recipe[arch], preset, arch, where) for arch in recipe}
    presets = {name: file.presets[name] for name in written}
    return Params(file.run, file.pretrain, file.recipes, presets, str(path), experiments)


def _with_base(presets: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    """Return a preset with the settings that it inherits. Exceptions for architectures belong to their recipe.

    The bases must have been checked before.
    """
    preset = as_table(presets[name], f"{path}: presets.{name}")
    if preset.get("base", NO_BASE) == NO_BASE:
        return preset
    where = f"{path}: presets.{name}.base"
    base = entry(presets, parse(Literal[(*BASES, NO_BASE)], preset["base"], where), where)
    if name in BASES:
        raise UserError(f"{where}: expected none, because other presets inherit from {name}; found {preset['base']!r}")
    if "recipe" not in preset:
        raise UserError(f"{path}: presets.{name}.recipe: missing; the base has {base.get('recipe')}")
    if preset["recipe"] != base.get("recipe"):
        base = {**base, "arch": {}}
    return _inherited(base, preset)


def _inherited(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `own`. A corpus of its own kind or an encoder of its own name replaces all."""
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        replaces = not both or "kind" in value or "name" in value
        result[key] = value if replaces else _inherited(result[key], value)
    return result


def _check_preset(file: _ParamsFile, name: str, where: str) -> None:
    """Check a preset against the other parts of params.yaml."""
    preset = file.presets[name]
    recipe = entry(file.recipes, preset.recipe, f"{where}.recipe")
    for arch in preset.arch:
        entry(recipe, arch, f"{where}.arch: recipes.{preset.recipe}")
    manifest = preset.corpus.path if isinstance(preset.corpus, ManifestConfig) else None
    if manifest is not None and Path(manifest).resolve() == paths.manifest(name).resolve():
        raise UserError(f"{where}.corpus.path: `make-corpus` writes {manifest}; move your manifest to another path")


def _check_keys_of_dvc(presets: Mapping[str, Any], name: str, file: _ParamsFile, path: str) -> None:
    """Check that every key exists that dvc.yaml names for a preset in run.presets, even if its value is inherited."""
    where = f"{path}: presets.{name}"
    for key in ("corpus", "encoders", "features", "training", "arch"):
        if key not in presets[name]:
            raise UserError(
                f"{where}: no key {key!r}; dvc.yaml follows this key of every preset in run.presets; add `{key}: {{}}`"
            )
    if file.presets[name].recipe not in RECIPES:
        raise UserError(
            f"{where}.recipe: dvc.yaml follows the recipes {' and '.join(RECIPES)}, found "
            f"{file.presets[name].recipe!r}; change one of the two, or start the commands without DVC"
        )
    followed = (name, *(base for base in BASES if base in presets and base != name))
    for arch in file.run.architectures:
        for recipe in RECIPES:
            architectures = entry(file.recipes, recipe, f"{path}: recipes, which dvc.yaml follows")
            entry(architectures, arch, f"{path}: recipes.{recipe}, for run.architectures")
        missing = [f"presets.{preset}.arch" for preset in followed if arch not in presets[preset]["arch"]]
        if missing:
            raise UserError(
                f"{path}: {', '.join(missing)}: no {arch!r}, which run.architectures lists and dvc.yaml follows; add "
                f"`{arch}: {{}}`{' to each' if len(missing) > 1 else ''}"
            )


def _experiment(architecture: Mapping[str, Any], preset: Mapping[str, Any], arch: str, where: str) -> Experiment:
    """Combine an architecture of a recipe with a preset: its training, and its exceptions for the architecture."""
    where = f"{where}.arch.{arch}"
    settings = merged({**architecture, "training": preset["training"]}, preset["arch"].get(arch, {}))
    experiment: Experiment = parse(Experiment, settings, where)
    return experiment


def _override(data: Any, override: str) -> Any:
    """Apply an override to the plain data of params.yaml."""
    key, equals, value = override.removeprefix("+").partition("=")
    if not equals:
        raise UserError(f"override {override!r}: expected KEY=VALUE")
    nested = parse_yaml(value, f"override {key}")
    table, *names = key.split(".")
    if table not in _keys(_ParamsFile) and table in _keys(Preset):
        raise UserError(f"override {override!r}: give the full key, presets.PRESET.{key}")
    if len(names) > 1 and table in ("presets", "recipes"):  # an override of a part must not create a new preset
        where = f"override {key}: {table}"
        entry(as_table(as_table(data, key).get(table, {}), where), names[0], where)
    if nested == {} and _table_at(data, key.split(".")):
        raise UserError(
            f"override {override}: an empty table changes nothing, because tables are merged; set the keys in it, or "
            "edit the file"
        )
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return merged(as_table(data, key), nested)


def _keys(kind: type[Preset | _ParamsFile]) -> set[str]:
    return {field.name for field in fields(kind)}


def _table_at(data: Any, parts: Sequence[str]) -> bool:
    """Return whether a table that is not empty lies at a key."""
    for part in parts:
        data = data.get(part) if isinstance(data, Mapping) else None
    return isinstance(data, Mapping) and len(data) > 0
