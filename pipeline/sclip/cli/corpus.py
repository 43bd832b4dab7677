"""Commands that fetch, make and check a corpus."""

from pathlib import Path

import click

from sclip import paths
from sclip.cli.options import on_error_option, preset_or_argument, preset_settings, problems_of, reads_params
from sclip.cli.output import json_option, print_json


@click.command("fetch")
@click.argument("corpus", type=click.Choice(["flickr8k", "spokencoco"]))
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def fetch(corpus: str, folder: Path, as_json: bool) -> None:
    """Download CORPUS into FOLDER: recordings, captions, splits and pictures.

    An interrupted download resumes. The archives of flickr8k have 5.3 GB, those of spokencoco 84 GB; unpacking needs as
    much again. A preset reads the corpus with corpus.path: FOLDER.
    """
    from sclip.corpora.fetch import ARCHIVES, fetch

    lines = []
    for line in fetch(ARCHIVES[corpus], folder):
        lines.append(line)
        click.echo(line, err=as_json)
    if as_json:
        print_json({"folder": folder, "archives": lines})


@click.command("make-corpus")
@preset_or_argument
@on_error_option
@json_option
@reads_params
def make_corpus(
    preset: str | None, on_error: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Write the manifest of PRESET's corpus.

    Reads presets.PRESET.corpus. Writes data/PRESET/manifest.jsonl, one row an utterance. For scenes, also makes the
    pictures and recordings.
    """
    params, name = preset_settings(params_file, overrides, preset)
    from sclip.corpora.make import make_corpus

    problems = problems_of(params, name, on_error)
    result = make_corpus(params.preset(name).corpus, paths.manifest(name), problems)
    problems.report()
    if as_json:
        print_json({"manifest": paths.manifest(name), "utterances": result.utterances, "skipped": problems.skipped})
    else:
        click.echo(f"{paths.manifest(name)}: {result.utterances} utterances")


@click.command("check-corpus")
@preset_or_argument
@json_option
@reads_params
def check_corpus(preset: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read every recording and picture of PRESET's corpus once, and print counts, notes and faults.

    Reads presets.PRESET.corpus and the files that it names; for scenes, what make-corpus made. Writes nothing. Exit
    status 1 if a file is missing or damaged, if a picture occurs twice or in two splits, or if a published corpus is
    not complete.
    """
    params, name = preset_settings(params_file, overrides, preset)
    from sclip.corpora.check import as_data, check_corpus, report

    check = check_corpus(params.preset(name).corpus, paths.manifest(name))
    if as_json:
        print_json({"preset": name, **as_data(check)})
    else:
        for line in report(check):
            click.echo(line)
    if check.faults:
        raise SystemExit(1)
