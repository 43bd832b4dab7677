"""The manifest: what every stage knows of a corpus. A JSON object a line, a line an utterance, in this order of keys.

    id        unlike any other's
    split     train, dev or test
    audio     a file, relative to the manifest's folder or absolute
    image     the same
    image_id  the picture's name; utterances of one picture share it
    text      the caption, where there is one
    speaker   where it is known
    words     [[word, start, end], …] in seconds, where they are known

Splits are told by rows, not by files, so any later stage sees the whole corpus in one order.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclip.errors import Problems, UserError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Row:
    id: str
    split: str
    audio: Path
    image: Path
    image_id: str
    text: str | None = None
    speaker: str | None = None
    words: tuple[tuple[str, float, float], ...] | None = None
    line: int = 0  # in the manifest, from 1

    @property
    def name(self) -> str:
        """For messages."""
        return f"manifest row {self.line} ({self.id})"


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Whole, or not at all. `rows` hold the keys above, paths as they are to be written."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished.replace(path)


def read_manifest(path: Path, problems: Problems) -> list[Row]:
    """Rows that can be read; the files that they name are looked for, not into."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `sclip make-corpus` writes it")
    rows: list[Row] = []
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            row = _row(text, line, path.parent, problems)
            if row is None:
                continue
            if row.id in seen:
                problems.add(row.name, f"repeats the id of row {seen[row.id]}")
                continue
            seen[row.id] = line
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def _row(text: str, line: int, folder: Path, problems: Problems) -> Row | None:
    name = f"manifest row {line}"
    try:
        data = json.loads(text)
        row = Row(**{**data, "audio": folder / data["audio"], "image": folder / data["image"], "line": line})
    except (ValueError, KeyError, TypeError) as error:
        problems.add(name, f"not a row: {error}")
        return None
    fault = next(_faults(row), None)
    if fault is not None:
        problems.add(row.name, fault)
        return None
    words = None if row.words is None else tuple((str(w), float(s), float(e)) for w, s, e in row.words)
    return Row(**{**vars(row), "words": words})


def _faults(row: Row) -> Iterator[str]:
    if row.split not in SPLITS:
        yield f"expected a split of {', '.join(SPLITS)}, found {row.split!r}"
    for kind, path in (("audio", row.audio), ("image", row.image)):
        if not path.is_file():
            yield f"{kind} {path}: no such file"
    if row.text is not None and not row.text.strip():
        yield "text: empty"
