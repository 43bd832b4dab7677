"""Commands that find words in recordings: `keywords` and `segment`."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sclip.apps import exports
from sclip.apps.inputs import STANDARD_INPUT, check_standard_input, read_standard_input
from sclip.cli.completion import complete_files
from sclip.cli.options import device_option, model_option
from sclip.cli.output import json_option, print_json
from sclip.errors import UserError, counted, printable
from sclip.files import is_special, missing_file_reason

if TYPE_CHECKING:
    from sclip.apps.keywords import FoundKeywords


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the recordings and the options that both commands have."""
    options = (
        click.argument("audio", nargs=-1, required=True, shell_complete=complete_files),
        model_option(),
        click.option(
            "--format",
            "form",
            type=click.Choice(list(exports.ENDINGS)),
            help="Print this format, or write it to --out, not a table.",
        ),
        json_option,
        click.option(
            "--out",
            shell_complete=complete_files,
            help="The file to write. Its ending says the format if --format does not. For several recordings a folder, "
            "NAME/: each gets a file of its name. CTM, CSV and JSON can also put all of them into one file.",
        ),
        click.option(
            "--window",
            type=float,
            default=8.0,
            show_default=True,
            help="Seconds. Recordings longer than this, and than 20 s, are read in windows of this length.",
        ),
        click.option(
            "--on-error",
            type=click.Choice(["fail", "skip"]),
            default="fail",
            show_default=True,
            help="What to do with a recording that cannot be used: stop, or name it and leave it out.",
        ),
        device_option,
    )

    for option in reversed(options):
        command = option(command)
    return command


@click.command("keywords", short_help="Find keywords in recordings, with times and scores.")
@_options
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Pieces for each keyword, itself included."
)
@click.option(
    "--plot", type=click.Path(path_type=Path, readable=False), help="Draw one recording to this .png or .svg file."
)
def keywords(audio: tuple[str, ...], plot: Path | None, top: int, **options: Any) -> None:
    """Find the keywords of recordings of any length, with times and scores.

    AUDIO are recordings; - is one on standard input. A keyword is the word piece of CLIP's vocabulary that is nearest
    to what is said at this time. Prints a table; see --json, --format, --out and --plot for other forms.
    """
    _run(audio, plot, top, segments=False, **options)


@click.command("segment", short_help="Cut recordings where CIF fires.")
@_options
def segment(audio: tuple[str, ...], **options: Any) -> None:
    """Cut recordings where CIF fires, into a segment for each keyword.

    AUDIO are recordings; - is one on standard input. Needs a model with continuous integrate-and-fire (CIF). Each
    segment has its keyword as its label.
    """
    _run(audio, None, 1, segments=True, **options)


def _run(
    audio: tuple[str, ...],
    plot: Path | None,
    top: int,
    *,
    segments: bool,
    model: str,
    form: str | None,
    as_json: bool,
    out: str | None,
    window: float,
    on_error: str,
    device: str,
) -> None:
    _check(audio, plot, form, as_json, on_error, out)
    chosen: Any = "json" if as_json else form
    target = None if out is None else exports.destination(out, chosen, audio)
    if target is None and chosen == "ctm":
        exports.check_ctm_names(audio)
    from sclip.apps.keywords import check_window
    from sclip.apps.keywords import keywords as find_keywords
    from sclip.apps.keywords import segment as find_segments
    from sclip.apps.plot import check_plot
    from sclip.apps.plot import plot as draw
    from sclip.device import choose_device
    from sclip.model.loading import load

    check_window(window)
    if plot is not None:
        check_plot(plot)
    loaded = load(model, device=choose_device(device))
    shows_progress = out is not None and sys.stderr.isatty()
    options: Any = {"top": top, "window": window, "on_error": on_error, "progress": shows_progress}
    find = find_segments if segments else find_keywords
    given = [read_standard_input() if path == STANDARD_INPUT else path for path in audio]
    recordings: Iterable[FoundKeywords] = _refuse_none(find(loaded, given, **options), len(given))
    if plot is not None:
        recordings = list(recordings)
        draw(recordings[0], given[0], plot)  # --plot allows one recording
        click.echo(printable(str(plot)), err=True)
    if target is not None:
        _write(recordings, target, segments, as_json)
    elif chosen is not None:
        click.echo(exports.export(list(recordings), chosen, segments=segments), nl=False)
    else:
        for recording in recordings:
            click.echo(exports.as_table(recording, segments=segments))


def _write(recordings: "Iterable[FoundKeywords]", target: exports.Destination, segments: bool, as_json: bool) -> None:
    """Write the recordings' keywords to files, and print the names of the files."""
    files = []
    for path in target.write(recordings, segments=segments):
        files.append(path)
        if not as_json:
            click.echo(printable(str(path)))
    if as_json:
        print_json({"files": files})


def _refuse_none(recordings: "Iterator[FoundKeywords]", given: int) -> "Iterator[FoundKeywords]":
    """Pass on each recording's keywords. If all recordings were left out, that is an error, as for `sclip index`."""
    is_empty = True
    for recording in recordings:
        is_empty = False
        yield recording
    if is_empty:
        raise UserError(f"none of {counted(given, 'recordings')} can be used")


def _check(
    audio: tuple[str, ...], plot: Path | None, form: str | None, as_json: bool, on_error: str, out: str | None
) -> None:
    """Refuse what cannot be done, before anything that takes seconds to import."""
    if as_json and form is not None:
        raise UserError(f"--json and --format {form}: give one of them")
    if form in exports.SINGLE and len(audio) > 1 and out is None:
        raise UserError(f"--format {form}: {len(audio)} recordings need a file each; choose a folder with --out")
    if plot is not None and len(audio) > 1:
        raise UserError(f"--plot draws one recording, found {len(audio)}; run the command for each")
    check_standard_input(audio)
    for path in audio:
        if on_error == "fail" and path != STANDARD_INPUT and not Path(path).exists():
            raise UserError(f"{path}: {missing_file_reason(path)} (--on-error skip goes on without it)")
        if is_special(Path(path)):  # reading a pipe could wait forever
            raise UserError(f"{path}: not a file; - is a recording on standard input")
