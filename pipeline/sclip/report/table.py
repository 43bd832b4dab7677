"""One table of the report: its columns, its rows and the measurements in its cells.

With one seed, a measurement has a value and its 95 % interval over the test pictures. With several seeds, it has their
mean and standard deviation.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import Any

from sclip.report.results import EvaluatedRun


@dataclass(frozen=True)
class Measurement:
    value: float
    low: float | None = None  # of the 95 % interval; with several seeds, the mean minus a standard deviation
    high: float | None = None
    deviation: float | None = None  # standard deviation over seeds
    places: int = 1

    @property
    def text(self) -> str:
        return self._number(self.value)

    @property
    def uncertainty(self) -> str:
        """Return the standard deviation or the interval as text; empty if there is neither."""
        if self.deviation is not None:
            return f"± {self._number(self.deviation)}"
        if self.low is None or self.high is None:
            return ""
        return f"[{self._number(self.low)}, {self._number(self.high)}]"

    @property
    def full_text(self) -> str:
        return f"{self.text} {self.uncertainty}".strip()

    def _number(self, number: float) -> str:
        return f"{number:z.{self.places}f}".replace("-", "−")  # z: no minus before a rounded 0


@dataclass(frozen=True)
class Column:
    group: str
    name: str
    percent: bool = True

    @property
    def title(self) -> str:
        return f"{self.group} {self.name}".strip()


@dataclass(frozen=True)
class TableRow:
    label: str
    cells: list[Measurement | None]
    arch: str | None = None  # None: a reference for comparison, such as chance


@dataclass(frozen=True)
class Table:
    title: str
    note: str  # above the table
    columns: list[Column]
    rows: list[TableRow]
    remarks: tuple[str, ...] = ()  # below the table

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Return the heading and the width of each group of neighbouring columns."""
        return [(name, len(list(columns))) for name, columns in groupby(self.columns, lambda column: column.group)]

    def markdown(self) -> str:
        header = ["", *(column.title for column in self.columns)]
        lines = [header, ["---", *["---:"] * len(self.columns)]]
        lines += [
            [row.label.replace("|", "\\|"), *(cell.full_text if cell else "–" for cell in row.cells)]
            for row in self.rows
        ]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n" + "".join(f"\n{remark}\n" for remark in self.remarks)


def measure(runs: Iterable[EvaluatedRun], *keys: str) -> Measurement | None:
    """Summarize the entry at these nested keys of each run's metrics.json. Return None if no run measured it."""
    return summarize([lookup(run.metrics, keys) for run in runs])


def lookup(metrics: Any, keys: Iterable[str]) -> Any:
    """Return the entry at nested keys, or None if a key is missing."""
    return reduce(lambda table, key: table.get(key) if isinstance(table, dict) else None, keys, metrics)


def summarize(entries: Iterable[Any], places: int = 1) -> Measurement | None:
    """Combine the entries of several runs. An entry is a number, {value, low, high} or None."""
    measured = [entry for entry in entries if entry is not None]
    if not measured:
        return None
    values = [float(entry["value"] if isinstance(entry, dict) else entry) for entry in measured]
    if len(measured) > 1:
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        return Measurement(mean, mean - deviation, mean + deviation, deviation, places)
    if isinstance(measured[0], dict):
        return Measurement(values[0], measured[0].get("low"), measured[0].get("high"), places=places)
    return Measurement(values[0], places=0 if isinstance(measured[0], int) else places)
