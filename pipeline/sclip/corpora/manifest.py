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
from sclip.files import write_text
from sclip.parsing import parse, parse_json, read_text, shown

SPLITS = ("train", "dev", "test")
LATEST = 1e9  # second at which a word of any recording ends


@dataclass(frozen=True)
class _Plain:
    """A row as it is written."""

    id: str
    split: str
    audio: str
    image: str
    image_id: str
    text: str | None = None
    speaker: str | None = None
    words: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        for word in self.words or ():
            right = isinstance(word, list) and len(word) == 3 and isinstance(word[0], str)
            if not right or not all(type(time) in (int, float) and abs(time) <= LATEST for time in word[1:]):
                raise ValueError(f"words: expected [word, start, end], found {shown(word)}")


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
    where: str = ""  # it was read, such as "manifest row 3"

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.where} ({self.id})"


@dataclass(frozen=True)
class Draft:
    """A row as somebody wrote it, and where it stands."""

    where: str
    data: Any

    @property
    def name(self) -> str:
        """For messages."""
        named = isinstance(self.data, dict) and isinstance(self.data.get("id"), str)
        return f"{self.where} ({self.data['id']})" if named else self.where


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """`rows` hold the keys above, paths as they are to be written."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_manifest(path: Path, problems: Problems) -> list[Row]:
    """Rows that can be read. Whoever opens the files that they name says which are gone."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `sclip make-corpus` writes it")
    lines = enumerate(read_text(path).split("\n"), 1)
    rows = checked((_read(text, line, problems) for line, text in lines), path.parent, problems)
    if not rows:
        raise problems.nothing_left(f"{path}: no rows")
    return rows


def checked(drafts: Iterable[Draft | None], folder: Path, problems: Problems) -> list[Row]:
    """Rows that can be used, of those that somebody wrote."""
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for draft in drafts:
        row = None if draft is None else _row(draft, folder, problems)
        if draft is None or row is None:
            continue
        if row.id in seen:
            problems.add(draft.name, f"repeats the id of {seen[row.id]}")
            continue
        seen[row.id] = draft.where
        rows.append(row)
    return rows


def with_files(rows: Iterable[Row], problems: Problems) -> list[Row]:
    """Rows whose files are there; nobody looks into them."""
    found: list[Row] = []
    for row in rows:
        gone = [f"{kind} {path}" for kind, path in (("audio", row.audio), ("image", row.image)) if not path.is_file()]
        if gone:
            problems.add(row.name, f"{' and '.join(gone)}: no such file")
        else:
            found.append(row)
    return found


def _read(text: str, line: int, problems: Problems) -> Draft | None:
    if not text.strip():
        return None
    try:
        return Draft(f"manifest row {line}", parse_json(text))
    except ValueError as error:
        problems.add(f"manifest row {line}", str(error))
        return None


def _row(draft: Draft, folder: Path, problems: Problems) -> Row | None:
    try:
        plain = parse(_Plain, draft.data, "row")
    except UserError as error:
        problems.add(draft.name, str(error))
        return None
    words = (
        None
        if plain.words is None
        else tuple((str(word), float(start), float(end)) for word, start, end in plain.words)
    )
    paths = {"audio": folder / plain.audio, "image": folder / plain.image}
    row = Row(**{**vars(plain), **paths, "words": words, "where": draft.where})
    fault = next(_faults(row), None)
    if fault is not None:
        problems.add(draft.name, fault)
        return None
    return row


def _faults(row: Row) -> Iterator[str]:
    if row.split not in SPLITS:
        yield f"expected a split of {', '.join(SPLITS)}, found {shown(row.split)}"
    if row.text is not None and not row.text.strip():
        yield "text: empty"
    times = [time for _, start, end in row.words or () for time in (start, end)]
    if times != sorted(times):
        yield "words: their times do not ascend"
