"""Print the papers' tables as Markdown, CSV or LaTeX, with our results below the published numbers.

results/paper.yaml holds the published numbers and the keys of the same metrics in metrics.json. For tables of the
development split, our number is the best value of the learning curve. Such tables never contain test results.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sclip import paths
from sclip.errors import UserError
from sclip.evaluation.metrics_file import read_metrics
from sclip.parsing import entry, parse, read_yaml
from sclip.paths import METRICS
from sclip.report.results import Points, differing_conditions, random_encoders, read_curves, read_run_metrics
from sclip.report.table import Measurement, lookup, summarize
from sclip.report.tables import TOPLINE

# The parts of a test's metrics.json and of a training's learning curves that a column may name.
PARTS = {
    "test": (
        *("speech_to_image", "image_to_speech", "speech_to_text", "text_to_speech", "text_to_image", "image_to_text"),
        *("transcript_to_image", "image_to_transcript", "transcript_to_text"),
        *("keywords", "localization", "keyword_spotting", "boundaries", "groups"),
    ),
    "dev": ("dev",),
}
# What LaTeX would obey, or does not have in every font.
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"→": r"$\to$", "–": "--", "−": "$-$", "±": r"$\pm$"}
)


@dataclass(frozen=True)
class Ours:
    """The preset, architecture and branch of our results for a published row."""

    preset: str
    arch: str
    branch: Literal["parallel", "cascaded", "slots"]


@dataclass(frozen=True)
class PaperRow:
    """A published row, or, without `published`, a system of ours that has no published numbers."""

    system: str
    source: str | None = None
    published: tuple[float | None, ...] = ()
    ours: Ours | None = None


@dataclass(frozen=True)
class PaperTable:
    title: str
    split: Literal["test", "dev"]
    columns: dict[str, str]
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True)
class Paper:
    sources: dict[str, str]
    tables: dict[str, PaperTable]


@dataclass(frozen=True)
class PrintedRow:
    system: str
    origin: str  # published, ours, difference, or the published checkpoint measured here
    cells: list[Measurement | None]  # None: an empty cell
    source: str = ""  # of published numbers


def read_paper(path: Path = Path("results/paper.yaml")) -> Paper:
    if not path.is_file():
        raise UserError(f"{path}: no such file; start in a project folder, or make one with `sclip init`")
    paper: Paper = parse(Paper, read_yaml(path), str(path))
    for name, table in paper.tables.items():
        for column, key in table.columns.items():
            _check_key(key, PARTS[table.split], f"{path}: tables.{name}.columns.{column}")
        for row in table.rows:
            where = f"{path}: tables.{name}: {row.system}"
            if row.ours is not None and row.source is None and not row.published:
                continue
            if len(row.published) != len(table.columns):
                raise UserError(f"{where}: expected {len(table.columns)} numbers, found {len(row.published)}")
            if row.source is None:
                raise UserError(f"{where}: has published numbers and no `source`; name a key of `sources`")
            if row.source not in paper.sources:
                raise UserError(f"{where}: no source {row.source!r}; add it under `sources`")
    return paper


def _check_key(key: str, parts: Sequence[str], where: str) -> None:
    """Refuse a figure's key that no model can have; its cells would be empty without a word."""
    entry(dict.fromkeys(parts), re.split("[./]", key)[0], where)
    for name in re.findall("{(.*?)}", key):
        entry({"branch": None}, name, where)


def printed_rows(table: PaperTable, with_ours: bool) -> Iterator[PrintedRow]:
    """Yield for each row of a table the published numbers, ours and the difference, as far as there are any."""
    for row in table.rows:
        published = [None if number is None else Measurement(number, places=2) for number in row.published]
        if row.source is not None:
            yield PrintedRow(row.system, "published", list(published), row.source)
        if row.ours is None or not with_ours:
            continue
        imported = paths.imported_results_folder(row.ours.preset, row.ours.arch)
        seeds = [f for f in paths.run_folders(row.ours.preset) if f.parent == imported.parent and f != imported]
        metrics = _read_seeds(row.ours, seeds)
        ours = _cells(table, row.ours.branch, seeds, metrics)
        origin = "ours, with random encoder weights" if any(map(random_encoders, metrics)) else "ours"
        yield PrintedRow(row.system, origin, ours)
        if published:
            yield PrintedRow(row.system, "difference", list(map(_difference, ours, published)))
        if (imported / METRICS).is_file():
            cells = _cells(table, row.ours.branch, [imported], [read_metrics(imported / METRICS)])
            yield PrintedRow(row.system, "published checkpoint, measured here", cells)
    if with_ours and table.split == "test":
        yield from _toplines(table)


def _toplines(table: PaperTable) -> Iterator[PrintedRow]:
    """Yield the topline of speech recognition on each preset's corpus, if it was measured and has the table's figures.

    It is the same in all runs of a preset.
    """
    for preset in dict.fromkeys(row.ours.preset for row in table.rows if row.ours is not None):
        files = [path for folder in paths.run_folders(preset) if (path := folder / METRICS).is_file()]
        metrics: dict[str, Any] = next((m for m in map(read_metrics, files) if "transcript_to_image" in m), {})
        cells = [_topline_cell(metrics, key) for key in table.columns.values()]
        if any(cells):
            yield PrintedRow(TOPLINE, f"ours, {preset}: {metrics['about']['transcripts']}", cells)


def _topline_cell(metrics: dict[str, Any], key: str) -> Measurement | None:
    """Return the transcripts' result for a metric of speech retrieval, and None for any other, such as the hit rate."""
    if "speech" not in key:
        return None
    name = key.replace("speech", "transcript").replace("{branch}", "clip")
    return summarize([lookup(metrics, name.split("."))], places=2)


def _read_seeds(ours: Ours, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the metrics of a row's seeds that were evaluated. Refuse seeds whose mean would mix different test data."""
    seeds = sorted(int(folder.name.removeprefix("seed-")) for folder in folders if (folder / METRICS).is_file())
    metrics = [read_run_metrics(ours.preset, ours.arch, seed) for seed in seeds]
    for seed, other in zip(seeds, metrics, strict=True):
        if different := differing_conditions(metrics[0], other):
            raise UserError(
                f"preset {ours.preset}: {ours.arch}, seed {seed}, was evaluated with other {', '.join(different)} than "
                f"seed {seeds[0]}; run `sclip evaluate --preset {ours.preset} --arch {ours.arch} --seed {seed}` again"
            )
    return metrics


def _cells(
    table: PaperTable, branch: str, folders: Sequence[Path], metrics: Sequence[dict[str, Any]]
) -> list[Measurement | None]:
    """Return a row's figures: of the metrics, or, in a table of the development split, of the folders' curves."""
    keys = [key.replace("{branch}", branch) for key in table.columns.values()]
    if table.split == "dev":
        best = [[max(value for _, value in curve) for curve in _curves(folders, key)] for key in keys]
        return [summarize(values, places=2) for values in best]
    return [summarize([_figure(entries, key) for entries in metrics], places=2) for key in keys]


def _figure(metrics: dict[str, Any], key: str) -> Any:
    """Return the figure at a key of metrics.json, or None if it was not measured."""
    figure = lookup(metrics, key.split("."))
    if isinstance(figure, dict) and "value" not in figure:
        raise UserError(
            f"the column {key} of the papers' tables: expected a figure, found a table; add one of its keys: "
            f"{', '.join(figure)}"
        )
    return figure


def _curves(folders: Sequence[Path], name: str) -> list[Points]:
    curves = [read_curves(folder).get(name) for folder in folders]
    return [curve for curve in curves if curve]


def _difference(ours: Measurement | None, published: Measurement | None) -> Measurement | None:
    if ours is None or published is None:
        return None
    low, high = (None if bound is None else bound - published.value for bound in (ours.low, ours.high))
    return replace(ours, value=ours.value - published.value, low=low, high=high)


def as_markdown(paper: Paper, with_ours: bool) -> str:
    parts = []
    for table in paper.tables.values():
        rows = [["", "", *table.columns], ["---", "---", *["---:"] * len(table.columns)]]
        last = ""
        for row in printed_rows(table, with_ours):
            system = "" if row.system == last else row.system
            last = row.system
            origin = f"published ({row.source})" if row.source else row.origin
            rows.append([system, origin, *map(_text, row.cells)])
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        parts.append(f"## {_title(table)}\n\n{body}\n")
    sources = "".join(f"- {name}: {source}\n" for name, source in paper.sources.items())
    return "\n".join([*parts, f"Sources:\n{sources}"])


def as_csv(paper: Paper, with_ours: bool) -> str:
    """Return one row per number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "split", "system", "origin", "column", "value", "low", "high", "deviation", "source"])
    for name, table in paper.tables.items():
        for row in printed_rows(table, with_ours):
            for column, cell in zip(table.columns, row.cells, strict=True):
                numbers = [] if cell is None else [cell.value, cell.low, cell.high, cell.deviation]
                rounded = ["" if n is None else f"{n:.2f}" for n in numbers] or [""] * 4
                writer.writerow([name, table.split, row.system, row.origin, column, *rounded, row.source])
    return text.getvalue()


def as_data(paper: Paper, with_ours: bool) -> dict[str, Any]:
    """Return the tables as plain data; a cell is null, or has a value and what is known of its spread."""
    return {
        name: {
            "title": table.title,
            "split": table.split,
            "rows": [
                {
                    "system": row.system,
                    "origin": row.origin,
                    "source": paper.sources[row.source] if row.source else None,
                    "cells": {column: _number(cell) for column, cell in zip(table.columns, row.cells, strict=True)},
                }
                for row in printed_rows(table, with_ours)
            ],
        }
        for name, table in paper.tables.items()
    }


def _number(cell: Measurement | None) -> dict[str, float | None] | None:
    if cell is None:
        return None
    return {"value": cell.value, "low": cell.low, "high": cell.high, "deviation": cell.deviation}


def as_latex(paper: Paper, with_ours: bool) -> str:
    """Return LaTeX tables that need the package booktabs."""
    parts = []
    for table in paper.tables.values():
        lines = [" & ".join(["", "", *map(_escape, table.columns)])]
        last = ""
        for row in printed_rows(table, with_ours):
            system = "" if row.system == last else row.system
            last = row.system
            lines.append(" & ".join(map(_escape, [system, row.origin, *map(_text, row.cells)])))
        body = f"{lines[0]} \\\\\n\\midrule\n" + "".join(f"{line} \\\\\n" for line in lines[1:])
        columns = "ll" + "r" * len(table.columns)
        parts.append(
            f"% {_title(table)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}\n"
        )
    return "\n".join(parts)


def _title(table: PaperTable) -> str:
    return f"{table.title}, {'test' if table.split == 'test' else 'development'} split"


def _text(cell: Measurement | None) -> str:
    return cell.full_text if cell else ""


def _escape(text: str) -> str:
    return text.translate(LATEX)


FORMATS = {"markdown": as_markdown, "csv": as_csv, "latex": as_latex}
