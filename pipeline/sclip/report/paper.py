"""The papers' tables, ours beside the published numbers, as Markdown, CSV or LaTeX.

results/paper.yaml holds what was published, and says where in an evaluation's metrics.json the same figure stands. A
table of the development split takes our best of the learning curve, and is never mixed with one of the test split.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sclip import paths
from sclip.errors import UserError
from sclip.parsing import parse, read_json, read_yaml
from sclip.paths import METRICS
from sclip.report.results import Curve, random_encoders, read_curves
from sclip.report.tables import Figure, below, figure_of


@dataclass(frozen=True)
class Ours:
    """Where our results of the same experiment lie."""

    preset: str
    arch: str
    branch: str


@dataclass(frozen=True)
class PaperRow:
    system: str
    source: str
    published: tuple[float | None, ...]
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
class Line:
    """Of a table as it is printed; none is an empty cell."""

    system: str
    whose: str  # published, ours, difference, or the published checkpoint measured here
    cells: list[Figure | None]
    source: str = ""


def read_paper(path: Path = Path("results/paper.yaml")) -> Paper:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    paper: Paper = parse(Paper, read_yaml(path), str(path))
    for name, table in paper.tables.items():
        for row in table.rows:
            where = f"{path}: tables.{name}: {row.system}"
            if len(row.published) != len(table.columns):
                raise UserError(f"{where}: expected {len(table.columns)} numbers, found {len(row.published)}")
            if row.source not in paper.sources:
                raise UserError(f"{where}: no source {row.source!r}")
    return paper


def table_lines(table: PaperTable, with_ours: bool) -> Iterator[Line]:
    for row in table.rows:
        published = [None if number is None else Figure(number, places=2) for number in row.published]
        yield Line(row.system, "published", list(published), row.source)
        if row.ours is None or not with_ours:
            continue
        results = paths.report_folder(row.ours.preset) / "runs" / row.ours.arch
        folders = sorted(results.glob("seed-*"))
        own = _cells(table, row.ours.branch, folders)
        yield Line(row.system, "ours, of random encoders" if _rehearsed(folders) else "ours", own)
        yield Line(row.system, "difference", list(map(_difference, own, published)))
        checkpoint = paths.imported_results_folder(row.ours.preset, row.ours.arch)
        if checkpoint.is_dir():
            yield Line(row.system, "published checkpoint, measured here", _cells(table, row.ours.branch, [checkpoint]))


def _rehearsed(folders: Sequence[Path]) -> bool:
    return any(random_encoders(read_json(folder / METRICS)) for folder in folders if (folder / METRICS).is_file())


def _cells(table: PaperTable, branch: str, folders: Sequence[Path]) -> list[Figure | None]:
    keys = [key.format(branch=branch) for key in table.columns.values()]
    if table.split == "dev":
        best = [[{"value": max(value for _, value in curve)} for curve in _curves(folders, key)] for key in keys]
        return [figure_of(values, places=2) for values in best]
    measured = [read_json(folder / METRICS) for folder in folders if (folder / METRICS).is_file()]
    return [figure_of([below(metrics, key.split(".")) for metrics in measured], places=2) for key in keys]


def _curves(folders: Sequence[Path], name: str) -> list[Curve]:
    found = [read_curves(folder).get(name) for folder in folders]
    return [curve for curve in found if curve]


def _difference(ours: Figure | None, published: Figure | None) -> Figure | None:
    if ours is None or published is None:
        return None
    by = published.value
    low, high = (None if bound is None else bound - by for bound in (ours.low, ours.high))
    return replace(ours, value=ours.value - by, low=low, high=high)


def as_markdown(paper: Paper, with_ours: bool) -> str:
    parts = []
    for table in paper.tables.values():
        rows = [["", "", *table.columns], ["---", "---", *["---:"] * len(table.columns)]]
        for line in table_lines(table, with_ours):
            named = line.system if line.whose == "published" else ""
            source = f"published ({line.source})" if line.source else line.whose
            rows.append([named, source, *map(_text, line.cells)])
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        parts.append(f"## {_title(table)}\n\n{body}\n")
    sources = "".join(f"- {name}: {source}\n" for name, source in paper.sources.items())
    return "\n".join([*parts, f"Sources:\n{sources}"])


def as_csv(paper: Paper, with_ours: bool) -> str:
    """A row a figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "split", "system", "whose", "column", "value", "low", "high", "deviation", "source"])
    for name, table in paper.tables.items():
        for line in table_lines(table, with_ours):
            for column, cell in zip(table.columns, line.cells, strict=True):
                numbers = [] if cell is None else [cell.value, cell.low, cell.high, cell.deviation]
                rounded = ["" if n is None else f"{n:.2f}" for n in numbers] or [""] * 4
                writer.writerow([name, table.split, line.system, line.whose, column, *rounded, line.source])
    return text.getvalue()


def as_latex(paper: Paper, with_ours: bool) -> str:
    """For the package booktabs."""
    parts = []
    for table in paper.tables.values():
        lines = [" & ".join(["", "", *map(_escaped, table.columns)])]
        for line in table_lines(table, with_ours):
            named = line.system if line.whose == "published" else ""
            lines.append(" & ".join(map(_escaped, [named, line.whose, *map(_text, line.cells)])))
        body = f"{lines[0]} \\\\\n\\midrule\n" + "".join(f"{line} \\\\\n" for line in lines[1:])
        columns = "ll" + "r" * len(table.columns)
        parts.append(
            f"% {_title(table)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}\n"
        )
    return "\n".join(parts)


def _title(table: PaperTable) -> str:
    return f"{table.title}, {'test' if table.split == 'test' else 'development'} split"


def _text(cell: Figure | None) -> str:
    return "" if cell is None else f"{cell.text} {cell.doubt}".strip()


def _escaped(text: str) -> str:
    for sign, written in (("&", r"\&"), ("%", r"\%"), ("→", r"$\to$"), ("–", "--"), ("−", "$-$"), ("±", r"$\pm$")):
        text = text.replace(sign, written)
    return text


FORMATS = {"markdown": as_markdown, "csv": as_csv, "latex": as_latex}
