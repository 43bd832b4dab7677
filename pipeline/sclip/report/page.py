"""Render page.html with the results, charts, tables and examples. The template escapes every value it gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sclip import paths
from sclip.corpora.manifest import read_manifest
from sclip.corpora.rows import SPLITS, Row
from sclip.errors import Problems
from sclip.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, layer_weights, learning_curves
from sclip.report.plots import recall, summary
from sclip.report.results import Results
from sclip.report.search import commands, searched_utterances, thumbnails
from sclip.report.table import Measurement
from sclip.report.tables import results_note, tables
from sclip.report.utterances import BOX_HEIGHT, PEAKS, examples, pictures, timeline_width

COLOURS = 8  # in page.css
VIEW = {
    "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM, "peaks": PEAKS,
    "box_height": BOX_HEIGHT,
}  # fmt: skip


@dataclass(frozen=True)
class SplitCounts:
    name: str
    utterances: int
    pictures: int
    speakers: int  # 0: unknown


@dataclass(frozen=True)
class BestResult:
    """The architecture and branch with the highest R@10 of speech to image."""

    arch: str
    branch: str
    recall: Measurement


def templates(*folders: Path) -> Environment:
    """Return a Jinja environment for the templates in these folders and in this one. It escapes every value."""
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["timeline_width"] = timeline_width
    return environment


def render_page(results: Results) -> str:
    rows = read_manifest(paths.manifest(results.preset), Problems(skip=True))
    return (
        templates()
        .get_template("page.html")
        .render(
            results=results,
            best=_best_result(results),
            summary=summary(results),
            corpus=[_count(split, rows) for split in SPLITS],
            tables=tables(results),
            results_note=results_note(results),
            charts=learning_curves(results),
            layers=layer_weights(results),
            examples=examples(results),
            pictures=pictures(results),
            utterances=searched_utterances(results),
            thumbnails=thumbnails(results),
            commands=commands(results),
            colours={arch: f"colour-{i % COLOURS}" for i, arch in enumerate(results.runs)},
            counts=results.first_run.metrics["counts"],
            view=VIEW,
        )
    )


def _best_result(results: Results) -> BestResult:
    candidates = [BestResult(runs[0].arch, branch, recall(runs, branch)) for _, branch, runs in results.branches]
    return max(candidates, key=lambda result: result.recall.value)


def _count(split: str, rows: Sequence[Row]) -> SplitCounts:
    split_rows = [row for row in rows if row.split == split]
    speakers = {row.speaker for row in split_rows} - {None}
    return SplitCounts(split, len(split_rows), len({row.image_id for row in split_rows}), len(speakers))
