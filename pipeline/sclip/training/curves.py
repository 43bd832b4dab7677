"""Write a training's history as DVCLive files, for `dvc plots` and for editors that show them.

The checkpoint holds the authoritative history. A resumed run rewrites its curves from that history, so no step is
missing and no step appears twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sclip.errors import UserError
from sclip.files import name_in_errors

if TYPE_CHECKING:
    from dvclive.live import Live

HistoryRow = dict[str, float]  # `step`, and the values measured at that step


Log = Callable[[HistoryRow], None]


@contextmanager
def curves(folder: Path | None, history: Iterable[HistoryRow]) -> Iterator[Log]:
    """Write `history`, and yield a function that writes one more row."""
    if folder is None:
        yield lambda row: None
        return
    with name_in_errors(folder), _open(folder) as live:

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


def _open(folder: Path) -> "Live":
    from dvclive.live import Live  # imported here because this takes half a second
    from scmrepo.exceptions import SCMError

    try:
        return Live(str(folder), dvcyaml=None, save_dvc_exp=False)
    except SCMError as error:
        advice = "make a first commit, such as `git commit --allow-empty -m start`"
        if (link := _broken_link()) is not None:
            advice = f"{link} names a folder that does not exist; make it available, or move {link} away"
        raise UserError(f"{folder}: DVCLive cannot read the git repository ({error}); {advice}") from error


def _broken_link() -> Path | None:
    """Return the file `.git` of a worktree or submodule if the repository that it names is missing."""
    here = Path.cwd()
    git = next((parent / ".git" for parent in (here, *here.parents) if (parent / ".git").exists()), None)
    if git is None or not git.is_file():
        return None
    named = git.parent / git.read_text(errors="replace").removeprefix("gitdir:").strip()
    return None if named.is_dir() else git
