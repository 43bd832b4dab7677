"""The page: what the other modules found out, put into page.html. The template escapes whatever it is given."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sclip import paths
from sclip.config import Params
from sclip.corpora.manifest import SPLITS, Row, read_manifest
from sclip.errors import Problems
from sclip.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, layer_weights, learning_curves
from sclip.report.plots import recall, summary
from sclip.report.results import Results
from sclip.report.tables import Figure, doubts, tables
from sclip.report.utterances import DRAWN, PEAKS, pictures, utterances

COLOURS = 8  # in page.css
VIEW = {
    "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM, "peaks": PEAKS, "drawn": DRAWN,
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    name: str
    utterances: int
    pictures: int
    voices: int  # 0: not known


@dataclass(frozen=True)
class Best:
    """Of all architectures and branches, by R@10 of speech to image."""

    arch: str
    branch: str
    recall: Figure


def page(params: Params, results: Results) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = read_manifest(paths.manifest(results.preset), Problems(skip=True))
    return templates.get_template("page.html").render(
        results=results,
        preset=params.preset(results.preset),
        best=_best(results),
        summary=summary(results),
        corpus=[_split(split, rows) for split in SPLITS],
        tables=tables(results),
        doubts=doubts(results),
        charts=learning_curves(results),
        layers=layer_weights(results),
        utterances=utterances(results),
        pictures=pictures(results),
        colours={arch: f"colour-{i % COLOURS}" for i, arch in enumerate(results.runs)},
        counts=results.first.metrics["counts"],
        view=VIEW,
    )


def _best(results: Results) -> Best:
    found = [Best(runs[0].arch, branch, recall(runs, branch)) for _, branch, runs in results.branches]
    return max(found, key=lambda best: best.recall.value)


def _split(name: str, rows: list[Row]) -> Split:
    own = [row for row in rows if row.split == name]
    voices = {row.speaker for row in own} - {None}
    return Split(name, len(own), len({row.image_id for row in own}), len(voices))
