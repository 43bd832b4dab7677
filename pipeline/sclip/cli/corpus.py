"""Commands that fetch, make and check a corpus."""

from pathlib import Path

import click

from sclip import paths
from sclip.cli.options import on_error_option, preset_or_argument, preset_settings, problems_of, reads_params
from sclip.cli.output import json_option, print_json
from sclip.corpora.archives import ARCHIVES
from sclip.errors import UserError, counted


@click.command("fetch", short_help="Download a corpus.")
@click.option("--list", "listed", is_flag=True, help="List the archives, their sources, sizes and checksums.")
@click.argument("corpus", type=click.Choice(list(ARCHIVES)), required=False)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.argument("parts", nargs=-1)
@json_option
def fetch(listed: bool, corpus: str | None, folder: Path | None, parts: tuple[str, ...], as_json: bool) -> None:
    """Download CORPUS into FOLDER: all of it, or the PARTS given.

    Parts are recordings, captions, pictures, splits, alignments and keyword-labels, as far as the corpus has them. An
    interrupted download resumes; if a source fails, the next one is tried. The archives of flickr8k are 5.3 GB large,
    those of spokencoco 84 GB, the recordings of places 85 GB; unpacking needs as much again. A preset reads the corpus
    with corpus.path: FOLDER.
    """
    if listed:
        chosen = ARCHIVES if corpus is None else {corpus: ARCHIVES[corpus]}
        described = {name: [archive.describe() for archive in archives] for name, archives in chosen.items()}
        _print_archives(described, as_json)
        return
    if corpus is None or folder is None:
        raise UserError("expected a corpus and a folder, such as `sclip fetch flickr8k data/flickr8k`, or --list")
    known = {archive.part for archive in ARCHIVES[corpus]}
    for part in parts:
        if part not in known:
            raise UserError(f"{corpus} has no part {part!r}; expected some of {', '.join(sorted(known))}")
    from sclip.corpora.fetch import fetch

    lines, wanted = [], [archive for archive in ARCHIVES[corpus] if not parts or archive.part in parts]
    for line in fetch(wanted, folder):
        lines.append(line)
        click.echo(line, err=as_json)
    if as_json:
        print_json({"folder": folder, "archives": lines})
    if not any(archive.sources for archive in wanted):  # the lines say what to do instead
        raise SystemExit(1)


def _print_archives(described: dict[str, list[str]], as_json: bool) -> None:
    if as_json:
        print_json(described)
        return
    for name, lines in described.items():
        click.echo("\n  ".join([name, *lines]))


@click.command("make-corpus", short_help="Write the manifest of a preset's corpus.")
@preset_or_argument
@on_error_option
@json_option
@reads_params
def make_corpus(
    preset: str | None, on_error: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Write the manifest of PRESET's corpus.

    Reads presets.PRESET.corpus. Writes data/PRESET/manifest.jsonl, one row an utterance, and its SHA-256 next to it in
    manifest.digest.json. For scenes, also makes the pictures and recordings; for a hub data set, unpacks them.
    """
    params, name = preset_settings(params_file, overrides, preset)
    from sclip.corpora.make import make_corpus
    from sclip.files import locked

    problems, manifest = problems_of(params, name, on_error), paths.manifest(name)
    with locked(manifest.parent):
        utterances = make_corpus(params.preset(name).corpus, manifest, problems)
    problems.report()
    if as_json:
        print_json({"manifest": manifest, "utterances": utterances, "skipped": problems.skipped})
    else:
        click.echo(f"{manifest}: {counted(utterances, 'utterances')}")


@click.command("check-corpus", short_help="Read a corpus; print counts, notes and faults.")
@preset_or_argument
@json_option
@reads_params
def check_corpus(preset: str | None, params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read every recording and picture of PRESET's corpus, and print counts, notes and faults.

    Reads presets.PRESET.corpus and the files that it names; for scenes, what make-corpus made. A recording is too short
    if the preset's speech encoder makes no frame of it. Writes nothing, except that a hub data set is unpacked into
    data/PRESET/unpacked. Exit status 1 if a file is missing or damaged, if a picture occurs twice or in two splits, if
    word times do not fit, or if a published corpus is not complete.
    """
    params, name = preset_settings(params_file, overrides, preset)
    from sclip.corpora.check import as_data, check_corpus, report
    from sclip.encoders.open import shortest_recording

    chosen = params.preset(name)
    check = check_corpus(chosen.corpus, paths.manifest(name), shortest_recording(chosen.encoders.speech))
    if as_json:
        print_json({"preset": name, **as_data(check)})
    else:
        for line in report(check):
            click.echo(line)
    if check.faults:
        raise SystemExit(1)
