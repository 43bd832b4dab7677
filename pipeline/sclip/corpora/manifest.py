"""The manifest: the list of a corpus's utterances, which every stage reads. Each line is a JSON object with these keys.

    id        unique
    split     train, dev or test
    audio     the recording's path, absolute or relative to the manifest's folder
    image     the picture's path, absolute or relative to the manifest's folder
    image_id  the picture's name; utterances of the same picture share it
    text      the caption (optional)
    speaker   the speaker's name (optional)
    language  the language that is spoken (optional)
    words     [[word, start, end], …] in seconds (optional)

One file holds all splits, so every later stage reads the corpus in the same order.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclip.errors import Problems, UserError
from sclip.files import write_text
from sclip.parsing import parse, parse_json, read_text, shortened

SPLITS = ("train", "dev", "test")
LARGEST_TIME = 1e9  # seconds


@dataclass(frozen=True)
class _ManifestRow:
    """A row as it is written in the manifest."""

    id: str
    split: str
    audio: str
    image: str
    image_id: str
    text: str | None = None
    speaker: str | None = None
    words: tuple[Any, ...] | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        for word in self.words or ():
            is_triple = isinstance(word, list) and len(word) == 3 and isinstance(word[0], str)
            if not is_triple or not all(type(time) in (int, float) and abs(time) <= LARGEST_TIME for time in word[1:]):
                raise ValueError(f"words: expected [word, start, end], found {shortened(word)}")


@dataclass(frozen=True)
class Row:
    """A checked row: one utterance."""

    id: str
    split: str
    audio: Path
    image: Path
    image_id: str
    text: str | None = None
    speaker: str | None = None
    words: tuple[tuple[str, float, float], ...] | None = None
    language: str | None = None
    where: str = ""  # the place it was read from, such as "manifest row 3"

    @property
    def name(self) -> str:
        """Return the row's place and id, for messages."""
        return f"{self.where} ({self.id})"


@dataclass(frozen=True)
class Draft:
    """A row before it is checked, and the place it was read from."""

    where: str
    data: Any

    @property
    def name(self) -> str:
        """Return the row's place and id, for messages."""
        has_id = isinstance(self.data, dict) and isinstance(self.data.get("id"), str)
        return f"{self.where} ({self.data['id']})" if has_id else self.where


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a manifest. `rows` have the keys above; paths are written as they are."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_manifest(path: Path, problems: Problems) -> list[Row]:
    """Return the valid rows. Files that they name may be missing; the stage that opens a file reports that."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `sclip make-corpus` writes it")
    lines = enumerate(read_text(path).split("\n"), 1)
    rows = check_rows((_read(text, line, problems) for line, text in lines), path.parent, problems)
    if not rows:
        raise problems.nothing_left(f"{path}: no row can be used")
    return rows


def check_rows(drafts: Iterable[Draft | None], folder: Path, problems: Problems) -> list[Row]:
    """Return the valid rows, and report the others. Relative paths are relative to `folder`."""
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
    """Return the rows whose files exist, and report the others. The files are not opened."""
    complete: list[Row] = []
    for row in rows:
        paths = (("audio", row.audio), ("image", row.image))
        missing = [f"{kind} {path}" for kind, path in paths if not path.is_file()]
        if missing:
            problems.add(row.name, f"{' and '.join(missing)}: no such file")
        else:
            complete.append(row)
    return complete


def _read(text: str, line: int, problems: Problems) -> Draft | None:
    if not text.strip():
        return None
    try:
        return Draft(f"manifest row {line}", parse_json(text))
    except ValueError as error:
        problems.add(f"manifest row {line}", str(error))
        return None


def _row(draft: Draft, folder: Path, problems: Problems) -> Row | None:
    """Return a checked row, or report what is wrong with it."""
    try:
        written = parse(_ManifestRow, draft.data, "row")
    except UserError as error:
        problems.add(draft.name, str(error))
        return None
    words = None
    if written.words is not None:
        words = tuple((str(word), float(start), float(end)) for word, start, end in written.words)
    paths = {"audio": folder / written.audio, "image": folder / written.image}
    row = Row(**{**vars(written), **paths, "words": words, "where": draft.where})
    fault = next(_faults(row), None)
    if fault is not None:
        problems.add(draft.name, fault)
        return None
    return row


def _faults(row: Row) -> Iterator[str]:
    if row.split not in SPLITS:
        yield f"expected a split of {', '.join(SPLITS)}, found {shortened(row.split)}"
    if row.text is not None and not row.text.strip():
        yield "text: empty; remove the key if there is no caption"
    times = [time for _, start, end in row.words or () for time in (start, end)]
    if times != sorted(times):
        yield "words: expected times in ascending order"
