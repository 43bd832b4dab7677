"""The rows that a corpus's own files list, before any recording or picture is read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sclip.corpora.rows import SPLITS, Draft, TimedWords
from sclip.errors import Findings, UserError, one_line
from sclip.parsing import read_json, read_text

SPLIT_NAMES = dict(zip(SPLITS, SPLITS, strict=True)) | {"validation": "dev", "valid": "dev", "val": "dev"}


@dataclass(frozen=True)
class PublishedCounts:
    """The numbers of pictures and utterances in each split of a published corpus."""

    pictures: dict[str, int]
    utterances: dict[str, int] | None = None


@dataclass
class Listing:
    """The rows of a corpus, and what is left out of it."""

    rows: list[Draft] = field(default_factory=list)  # utterances, with absolute paths
    left_out: Findings = field(default_factory=dict)  # reason: names
    harmless: set[str] = field(default_factory=set)  # the reasons in `left_out` that are no fault of the corpus
    published: PublishedCounts | None = None
    # Row id -> the times of its words. `alignments.add_words` checks them and adds them to the rows.
    words: dict[str, TimedWords] = field(default_factory=dict)
    notes: Findings = field(default_factory=dict)  # what is unusual and does no harm
    faults: Findings = field(default_factory=dict)  # what is wrong with a row that is used all the same

    def leave_out(self, reason: str, name: str, *, harmless: bool = False) -> None:
        self.left_out.setdefault(reason, []).append(name)
        if harmless:
            self.harmless.add(reason)

    def note(self, kind: str, case: str) -> None:
        self.notes.setdefault(kind, []).append(case)

    def add_fault(self, kind: str, case: str) -> None:
        self.faults.setdefault(kind, []).append(case)


def find_split(name: str, splits: Mapping[str, str]) -> str | None:
    """Return the split that a name means, or None. Capitals do not matter. `splits` is the setting corpus.splits."""
    names = SPLIT_NAMES | dict(splits)
    in_lower_case = {known.lower(): split for known, split in names.items()}
    return names.get(name, in_lower_case.get(name.lower()))


def is_empty_cell(value: Any) -> bool:
    """Return whether a cell has no value, or only spaces. Parquet and JSON may write a missing value as NaN."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def is_text_cell(value: Any) -> bool:
    """Return whether a cell of a table can stand for a text. A number can, because ids and speakers may be numbers."""
    return not isinstance(value, bool | dict | list | bytes)


def find_files(root: Path, pattern: str, where: str) -> list[Path]:
    """Return the paths below `root` that fit a pattern, in order. `where` is the setting with the pattern."""
    try:
        return sorted(root.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{where}: {error}; expected a pattern such as folder/**/*") from None


def split_of_pictures(uses: Iterable[tuple[str, str]], listing: Listing) -> dict[str, str]:
    """Return the split of each picture from pairs of a split and a picture. Leave out pictures in two splits."""
    splits: dict[str, dict[str, None]] = {}
    for split, picture in uses:
        splits.setdefault(picture, {})[split] = None
    for picture, names in splits.items():
        if len(names) > 1:
            listing.leave_out("pictures in two splits", f"{picture} ({', '.join(names)})")
    return {picture: next(iter(names)) for picture, names in splits.items() if len(names) == 1}


def fifth_to_dev(picture: str) -> str:
    """Return the split of a picture of a corpus without a test set: a fifth go to development, the others to test."""
    return "dev" if sha256(picture.encode()).digest()[0] < 256 / 5 else "test"


def split_by_hash(picture: str) -> str:
    """Return the split of a picture of a corpus without splits: a tenth go to development and a tenth to the test."""
    fraction = int.from_bytes(sha256(picture.encode()).digest()[:8]) / 2**64
    return "dev" if fraction < 0.1 else "test" if fraction < 0.2 else "train"


def require_fetched(path: Path, corpus: str, folder: str) -> None:
    """Raise an error if a file of a corpus is missing. The error names the command that downloads the corpus."""
    if not path.exists():
        raise UserError(
            f"{path}: no such file; `sclip fetch {corpus} {folder}` downloads the corpus. If you have it, set the "
            "preset's corpus.path to its folder"
        )


def first_existing(folder: Path, names: Sequence[str]) -> Path:
    """Return the first path that exists."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder / names[0]}: no such file" + "".join(f", nor {name}" for name in names[1:]))


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield a file's lines, without empty ones, each with the file's name and the line's number. CRLF is accepted."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name} line {number}", line.strip()


def numbered_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a JSON file {"data": [...]}, each with the file's name and the entry's number."""
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise UserError(f"{path}: expected {{'data': [...]}}")
    for number, entry in enumerate(data["data"]):
        yield f"{path.name} data[{number}]", entry


@contextmanager
def parquet_errors(path: object) -> Iterator[None]:
    """Raise one kind of error for all that may be wrong with a Parquet file, or if nothing is there to read it."""
    try:
        from pyarrow import ArrowException
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; run pip install pyarrow") from None
    try:
        yield
    except (ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:  # pyarrow raises all of them
        raise UserError(f"{path}: not Parquet: {one_line(error)}") from None
