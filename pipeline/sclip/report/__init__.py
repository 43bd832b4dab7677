"""The stage `report`: all of a preset's results side by side.

table.md            for people and for diffs
summary.json        for `dvc metrics`
plots/*.json        for `dvc plots`
report.html         one page that needs no other file, with a dozen utterances to listen to

The same results give the same bytes.
"""

from pathlib import Path
from typing import Any

from sclip import paths
from sclip.config import Params
from sclip.files import write_json, write_text
from sclip.report.page import page
from sclip.report.plots import plots, summary
from sclip.report.results import read_results
from sclip.report.tables import doubts, tables


def write_report(params: Params, preset: str) -> list[Path]:
    """What was written."""
    results = read_results(params, preset)
    out = paths.report_folder(preset)
    table = "\n".join([f"# {preset}\n", *(each.markdown() for each in tables(results)), f"{doubts(results)}\n"])
    texts = {out / "table.md": table, out / "report.html": page(params, results)}
    for path, text in texts.items():
        write_text(path, text)
    data: dict[Path, Any] = {out / "summary.json": summary(results)}
    data |= {out / "plots" / f"{name}.json": rows for name, rows in plots(results).items()}
    (out / "plots").mkdir(exist_ok=True)
    for path, numbers in data.items():
        write_json(path, numbers)
    return [*texts, *data]
