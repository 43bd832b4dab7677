"""Options that several commands share, and the settings that they choose."""

import contextlib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sclip.cli.completion import complete_archs, complete_models, complete_presets
from sclip.cli.group import CHOSEN_PRESET
from sclip.config import BRANCHES, LARGEST_SEED, Params, load_params
from sclip.errors import Problems, UserError
from sclip.parsing import shortened

SHIPPED_MODEL = "models/scenes-hybrid-cif"  # which finds pictures and has keywords with times
DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]{1,3})?")


def reads_params(command: Callable[..., None]) -> Callable[..., None]:
    """Add --params and -S to a command, and run it in the folder of params.yaml."""

    @functools.wraps(command)
    def run(params_file: Path, **options: Any) -> None:
        if params_file.is_dir():
            raise UserError(f"{params_file}: is a folder; expected a file, such as {params_file / 'params.yaml'}")
        if not params_file.is_file():
            raise UserError(f"{params_file}: no such file; start in a project folder, or make one with `sclip init`")
        if params_file.parent.resolve() != Path.cwd():
            params_file = params_file.absolute()
            options = {key: value.absolute() if isinstance(value, Path) else value for key, value in options.items()}
        with contextlib.chdir(params_file.parent):
            command(params_file=params_file, **options)

    return _set_option(_params_option(run))


_set_option = click.option(
    "-S",
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting of params.yaml, by its full key: -S presets.scenes.training.steps=100. A table, "
    "KEY={a: 1, b: 2}, changes these keys and leaves the table's other keys, as in `dvc exp run -S`; a list or any "
    "other value replaces what is there. May be repeated.",
)
_params_option = click.option(
    "--params",
    "params_file",
    type=click.Path(path_type=Path),
    default=Path("params.yaml"),
    show_default=True,
    help="The settings. The command works in this file's folder: the paths in it, data/, models/ and results/ are "
    "relative to that folder. Paths that you type as arguments are relative to where you are.",
)


def _check_device(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not DEVICE.fullmatch(name):
        raise UserError(f"--device {name}: expected auto, cpu, cuda, mps or xpu, or one of several, such as cuda:1")
    return name


def _check_seed(_context: click.Context, _parameter: click.Parameter, seed: int | None) -> int | None:
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {shortened(seed)}: expected 0 to {LARGEST_SEED}")
    return seed


def model_option(
    *, default: str | list[str] | None = SHIPPED_MODEL, more: str = "", **attributes: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --model of commands that take any model. `more` ends its help, such as with the default."""
    text = f"A model folder, or a hub repo that contains one.{more}"
    return click.option(
        "--model", default=default, show_default=True, shell_complete=complete_models, help=text, **attributes
    )


def branch_option(default: str = "parallel") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --branch. `default` says how recordings are encoded without it."""
    return click.option(
        "--branch",
        type=click.Choice(BRANCHES),
        help="How a hybrid encodes recordings: by its utterance vector (parallel) or by its keywords (cascaded).  "
        f"[default: {default}]",
    )


def folder_or_repo(_context: click.Context, _parameter: click.Parameter, name: str | None) -> Path | str | None:
    """Return a folder that exists as a Path. Any other name may be a hub repo's, which is no path."""
    return Path(name) if name is not None and Path(name).exists() else name


class _Architecture(click.types.StringParamType):
    """Any text. If it is missing, the error says how to list the architectures."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "`sclip list archs` lists the architectures of a preset"


preset_option = click.option(
    "--preset",
    shell_complete=complete_presets,
    help="A key of `presets` in params.yaml.  [default: the first of run.presets]",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    callback=_check_device,
    help="cpu, cuda, cuda:1, …; auto takes a GPU if there is one.",
)
arch_option = click.option(
    "--arch",
    type=_Architecture(),
    required=True,
    shell_complete=complete_archs,
    help="An architecture of the preset's recipe in params.yaml, such as cascaded-cif.",
)
seed_option = click.option(
    "--seed",
    type=int,
    callback=_check_seed,
    help=f"The training's seed, 0 to {LARGEST_SEED}; its folder is seed-N.  [default: the first of run.seeds]",
)
on_error_option = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    help="What to do with a row that cannot be used: stop, or leave it out and count it.  "
    "[default: the preset's on_error]",
)
random_encoders_option = click.option(
    "--random-encoders",
    "random",
    is_flag=True,
    help="Use encoders of the real sizes with random weights, and download nothing: for a rehearsal of a preset. Give "
    "it to all stages or to none. Caches, models and results then name the encoders with 'random weights'.",
)


def preset_or_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take its preset as --preset, as the other commands do, or as an argument."""

    @functools.wraps(command)
    def run(argument: str | None, preset: str | None, **options: Any) -> None:
        if argument is not None and preset is not None and argument != preset:
            raise UserError(f"PRESET is {argument} and --preset is {preset}; give one of them")
        command(preset=preset if argument is None else argument, **options)

    argument = click.argument("argument", metavar="[PRESET]", required=False, shell_complete=complete_presets)
    return argument(preset_option(run))


def preset_settings(
    params_file: Path, overrides: tuple[str, ...], preset: str | None, random: bool = False, arch: str | None = None
) -> tuple[Params, str]:
    """Return the settings and the preset's name, after checking that they have this preset and this architecture."""
    params = load_params(params_file, overrides)
    name = params.run.presets[0] if preset is None else preset
    params.preset(name)
    if name != params.run.presets[0]:
        click.get_current_context().meta[CHOSEN_PRESET] = name
    if arch is not None:
        params.experiment(name, arch)
    if random:
        seeds = (f"presets.{name}.encoders.{encoder}.random_seed=0" for encoder in ("speech", "clip"))
        params = load_params(params_file, (*overrides, *seeds))
    return params, name


def problems_of(params: Params, preset: str, on_error: str | None) -> Problems:
    """Return where a stage records rows that cannot be used."""
    return Problems(skip=(on_error or params.preset(preset).on_error) == "skip")
