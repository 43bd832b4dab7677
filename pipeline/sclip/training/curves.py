"""Write a training's history as DVCLive files, for `dvc plots` and for editors that show them.

The checkpoint holds the authoritative history. A resumed run rewrites its curves from that history, so no step is
missing and no step appears twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sclip.files import name_in_errors

HistoryRow = dict[str, float]  # `step`, and the values measured at that step


Log = Callable[[HistoryRow], None]


@contextmanager
def curves(folder: Path | None, history: Iterable[HistoryRow]) -> Iterator[Log]:
    """Write `history`, and yield a function that writes one more row."""
    if folder is None:
        yield lambda row: None
        return
    from dvclive.live import Live  # imported here because the import takes half a second

    with name_in_errors(folder), Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:

        def write(row: HistoryRow) -> None:
            live.step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    live.log_metric(name, value)

        def log(row: HistoryRow) -> None:
            write(row)
            # Not live.sync(), which also reads all curves again and keeps their points: with 2,500 rows it takes 19 ms,
            # where this takes 0.2, and memory grows.
            live.make_summary()

        for row in history:
            write(row)
        yield log
