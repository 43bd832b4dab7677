"""Commands that measure trained models and put results next to each other."""

from pathlib import Path

import click

from sclip import paths
from sclip.cli.completion import complete_archs, complete_models
from sclip.cli.options import (
    device_option,
    folder_or_repo,
    preset_or_argument,
    preset_settings,
    reads_params,
    seed_option,
)
from sclip.cli.output import json_option, print_json, print_table
from sclip.config import BRANCHES
from sclip.errors import Problems, UserError
from sclip.parsing import read_json


@click.command("evaluate", short_help="Measure a trained model on the test split.")
@click.option(
    "--arch",
    shell_complete=complete_archs,
    help="An architecture, such as cascaded-cif. Needed unless --model is given.",
)
@click.option(
    "--model",
    "folder",
    callback=folder_or_repo,
    shell_complete=complete_models,
    help="A model folder to evaluate instead of the model that was trained here, such as an imported checkpoint.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Score exact hidden states, computed from the recordings in fp32 as sclip.load's models do, instead of the "
    "stored ones. Reads no features; writes below results/PRESET/exact instead of runs.",
)
@preset_or_argument
@seed_option
@device_option
@json_option
@reads_params
def evaluate(
    arch: str | None,
    folder: Path | str | None,
    exact: bool,
    preset: str | None,
    seed: int | None,
    device: str,
    params_file: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure a trained model on the test split: retrieval, keywords, word boundaries, keyword spotting.

    Reads models/PRESET/ARCH/seed-N and data/PRESET. Writes results/PRESET/runs/ARCH/seed-N: metrics.json, with
    intervals, examples.json and words.json for the report, and outcomes.safetensors for `sclip compare`. With --model
    reads that folder, and writes results/PRESET/runs/ARCH/imported.
    """
    if (arch is None) == (folder is None):
        raise UserError(f"expected one of --arch and --model, found {'neither' if arch is None else 'both'}")
    if folder is not None and seed is not None:
        raise UserError(f"--seed {seed}: chooses a model of --arch, and a model folder has none; leave it out")
    params, name = preset_settings(params_file, overrides, preset, arch=arch)
    from sclip import distributed
    from sclip.device import choose_device
    from sclip.evaluation.run import run_imported, run_trained

    problems = Problems(skip=True)
    chosen_device = choose_device(device)
    chosen_seed = params.run.seeds[0] if seed is None else seed
    with distributed.process_group(chosen_device):
        if folder is not None:
            result = run_imported(params, name, Path(folder), chosen_device, problems, exact=exact)
        else:
            result = run_trained(params, name, str(arch), chosen_seed, chosen_device, problems, exact=exact)
        if not distributed.is_main():
            return
    problems.report()
    if as_json:
        print_json({"folder": result.folder, "metrics": read_json(result.folder / paths.METRICS)})
        return
    for branch, recall in result.recalls.items():
        interval = f"[{recall['low']}, {recall['high']}]"
        click.echo(f"{result.folder}: {branch}: speech to image R@10 {recall['value']} {interval}")


@click.command("report", short_help="Put a preset's results into a table and a page.")
@preset_or_argument
@json_option
@reads_params
def report(preset: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Put all results of a preset into one table and one page.

    Reads results/PRESET/runs: metrics, examples, curves. Writes results/PRESET: table.md, report.html (one page that
    needs no other file) and the data of `dvc plots`.
    """
    params, name = preset_settings(params_file, overrides, preset)
    from sclip.report.run import write_report

    files = write_report(params, name)
    if as_json:
        print_json({"preset": name, "files": files, "summary": read_json(paths.report_folder(name) / paths.SUMMARY)})
        return
    for path in files:
        click.echo(path)


@click.command("table", short_help="Print the papers' tables with our numbers.")
@click.option("--paper", "published_only", is_flag=True, help="Print the published numbers alone.")
@click.option(
    "--format", "form", type=click.Choice(["markdown", "csv", "latex"]), default="markdown", show_default=True
)
@json_option
def table(published_only: bool, form: str, as_json: bool) -> None:
    """Print the papers' tables, our numbers below the published ones.

    Reads results/paper.yaml, which has each published number and its source, and what `evaluate` wrote in
    results/PRESET/runs. Cells of what was not run are empty.
    """
    from sclip.report.paper import FORMATS, as_data, read_paper

    if as_json:
        print_json(as_data(read_paper(), not published_only))
        return
    click.echo(FORMATS[form](read_paper(), not published_only), nl=False)


@click.command("compare", short_help="Say whether one evaluated model is better than another.")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--branches",
    nargs=2,
    type=click.Choice(BRANCHES),
    help="Compare only the retrieval of two branches: one of FIRST, then one of SECOND.  [default: every branch that "
    "both have, or else the only branch of each]",
)
@json_option
def compare(first: Path, second: Path, branches: tuple[str, str] | None, as_json: bool) -> None:
    """Say whether one evaluated model is better than another, on the same test utterances.

    FIRST and SECOND are folders that `evaluate` wrote, such as results/scenes/runs/cascaded/seed-0. Prints each figure
    of both, the difference (second - first) with its 95 % interval, and p. The interval and p come from a paired
    bootstrap: each resample draws the same test pictures for both models. p is twice the smaller of two shares of the
    resamples: those with a difference of at most 0, and those with one of at least 0. It is not corrected for the
    number of figures. Neither says how much another training would change the figures.
    """
    from sclip.report.comparison import compare as compare_results
    from sclip.report.table import Measurement

    result = compare_results(first, second, branches)
    if as_json:
        print_json(result)
        return
    rows = []
    for figure in result.figures:
        places = 2 if "rank" in figure.name else 1
        cells = (
            Measurement(**estimate, places=places) for estimate in (figure.first, figure.second, figure.difference)
        )
        one, other, difference = cells
        names = " / ".join(dict.fromkeys(figure.branches or ()))
        rows.append((figure.name, names, one.text, other.text, difference.full_text, f"{figure.p:.3f}"))
    print_table(("", "branch", "first", "second", "second - first", "p"), rows)
    for name, reason in result.left_out.items():
        click.echo(f"{name}: not compared, because {reason}")
