"""The command that writes transcripts for the topline that uses text."""

from pathlib import Path

import click

from sclip import paths
from sclip.cli.options import (
    device_option,
    folder_or_repo,
    on_error_option,
    preset_or_argument,
    preset_settings,
    problems_of,
    reads_params,
)
from sclip.cli.output import json_option, print_json
from sclip.errors import counted


@click.command("transcribe", short_help="Write transcripts for a topline that uses text.")
@click.argument("whisper", callback=folder_or_repo)
@click.option("--revision", help="Of the hub repo: a branch, a tag or a commit.")
@click.option(
    "--language",
    help="The language that is spoken, such as en. Without it, a multilingual Whisper detects it.",
)
@preset_or_argument
@device_option
@on_error_option
@json_option
@reads_params
def transcribe(
    whisper: Path | str,
    revision: str | None,
    language: str | None,
    preset: str | None,
    device: str,
    on_error: str | None,
    params_file: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write what WHISPER recognises in the test split, for a topline that uses text.

    WHISPER is a folder or a hub repo in the format of transformers, such as openai/whisper-small. Reads
    data/PRESET/manifest.jsonl and the recordings. Writes data/PRESET/transcripts.json. Later, `evaluate` adds the
    retrieval with these texts, and the tables a row that is marked as using text. An interrupted run resumes.
    """
    params, name = preset_settings(params_file, overrides, preset)
    from sclip.device import choose_device
    from sclip.features.transcripts import find_test_rows, transcribe
    from sclip.files import locked

    problems, out = problems_of(params, name, on_error), paths.transcripts(name)
    find_test_rows(paths.manifest(name), problems)  # refuses a corpus before Whisper is downloaded
    from sclip.encoders.whisper import Recognizer

    recognizer = Recognizer.from_pretrained(str(whisper), revision, language).to(choose_device(device))
    with locked(out.parent):
        result = transcribe(recognizer, paths.manifest(name), out, problems)
    problems.report()
    if as_json:
        print_json({"file": out, **vars(result), "skipped": problems.skipped})
        return
    click.echo(
        f"{out}: {counted(result.transcripts, 'transcripts')}, {result.computed} computed; {result.seconds:.0f} s"
    )
