"""Commands that use a model on files: index, search, embed."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sclip.apps.inputs import NOUNS
from sclip.cli.completion import complete_files
from sclip.cli.options import branch_option, device_option, model_option
from sclip.cli.output import json_option, print_json
from sclip.errors import counted, list_findings, printable

if TYPE_CHECKING:
    from sclip.apps.search import Ranking

kind_option = click.option(
    "--kind",
    type=click.Choice(["image", "audio"]),
    help="What FILES are.  [default: what their names end with]",
)


@click.command("index", short_help="Make or update an index of pictures or recordings.")
@click.argument("files", nargs=-1, required=True, shell_complete=complete_files)
@model_option()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The index, a folder.")
@kind_option
@branch_option()
@device_option
@json_option
def index(
    files: tuple[str, ...],
    model: str,
    out: Path,
    kind: Literal["image", "audio"] | None,
    branch: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Make or update an index of pictures or recordings, for `sclip search`.

    FILES are pictures or recordings, folders of them, quoted patterns ('photos/**/*.jpg'), and lists (@list.txt, a name
    a line). Afterwards the index holds exactly these files: only new and changed ones are embedded, and others are
    dropped. Files that cannot be used are named and left out. An interrupted command continues when it is run again.
    """
    from sclip.apps.index import index

    result = index(files, out, model=model, kind=kind, branch=branch, device=device, progress=True)
    _report_skipped(result.kind, result.skipped)
    if as_json:
        print_json(result)
        return
    click.echo(
        f"{printable(str(out))}: {counted(result.count, NOUNS[result.kind])}; {result.embedded:,} embedded, "
        f"{result.dropped:,} dropped, {len(result.skipped):,} skipped; {result.seconds:.1f} s"
    )


@click.command("search", short_help="Search an index by recordings, text or pictures.")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("audio", nargs=-1, shell_complete=complete_files)
@click.option("--text", multiple=True, help="A sentence to search for. May be repeated.")
@click.option(
    "--image",
    multiple=True,
    metavar="PICTURE",
    shell_complete=complete_files,
    help="A picture to search for. May be repeated.",
)
@model_option(default=None, more="  [default: the model of the index]")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many files to show.")
@branch_option("that of an index of recordings, else parallel")
@click.option(
    "--engine",
    type=click.Choice(["exact", "faiss"]),
    default="exact",
    show_default=True,
    help="faiss is for millions of files: from 25,000 on it searches approximately. It needs pip install faiss-cpu.",
)
@device_option
@json_option
@click.option("--open", "show", is_flag=True, help="Show the result in the browser, as a page in a file.")
def search(
    index: Path,
    audio: tuple[str, ...],
    text: tuple[str, ...],
    image: tuple[str, ...],
    model: str | None,
    top: int,
    branch: str | None,
    engine: Literal["exact", "faiss"],
    device: str,
    as_json: bool,
    show: bool,
) -> None:
    """Find the pictures or recordings of an INDEX that are most similar to recordings, sentences or pictures.

    AUDIO are recordings; - is one on standard input.
    """
    from sclip.apps.search import search

    rankings = search(
        index, audio, text=text, image=image, model=model, top=top, branch=branch, engine=engine, device=device
    )
    if as_json:
        print_json(rankings)
    else:
        _print_rankings(rankings)
    if show:
        _open(rankings)


@click.command("embed", short_help="Write vectors to a file, with an id for each.")
@click.argument("kind", metavar="audio|image|text", type=click.Choice(["audio", "image", "text"]))
@click.argument("files", nargs=-1, required=True, shell_complete=complete_files)
@model_option()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A .npy, .parquet or .safetensors file.")
@branch_option()
@device_option
@json_option
def embed(
    kind: Literal["audio", "image", "text"],
    files: tuple[str, ...],
    model: str,
    out: Path,
    branch: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Write the vectors of recordings, pictures or sentences to a file, with an id for each.

    FILES are as for `sclip index`; for text they hold a sentence a line. An interrupted command continues when it
    is run again.
    """
    from sclip.apps.embed import embed

    result = embed(kind, files, out, model=model, branch=branch, device=device, progress=True)
    _report_skipped(kind, result.skipped)
    if as_json:
        print_json(result)
        return
    names = ", ".join(printable(str(file)) for file in result.files)
    click.echo(f"{names}: {counted(result.count, 'vectors')}; {len(result.skipped):,} skipped; {result.seconds:.1f} s")


def _report_skipped(kind: str, skipped: Mapping[str, str]) -> None:
    """Print the files that cannot be used, on standard error."""
    cases = [f"{_short(name)}: {reason}" for name, reason in skipped.items()]
    for line in list_findings("skipped", {NOUNS[kind]: cases} if cases else {}):
        click.echo(printable(line), err=True)


def _short(path: str) -> str:
    """Return a path below the current folder relative to it, and any other as it is."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _print_rankings(rankings: "Sequence[Ranking]") -> None:
    """Print the files of each ranking with their scores, under the query if there are several."""
    for i, ranking in enumerate(rankings):
        if len(rankings) > 1:
            click.echo(("\n" if i else "") + printable(ranking.query))
        for match in ranking.matches:
            click.echo(f"{match.rank:3}  {match.score:6.3f}  {printable(_short(match.path))}")


def _open(rankings: "Sequence[Ranking]") -> None:
    """Write a page with the result and show it in the browser if there is one. Print where the page is."""
    import webbrowser

    from sclip.apps.contact_sheet import contact_sheet

    folder = tempfile.mkdtemp(prefix="sclip-search-")
    page = contact_sheet(rankings, Path(folder) / "search.html")
    opened = webbrowser.open(page.as_uri())
    click.echo(f"{page}{'' if opened else ': no browser was found; open this page in one'}", err=True)
