"""The manifest: the list of a corpus's utterances, which every stage reads. Each line is a row, as a JSON object.

`corpora/rows.py` describes the keys of a row. One file holds all splits, so every later stage reads the corpus in the
same order.

`make-corpus` also writes `manifest.digest.json` next to it, with the number of rows, the SHA-256 of the manifest, and
whether every row is valid. `read_manifest` compares the SHA-256, and then need not decode rows that were valid when
they were written. A manifest that a user wrote has no such file, and `read_manifest` checks every row.

Memory holds only where each line starts in the file.
"""

import array
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from sclip.corpora.rows import Draft, Row, check_row, to_row, valid_id
from sclip.errors import Problems, UserError
from sclip.files import atomic_file, missing_file_reason
from sclip.index_file import read_index_file, write_index_file
from sclip.parsing import not_utf8_reason, parse_json

FORMAT = "sclip manifest 1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NEWLINE = ord("\n")
_BLOCK = 1 << 22  # bytes


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a manifest and its digest. Paths in `rows` are written as they are.

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
                row_id = valid_id(line)
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
        advice = "" if path.exists() else "; `sclip make-corpus` writes it"
        raise UserError(f"{path}: {missing_file_reason(path)}{advice}")
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
        return to_row(self._decoded(index), self._folder, f"manifest row {self._lines[index] + 1}")

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Manifest":
        """Return a view of the rows at some indices, in their order."""
        return self._view(np.asarray(self._lines, np.int64)[np.asarray(indices, np.int64)])

    def values(self, *keys: str) -> Iterator[tuple[Any, ...]]:
        """Yield what each row has written under some keys. This is faster than the rows themselves."""
        for i in range(len(self)):
            data = self._decoded(i)
            yield tuple(data.get(key) for key in keys)

    def fingerprint(self, *keys: str) -> str:
        """Return the SHA-256 of what each row has written under some keys, where None is allowed besides strings."""
        digest = hashlib.sha256()
        for row in self.values(*keys):
            for value in row:
                digest.update(b"-" if value is None else b"%d:" % len(value) + value.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _view(self, lines: "range | NDArray[np.int64]") -> "Manifest":
        return Manifest(self._file, self._folder, self._starts, lines)

    def _decoded(self, index: int) -> dict[str, Any]:
        line = self._lines[index]
        start, end = self._starts[line : line + 2].tolist()
        content = os.pread(self._file.fileno(), end - start, start)
        try:
            data: dict[str, Any] = orjson.loads(content)
        except orjson.JSONDecodeError:
            # orjson refuses NaN. A checked row has one only under a repeated key, of which Python's parser keeps the
            # last value.
            data = parse_json(content.decode())
        return data


def _check(path: Path, file: BinaryIO, problems: Problems) -> Manifest:
    """Check every row of a file, and return those that are valid."""
    starts, lines, hashes = (array.array("q") for _ in range(3))
    end = 0
    for line, (start, content) in enumerate(_lines(file)):
        starts.append(start)
        end = start + len(content)
        row_id = valid_id(content)
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


def _checked_id(path: Path, line: int, content: bytes, problems: Problems) -> str | None:
    """Return the id of a row, or report what is wrong with it."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {not_utf8_reason(error, f'row {line}')}") from None
    draft = _read(text, line, problems)
    row = None if draft is None else check_row(draft, path.parent, problems)
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
