"""A training's history as DVCLive's files, for `dvc plots` and the editors that read them.

The history in the checkpoint is what counts. A training that goes on writes its curves anew from it, so that no step
is in them twice and none is missing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

HistoryRow = dict[str, float]  # `step`, and what was measured then


class Log(Protocol):
    def __call__(self, row: HistoryRow) -> None: ...


@contextmanager
def curves(folder: Path | None, history: Iterable[HistoryRow]) -> Iterator[Log]:
    """Writes `history`, and each row that the block logs."""
    if folder is None:
        yield lambda row: None
        return
    from dvclive.live import Live  # half a second

    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:

        def write(row: HistoryRow) -> None:
            live.step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    live.log_metric(name, value)

        def log(row: HistoryRow) -> None:
            write(row)
            live.sync()

        for row in history:
            write(row)
        yield log
