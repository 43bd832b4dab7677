"""The report's tables, for Markdown and for the page.

Of one seed a figure stands with its 95 % interval over the test pictures; of several it is their mean, with the
standard deviation between them.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import Any

from sclip.report.results import Results, Run

SLOTS = 12  # columns at most
COMMON, LISTED = 10, 8  # words that are named: how often spoken, how many


@dataclass(frozen=True)
class Figure:
    value: float
    low: float | None = None  # of the interval, or a standard deviation less
    high: float | None = None
    deviation: float | None = None  # between seeds
    places: int = 1

    @property
    def text(self) -> str:
        return self._number(self.value)

    @property
    def doubt(self) -> str:
        """How far off it may be."""
        if self.deviation is not None:
            return f"± {self._number(self.deviation)}"
        if self.low is None or self.high is None:
            return ""
        return f"[{self._number(self.low)}, {self._number(self.high)}]"

    def _number(self, number: float) -> str:
        return f"{number:.{self.places}f}".replace("-", "−")


@dataclass(frozen=True)
class Column:
    group: str
    name: str
    percent: bool = True

    @property
    def title(self) -> str:
        return f"{self.group} {self.name}".strip()


@dataclass(frozen=True)
class Row:
    label: str
    cells: list[Figure | None]
    arch: str | None = None  # whose it is; none: what stands beside them for comparison


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: list[Column]
    rows: list[Row]
    remarks: tuple[str, ...] = ()  # below it

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns under one heading, and how many they are."""
        return [(name, len(list(columns))) for name, columns in groupby(self.columns, lambda column: column.group)]

    def markdown(self) -> str:
        heads = ["", *(column.title for column in self.columns)]
        lines = [heads, ["---", *["---:"] * len(self.columns)]]
        lines += [[row.label, *(_in_full(cell) for cell in row.cells)] for row in self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n" + "".join(f"\n{remark}\n" for remark in self.remarks)


def _in_full(cell: Figure | None) -> str:
    return "–" if cell is None else f"{cell.text} {cell.doubt}".strip()


def figure(runs: Iterable[Run], *keys: str) -> Figure | None:
    """What stands below these keys in metrics.json; none where it was not measured."""
    return figure_of([below(run.metrics, keys) for run in runs])


def below(metrics: Any, keys: Iterable[str]) -> Any:
    return reduce(lambda table, key: table.get(key) if isinstance(table, dict) else None, keys, metrics)


def figure_of(entries: Iterable[Any], places: int = 1) -> Figure | None:
    """Of a figure's entries in several evaluations: numbers, or {value, low, high}, or none."""
    found = [entry for entry in entries if entry is not None]
    if not found:
        return None
    values = [float(entry["value"] if isinstance(entry, dict) else entry) for entry in found]
    if len(found) > 1:
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        return Figure(mean, mean - deviation, mean + deviation, deviation, places)
    if isinstance(found[0], dict):
        return Figure(values[0], found[0].get("low"), found[0].get("high"), places=places)
    return Figure(values[0], places=0 if isinstance(found[0], int) else places)


def tables(results: Results) -> list[Table]:
    """Those that have anything to show."""
    made = (retrieval(results), keywords(results), first_slots(results), words(results), boundaries(results))
    return [table for table in made if table.rows and table.columns]


def doubts(results: Results) -> str:
    """What stands behind the figures."""
    resamples = results.first.metrics["about"]["bootstrap"]["resamples"]
    told = [f"States scored: {results.first.metrics['about']['states']}."]
    if any(len(runs) == 1 for runs in results.runs.values()):
        told.append(f"In brackets: 95 % intervals, from {resamples} resamplings of the test pictures.")
    if several := [f"{arch} {len(runs)}" for arch, runs in results.runs.items() if len(runs) > 1]:
        told.append(f"With ±: mean and standard deviation between seeds ({', '.join(several)}).")
    if results.random_encoders:
        told.append(f"Not a result of trained encoders: {' and '.join(results.random_encoders)}.")
    if results.missing:
        told.append(f"Not run: {', '.join(results.missing)}.")
    return " ".join(told)


def retrieval(results: Results) -> Table:
    recalls = ("R@1", "R@5", "R@10")
    columns = [Column(way, recall) for way in ("speech → image", "image → speech") for recall in recalls]
    columns.append(Column("speech → text", "R@10"))

    def cells(runs: list[Run], branch: str, query: str = "speech") -> list[Figure | None]:
        ways = [(f"{query}_to_image", recall) for recall in recalls] + [(f"image_to_{query}", r) for r in recalls]
        return [figure(runs, way, branch, recall) for way, recall in (*ways, (f"{query}_to_text", "R@10"))]

    rows = [Row(name, cells(runs, branch), runs[0].arch) for name, branch, runs in results.branches]
    topline = cells([results.first], "clip", "text")
    if any(topline):
        rows.append(Row("CLIP, captions in writing", topline))
    rows.append(Row("chance", cells([results.first], "chance")))
    note = (
        "How often, in %, a right answer is among the first 1, 5 and 10. Speech finds text zero-shot: the two have "
        f"met only through pictures.{_texts(results)}"
    )
    return Table("Retrieval", note, columns, rows)


def _texts(results: Results) -> str:
    """Say how many utterances have text and how many texts differ, where these are fewer."""
    counts = results.first.metrics["counts"]
    captions, distinct = counts["captions"], counts["distinct_captions"]
    repeated = f" A text counts once: {distinct:,} different ones are among {captions:,} captions."
    return _with_text(results) + (repeated if distinct < captions else "")


def _with_text(results: Results) -> str:
    """Say how many utterances are measured against text where not all have one."""
    counts = results.first.metrics["counts"]
    utterances, captions = counts["utterances"], counts["captions"]
    if not 0 < captions < utterances:
        return ""
    return f" {captions:,} of {utterances:,} utterances have text; what needs text is measured on these."


def _content_words(results: Results) -> str:
    """Say which words are no content words."""
    stop_words = results.first.metrics["about"]["stop_words"]
    if stop_words.startswith("none"):
        return f" Content words: every word but punctuation (stop words: {stop_words})."
    return f" Content words: without {stop_words} and punctuation."


def keywords(results: Results) -> Table:
    keys = {
        Column("", "hit rate"): ["hit_rate"],
        Column("", "F1, all tokens"): ["all", "f1"],
        Column("", "F1, content words"): ["content", "f1"],
        Column("", "F1, whole words"): ["words", "f1"],
        Column("", "duplicates"): ["duplicates"],
        Column("", "distinct tokens", percent=False): ["distinct_tokens"],
        Column("", "an utterance", percent=False): ["per_utterance"],
    }
    rows = []
    for arch, runs in results.runs.items():
        if "keywords" not in runs[0].metrics:
            continue
        for who, label, owner in (("model", arch, arch), ("commonest", "commonest tokens", None)):
            rows.append(Row(label, [figure(runs, "keywords", who, *key) for key in keys.values()], owner))
    note = (
        "Against the tokens of the spoken caption. Hit rate: the share of keywords one of whose five nearest tokens is "
        "in the caption, in %. Whole words: keywords side by side that spell one. Below each architecture stands what "
        f"the commonest tokens of the training captions, always the same, would get.{_content_words(results)}"
        f"{_with_text(results)}"
    )
    return Table("Keywords", note, list(keys), rows)


def first_slots(results: Results) -> Table:
    """Hit rates of a varying number of slots"""
    most = max((len(run.words.get("slots", ())) for run in results.every), default=0)
    counts = range(1, min(most, SLOTS) + 1)
    rows = [
        Row(arch, [figure_of([_slot(run, count) for run in runs]) for count in counts], arch)
        for arch, runs in results.runs.items()
        if runs[0].words
    ]
    note = "The hit rate, in %, of an utterance's first 1, 2, 3, … keywords, of as many as it has where they are fewer."
    return Table("Hit rate of the first keywords", note, [Column("first", str(count)) for count in counts], rows)


def _slot(run: Run, count: int) -> Any:
    rows = run.words["slots"][:count]
    return rows[-1]["hit_rate"] if rows else None


def words(results: Results) -> Table:
    """Which words are found"""
    studied = {arch: runs for arch, runs in results.runs.items() if runs[0].words}
    bands = {(row["from"], row["below"]): None for runs in studied.values() for row in runs[0].words["by_frequency"]}
    rows, remarks = [], []
    for arch, runs in studied.items():
        tables = [{(row["from"], row["below"]): row["found"] for row in run.words["by_frequency"]} for run in runs]
        rows.append(Row(arch, [figure_of([table.get(band) for table in tables]) for band in bands], arch))
        common = [word for word in runs[0].words["words"] if word["content"] and word["spoken"] >= COMMON]
        order = sorted(common, key=lambda word: (-word["found"] / word["spoken"], -word["spoken"], word["word"]))
        for title, chosen in (("most", order[:LISTED]), ("least", order[: -LISTED - 1 : -1])):
            if chosen:
                told = ", ".join(f"{w['word']} {100 * w['found'] / w['spoken']:.0f} % of {w['spoken']}" for w in chosen)
                remarks.append(f"{arch} finds {title}: {told}.")
    note = (
        "How often, in %, a content word of the caption is among the keywords, by how many of the test's captions say "
        f"it. Below: words that at least {COMMON} captions say, of the first seed.{_content_words(results)}"
    )
    columns = [Column("captions", _band(*band)) for band in bands]
    return Table("Words found", note, columns, rows, tuple(remarks))


def _band(start: int, below: int | None) -> str:
    if below is None:
        return f"{start} or more"
    return str(start) if below == start + 1 else f"{start}–{below - 1}"


def boundaries(results: Results) -> Table:
    named = {"F1": "f1", "R-value": "r_value"}
    keys = [(f"within {t} ms", name, f"{t}ms", key) for t in (20, 50) for name, key in named.items()]
    rows = []
    for arch, runs in results.runs.items():
        if "boundaries" not in runs[0].metrics:
            continue
        for who, label in (("cif", arch), ("even", "evenly spaced"), ("random", "at random")):
            cells = [figure(runs, "boundaries", tolerance, who, key) for _, _, tolerance, key in keys]
            rows.append(Row(label, cells, arch if who == "cif" else None))
    note = (
        "Where integrate-and-fire fires against where words end, in %. Below each architecture stands what as many "
        "firings get, evenly spaced and at random."
    )
    return Table("Word boundaries", note, [Column(group, name) for group, name, _, _ in keys], rows)
