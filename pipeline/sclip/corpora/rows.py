"""A row: one utterance of a corpus, how a reader of a corpus drafts it, and when it is valid. Its keys:

    id        unique
    split     train, dev or test
    audio     the recording's path, absolute or relative to the manifest's folder
    image     the picture's path, absolute or relative to the manifest's folder
    image_id  the picture's name; utterances of the same picture share it
    text      the caption (optional)
    speaker   the speaker's name (optional)
    language  the language that is spoken (optional)
    words     [[word, start, end], …] in seconds (optional)
    transcript  what a speech recogniser wrote (optional)

A few comparisons accept the ordinary rows of a file (`valid_id`). A row that they do not accept goes through the parser
of params.yaml, which is ten times as slow; it accepts the row after all or says what is wrong with it (`check_row`).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sclip.errors import Problems, UserError
from sclip.files import missing_file_reason
from sclip.parsing import parse, shortened

SPLITS = ("train", "dev", "test")
LARGEST_TIME = 1e9  # seconds
TimedWords = tuple[tuple[str, float, float], ...]  # each word with its start and end in seconds
_REQUIRED, _OPTIONAL = ("id", "split", "audio", "image", "image_id"), ("text", "speaker", "language", "transcript")
_KEYS = {*_REQUIRED, *_OPTIONAL, "words"}


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
    transcript: str | None = None

    def __post_init__(self) -> None:
        for word in self.words or ():
            is_triple = isinstance(word, list) and len(word) == 3 and isinstance(word[0], str)
            if not is_triple or not all(type(time) in (int, float) and abs(time) <= LARGEST_TIME for time in word[1:]):
                raise ValueError(f"words: expected [word, start, end], found {shortened(word)}")


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row: one utterance."""

    id: str
    split: str
    audio: Path
    image: Path
    image_id: str
    text: str | None = None
    speaker: str | None = None
    words: TimedWords | None = None
    language: str | None = None
    transcript: str | None = None  # what a speech recogniser wrote
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


def check_rows(drafts: Iterable[Draft], folder: Path, problems: Problems) -> list[Row]:
    """Return the valid rows, and report the others. Relative paths are relative to `folder`."""
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for draft in drafts:
        row = check_row(draft, folder, problems)
        if row is None:
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
        missing = {f"{kind} {path}": missing_file_reason(path) for kind, path in paths if not os.path.isfile(path)}
        if missing:
            problems.add(row.name, f"{' and '.join(missing)}: {'; '.join(dict.fromkeys(missing.values()))}")
        else:
            complete.append(row)
    return complete


def check_row(draft: Draft, folder: Path, problems: Problems) -> Row | None:
    """Return a checked row, or report what is wrong with it."""
    try:
        written = parse(_ManifestRow, draft.data, "row")
    except UserError as error:
        problems.add(draft.name, str(error).removeprefix("row: "))
        return None
    row = to_row(vars(written), folder, draft.where)
    fault = next(_faults(row), None)
    if fault is not None:
        problems.add(draft.name, fault)
        return None
    return row


def to_row(data: Mapping[str, Any], folder: Path, where: str) -> Row:
    """Return a row from its values as they are written, with paths below `folder`."""
    words = data.get("words")
    times = None if words is None else tuple((word, float(start), float(end)) for word, start, end in words)
    paths = {"audio": folder / data["audio"], "image": folder / data["image"]}
    return Row(**{**data, **paths, "words": times, "where": where})


def valid_id(content: bytes) -> str | None:
    """Return the id of a row that is certainly valid, or None for any other row, about which `check_row` decides."""
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return data["id"] if _is_valid(data) else None


def _is_valid(data: Any) -> bool:
    """Return whether a row is certainly valid. If not, `check_row` decides."""
    if type(data) is not dict or not data.keys() <= _KEYS:
        return False
    for key in _REQUIRED:
        if type(data.get(key)) is not str:
            return False
    for key in _OPTIONAL:
        value = data.get(key)
        if value is not None and type(value) is not str:
            return False
    text, words = data.get("text"), data.get("words")
    has_words = words is None or (type(words) is list and _are_valid(words))
    return has_words and data["split"] in SPLITS and (text is None or bool(text.strip()))


def _are_valid(words: list[Any]) -> bool:
    """Return whether words [[word, start, end], …] are certainly valid."""
    numbers, last = (float, int), -LARGEST_TIME
    try:
        for word, start, end in words:
            # Comparing types by `is` is twice as fast as isinstance, and leaves out bool.
            are_numbers = type(start) in numbers and type(end) in numbers
            if type(word) is not str or not are_numbers or not last <= start <= end:
                return False
            last = end
    except (TypeError, ValueError):  # not three values
        return False
    return last <= LARGEST_TIME


def _faults(row: Row) -> Iterator[str]:
    if row.split not in SPLITS:
        yield (
            f"expected a split of {', '.join(SPLITS)}, found {shortened(row.split)}; correct it, or translate it in "
            f"corpus.splits of a table or a hub data set, such as splits: {{{shortened(row.split)}: test}}"
        )
    if row.text is not None and not row.text.strip():
        yield "text: empty; remove the key if there is no caption"
    times = [time for _, start, end in row.words or () for time in (start, end)]
    if times != sorted(times):
        yield "words: expected times in ascending order, without overlap"
