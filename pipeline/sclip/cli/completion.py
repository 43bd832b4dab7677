"""Shell completion of the names of presets, architectures and models."""

from collections.abc import Iterable
from pathlib import Path

from click import Context, Parameter
from click.shell_completion import CompletionItem

from sclip.apps.project import list_models
from sclip.config import Params, load_params
from sclip.errors import UserError


def complete_presets(context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    params = _params(context)
    return _items([] if params is None else params.presets, incomplete)


def complete_archs(context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the architectures of the preset that the command line has so far, or of the default one."""
    params = _params(context)
    if params is None:
        return []
    # While --arch has no value yet, click leaves an argument before it in `args`.
    given = (context.params.get("preset"), context.params.get("argument"), *context.args)
    preset = next(filter(None, given), params.run.presets[0])
    return _items(params.experiments.get(preset, {}), incomplete)


def complete_models(_context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete model folders, and other folders if none fits."""
    names = (row.model for row in list_models())
    return [CompletionItem(incomplete, type="dir"), *_items(names, incomplete)]


def complete_files(_context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete names of files and folders."""
    return [CompletionItem(incomplete, type="file")]


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _params(context: Context) -> Params | None:
    """Return the settings that the command line has so far, or None if they cannot be read."""
    try:
        return load_params(context.params.get("params_file") or Path("params.yaml"))
    except (UserError, OSError):
        return None
