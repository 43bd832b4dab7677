"""The stage `report`: compare all results of a preset.

table.md            tables for readers and for diffs
summary.json        numbers for `dvc metrics`
plots/*.json        data for `dvc plots`
report.html         one self-contained page, with a dozen recordings to play

The same results give byte-identical files.
"""

from pathlib import Path
from typing import Any

from sclip import paths
from sclip.config import Params
from sclip.files import locked, write_json, write_text
from sclip.report.page import render_page
from sclip.report.plots import plots, summary
from sclip.report.results import read_results
from sclip.report.tables import results_note, tables


def write_report(params: Params, preset: str) -> list[Path]:
    """Write all files of the report, and return their paths."""
    results = read_results(params, preset)
    out = paths.report_folder(preset)
    sections = [f"# {preset}\n", *(table.markdown() for table in tables(results)), f"{results_note(results)}\n"]
    texts = {out / "table.md": "\n".join(sections), out / "report.html": render_page(results)}
    data: dict[Path, Any] = {out / paths.SUMMARY: summary(results)}
    data |= {out / "plots" / f"{name}.json": rows for name, rows in plots(results).items()}
    with locked(out):
        for path, text in texts.items():
            write_text(path, text)
        (out / "plots").mkdir(exist_ok=True)
        for path, content in data.items():
            write_json(path, content)
    return [*texts, *data]
