"""Commands about a project folder: make one, list what it has, and check its files."""

import shlex
from pathlib import Path

import click

from sclip.apps.project import init_project, list_archs, list_models, list_presets
from sclip.cli.group import with_preset
from sclip.cli.options import preset_or_argument, preset_settings, reads_params
from sclip.cli.output import json_option, print_json, print_table
from sclip.config import load_params
from sclip.errors import counted, printable
from sclip.paths import CODE


@click.command("init", short_help="Create a project in an empty folder.")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def init(folder: Path, as_json: bool) -> None:
    """Create a project in an empty FOLDER: params.yaml, dvc.yaml, the papers' numbers and the small models that ship.

    All commands work there, and `dvc repro` runs the stages, as in a clone.
    """
    names = init_project(folder)
    if as_json:
        print_json({"folder": folder, "written": names})
        return
    name = printable(str(folder))
    click.echo(f"{name}: {', '.join(names)}")
    click.echo(
        f"Next: cd {shlex.quote(name)} && dvc repro, or edit params.yaml first; `sclip list presets` lists what it has"
    )


@click.command("fingerprint-code", hidden=True)
def fingerprint_code() -> None:
    """Write code.json, the fingerprint of the installed code of each stage, for the dvc.yaml of `sclip init`."""
    from sclip.files import write_json
    from sclip.fingerprints import stage_fingerprints

    write_json(CODE, stage_fingerprints())


@click.group("list", short_help="List presets, architectures or models.")
def list_() -> None:
    """List what can be given as --preset, --arch and --model."""


@list_.command("presets", short_help="List the presets of params.yaml.")
@json_option
@reads_params
def presets(params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the presets of params.yaml; those that `dvc repro` runs have a star."""
    rows = list_presets(load_params(params_file, overrides))
    if as_json:
        print_json(rows)
        return
    print_table(
        ("", "preset", "corpus", "recipe", "speech encoder", "CLIP"),
        [("*" if row.runs else "", row.preset, row.corpus, row.recipe, row.speech, row.clip) for row in rows],
    )


@list_.command("archs", short_help="List the architectures of a preset.")
@preset_or_argument
@json_option
@reads_params
def archs(preset: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the architectures of a preset, and what each one has."""
    params, name = preset_settings(params_file, overrides, preset)
    rows = list_archs(params, name)
    if as_json:
        print_json({"preset": name, "archs": rows})
        return
    print_table(
        ("architecture", "utterance vector", "keywords", "attention heads", "losses"),
        [
            (
                row.arch,
                "yes" if row.utterance else "–",
                row.keywords or "–",
                row.attention_heads,
                ", ".join(f"{loss} {weight:g}" for loss, weight in row.losses.items()),
            )
            for row in rows
        ],
    )


@list_.command("models", short_help="List the model folders, and the models that ship.")
@json_option
def models(as_json: bool) -> None:
    """List the model folders below models/, and the models that ship, whose names work in every folder."""
    rows = list_models()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("model", "architecture", "trained on", ""),
        [(row.model, row.arch, row.trained_on or "–", "ships with sclip" if row.shipped else "") for row in rows],
    )


@click.command("verify", short_help="Check every byte that later stages read.")
@preset_or_argument
@json_option
@reads_params
def verify(preset: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check every byte that later stages of PRESET read.

    Reads data/PRESET (the manifest, its recordings and pictures, features, vectors and transcripts), the models and
    checkpoints in models/, and results/PRESET. A stage that has not run yet is not a fault. `dvc status` says whether
    models and results belong to the current corpus. Exit status 1 if anything is missing or damaged, or if there is a
    shard that the index does not list.
    """
    _, name = preset_settings(params_file, overrides, preset)
    from sclip.apps.verify import verify_preset

    result, context = verify_preset(name), click.get_current_context()
    faults = [{"where": found.where, "what": with_preset(found.what, context)} for found in result.faults]
    if as_json:
        print_json({"preset": name, "checked": result.checked, "faults": faults})
    else:
        for fault in faults:
            click.echo(f"{printable(fault['where'])}: {printable(fault['what'])}")
        counts = ", ".join(counted(count, what) for what, count in result.checked.items())
        click.echo(f"{name}: {counts}: {counted(len(result.faults), 'faults')}")
    if result.faults:
        click.echo(
            "Delete what is damaged or left over, and run the command that is named or that wrote it. Get recordings "
            "and pictures of your own from a copy.",
            err=as_json,
        )
        raise SystemExit(1)
