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
    transcript  what a speech recogniser wrote (optional)

One file holds all splits, so every later stage reads the corpus in the same order.

`make-corpus` also writes `manifest.digest.json` next to it, with the number of rows, the SHA-256 of the manifest, and
whether every row is valid. `read_manifest` compares the SHA-256, and then need not decode rows that were valid when
they were written. A manifest that a user wrote has no such file, and `read_manifest` checks every row.

Memory holds only where each line starts in the file. To check a row, orjson decodes it and a few comparisons accept the
ordinary ones. A row that they do not accept goes through the parser of params.yaml, which is ten times as slow; it
accepts the row after all or says what is wrong with it.
"""

import array
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from sclip.errors import Problems, UserError
from sclip.files import atomic_file
from sclip.index_file import read_index_file, write_index_file
from sclip.parsing import parse, parse_json, shortened

FORMAT = "sclip manifest 1"
SPLITS = ("train", "dev", "test")
LARGEST_TIME = 1e9  # seconds
REQUIRED, OPTIONAL = ("id", "split", "audio", "image", "image_id"), ("text", "speaker", "language", "transcript")
_KEYS = {*REQUIRED, *OPTIONAL, "words"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NEWLINE = ord("\n")
_BLOCK = 1 << 22  # bytes


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
    words: tuple[tuple[str, float, float], ...] | None = None
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


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a manifest and its digest. `rows` have the keys above; paths are written as they are.

    The old digest is removed before the manifest takes its place, and the new one is written last. So a process that is
    killed between the two files leaves a manifest without a digest, and never one with the digest of another manifest.
    """
    digest, count, hashes = hashlib.sha256(), 0, array.array("q")
    with atomic_file(path) as unfinished:
        with unfinished.open("wb") as file:
            for row in rows:
                count += 1
                line = f"{json.dumps(row, ensure_ascii=False)}\n".encode()
                digest.update(line)
                file.write(line)
                row_id = _valid_id(line)
                if row_id is not None:
                    hashes.append(hash(row_id))
        digest_file(path).unlink(missing_ok=True)
    # Two different ids may have the same hash. Then the rows are checked when they are read, which is slow and right.
    valid = len(hashes) == count == len(np.unique(np.frombuffer(hashes, np.int64)))
    index = {"format": FORMAT, "rows": count, "valid": valid, "sha256": digest.hexdigest()}
    write_index_file(digest_file(path), index)


def digest_file(manifest: Path) -> Path:
    """Return the file with the digest of a manifest. Its name is one that no other program gives to a file there."""
    return manifest.with_suffix(".digest.json")


def read_manifest(path: Path, problems: Problems) -> "Manifest":
    """Return the valid rows. Files that they name may be missing; the stage that opens a file reports that."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `sclip make-corpus` writes it")
    try:
        file, starts = _open(path)
        if starts is not None:
            manifest = Manifest(file, path.parent, starts, range(len(starts) - 1))
        else:
            manifest = _check(path, file, problems)
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    if not len(manifest):
        raise problems.nothing_left(f"{path}: no row can be used")
    return manifest


def open_manifest(path: Path) -> BinaryIO:
    """Open a manifest after a comparison of every byte with its digest, if it has one."""
    return _open(path)[0]


def _open(path: Path) -> tuple[BinaryIO, NDArray[np.int64] | None]:
    """Open a manifest as `open_manifest` does. If its digest says that all rows are valid, return where they start.

    The starts (N + 1,) end with the file's size.
    """
    record, file = digest_file(path), path.open("rb")
    if not record.exists():
        return file, None
    index = read_index_file(record, FORMAT, "make-corpus")
    digest, starts, size = hashlib.sha256(), array.array("q", [0]), 0
    while block := file.read(_BLOCK):
        digest.update(block)
        newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == _NEWLINE)
        starts.frombytes((newlines + (size + 1)).tobytes())
        size += len(block)
    expected, found = str(index.get("sha256")), digest.hexdigest()
    if found != expected:
        raise UserError(
            f"{path}: its SHA-256 is {found[:12]}…, expected {expected[:12]}… as in {record.name}: the file is damaged "
            f"or was edited; run `sclip make-corpus` again, or delete {record.name} to use the file as it is"
        )
    file.seek(0)
    return file, np.frombuffer(starts, np.int64) if index.get("valid") is True else None


class Manifest(Sequence[Row]):
    """The valid rows of a file. A row is decoded each time it is read, so memory holds a few bytes for each of them.

    A slice is a view of the same file. The file stays open, so another manifest may replace it meanwhile.
    """

    def __init__(self, file: BinaryIO, folder: Path, starts: NDArray[np.int64], lines: "range | NDArray[np.int64]"):
        """`starts` (L + 1,) are the first bytes of the file's lines and its size; `lines` (N,) are the rows' lines."""
        self._file, self._folder, self._starts, self._lines = file, folder, starts, lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Manifest": ...
    def __getitem__(self, index: int | slice) -> "Row | Manifest":
        if isinstance(index, slice):
            return self._view(self._lines[index])
        return _to_row(self._decoded(index), self._folder, f"manifest row {self._lines[index] + 1}")

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Manifest":
        """Return a view of the rows at some indices, in their order."""
        return self._view(np.asarray(self._lines, np.int64)[np.asarray(indices, np.int64)])

    def values(self, *keys: str) -> Iterator[tuple[Any, ...]]:
        """Yield what each row has written under some keys. This is faster than the rows themselves."""
        for i in range(len(self)):
            data = self._decoded(i)
            yield tuple(data.get(key) for key in keys)

    def _view(self, lines: "range | NDArray[np.int64]") -> "Manifest":
        return Manifest(self._file, self._folder, self._starts, lines)

    def _decoded(self, index: int) -> dict[str, Any]:
        line = self._lines[index]
        start, end = self._starts[line : line + 2].tolist()
        content = os.pread(self._file.fileno(), end - start, start)
        try:
            data: dict[str, Any] = orjson.loads(content)
        except orjson.JSONDecodeError:  # such as NaN, which Python's parser accepts
            data = parse_json(content.decode())
        return data


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


def _check(path: Path, file: BinaryIO, problems: Problems) -> Manifest:
    """Check every row of a file, and return those that are valid."""
    starts, lines, hashes = (array.array("q") for _ in range(3))
    end = 0
    for line, (start, content) in enumerate(_lines(file)):
        starts.append(start)
        end = start + len(content)
        row_id = _valid_id(content)
        if row_id is None:
            row_id = _checked_id(path, line + 1, content, problems)
        if row_id is not None:
            lines.append(line)
            hashes.append(hash(row_id))
    starts.append(end)
    manifest = Manifest(file, path.parent, *(np.frombuffer(numbers, np.int64) for numbers in (starts, lines)))
    repeated = _repetitions(manifest, np.frombuffer(hashes, np.int64), problems)
    return manifest.select(sorted(set(range(len(manifest))) - repeated)) if repeated else manifest


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the first byte and the content of each line, with any line endings, and without a byte order mark."""
    start = 0
    for block in file:
        for line in block.splitlines(keepends=True) if b"\r" in block else (block,):
            mark = len(_BYTE_ORDER_MARK) if start == 0 and line.startswith(_BYTE_ORDER_MARK) else 0
            yield start + mark, line[mark:]
            start += len(line)


def _valid_id(content: bytes) -> str | None:
    """Return the id of a row that is certainly valid. Of any other row, `_checked_id` decides."""
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return data["id"] if _is_valid(data) else None


def _is_valid(data: Any) -> bool:
    """Return whether a row is certainly valid. If not, `_row` decides."""
    if type(data) is not dict or not data.keys() <= _KEYS:
        return False
    for key in REQUIRED:
        if type(data.get(key)) is not str:
            return False
    for key in OPTIONAL:
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


def _checked_id(path: Path, line: int, content: bytes, problems: Problems) -> str | None:
    """Return the id of a row, or report what is wrong with it."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: row {line}: {error}") from None
    draft = _read(text, line, problems)
    row = None if draft is None else _row(draft, path.parent, problems)
    return None if row is None else row.id


def _repetitions(manifest: Manifest, hashes: NDArray[np.int64], problems: Problems) -> set[int]:
    """Report the rows that repeat an earlier row's id, and return their indices."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    first: dict[str, str] = {}
    repeated = set()
    for i in np.flatnonzero(counts[inverse] > 1).tolist():
        row = manifest[i]
        if row.id in first:
            problems.add(row.name, f"repeats the id of {first[row.id]}")
            repeated.add(i)
        first.setdefault(row.id, row.where)
    return repeated


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
        problems.add(draft.name, str(error).removeprefix("row: "))
        return None
    row = _to_row(vars(written), folder, draft.where)
    fault = next(_faults(row), None)
    if fault is not None:
        problems.add(draft.name, fault)
        return None
    return row


def _to_row(data: Mapping[str, Any], folder: Path, where: str) -> Row:
    """Return a row from its values as they are written, with paths below `folder`."""
    words = data.get("words")
    times = None if words is None else tuple((word, float(start), float(end)) for word, start, end in words)
    paths = {"audio": folder / data["audio"], "image": folder / data["image"]}
    return Row(**{**data, **paths, "words": times, "where": where})


def _faults(row: Row) -> Iterator[str]:
    if row.split not in SPLITS:
        yield (
            f"expected a split of {', '.join(SPLITS)}, found {shortened(row.split)}; correct it, or translate it in "
            f"corpus.splits of a table or a hub data set, such as splits: {{{shortened(row.split)}: train}}"
        )
    if row.text is not None and not row.text.strip():
        yield "text: empty; remove the key if there is no caption"
    times = [time for _, start, end in row.words or () for time in (start, end)]
    if times != sorted(times):
        yield "words: expected times in ascending order"
