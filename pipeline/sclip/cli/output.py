"""The output of commands: aligned tables, and for programs, with --json, one JSON document and nothing else."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sclip.errors import printable

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document, and nothing else, on stdout."
)


def print_json(data: Any) -> None:
    """Print a JSON document in ASCII, so that no name in it can control a terminal or is impossible to encode."""
    click.echo(json.dumps(plain(data), indent=1).replace("\x7f", "\\u007f"))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns that are as wide as their widest cell."""
    cells = [tuple(printable(str(cell)) for cell in row) for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def plain(data: Any) -> Any:
    """Convert dataclasses, paths and sequences to JSON's types. Numbers that JSON does not have become null."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: plain(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(item) for item in data]
    if isinstance(data, Path):
        return str(data)
    return None if isinstance(data, float) and not math.isfinite(data) else data
