"""The command line: parse, call one function, print. A user's mistake is one line and exit status 1."""

from pathlib import Path
from typing import Any

import click

from sclip import __version__
from sclip.errors import UserError


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:  # a disk that is full, a place that cannot be written
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """SpeechCLIP+: speech in CLIP's image-text space, without transcripts."""


@main.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--encoders",
    type=click.Path(path_type=Path),
    help="JSON with the encoders' configurations (`hubert`: transformers', `clip`: open_clip's), "
    "for encoders of other than the published sizes.",
)
def import_(checkpoint: Path, out: Path, encoders: Path | None) -> None:
    """Make the model folder OUT from a published SpeechCLIP or SpeechCLIP+ CHECKPOINT.

    Reads the file as data: nothing that it pickles is run. Needs none of the code that wrote it. OUT then holds
    everything, the encoders too, and opens with sclip.load(OUT).
    """
    from sclip.interop.importer import import_checkpoint

    report = import_checkpoint(checkpoint, out, encoders)
    for title, lines in (("read", report.read), ("ignored", report.ignored), ("missing", report.missing)):
        for line in lines:
            click.echo(f"{title:8}{line}")
    click.echo(f"{'wrote':8}{out}")
