"""Anyone's corpus as a table: CSV, TSV, JSON lines or Parquet, a row an utterance. The preset names the columns.

In TSV a quotation mark is a letter like any other, in CSV it holds a cell together. Paths are relative to the table's
folder, or absolute. Without a column of splits, a hash of the picture's name gives a tenth of the pictures to
development and a tenth to the test.
"""

import csv
from collections.abc import Iterator
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from sclip.config import TableConfig
from sclip.corpora.gathered import Gathered, lines_of
from sclip.corpora.manifest import Draft
from sclip.errors import Problems, UserError
from sclip.parsing import parse_json, read_text, shown

READERS = ".csv, .tsv, .jsonl, .parquet"


def gather_table(config: TableConfig, problems: Problems) -> Gathered:
    path = Path(config.path).resolve()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    gathered, columns = Gathered(), vars(config.columns)
    for where, record in _records(path, problems):
        missing = [column for column in columns.values() if column is not None and column not in record]
        if missing:
            raise UserError(f"{where}: no column {missing[0]!r}; there are {', '.join(map(str, record))}")
        found = {key: record[column] for key, column in columns.items() if column is not None}
        given = {key: str(value).strip() for key, value in found.items() if not _is_empty(value)}
        lacking = [columns[key] for key in ("audio", "image") if key not in given]
        odd = [columns[key] for key in given if isinstance(found[key], bool | dict | list)]
        if odd:
            problems.add(where, f"expected text in column {odd[0]!r}, found {shown(record[odd[0]])}")
        elif lacking:
            problems.add(where, f"nothing in column {lacking[0]!r}")
        else:
            gathered.rows.append(Draft(where, _row(given, config, path.parent)))
    return gathered


def _row(given: dict[str, str], config: TableConfig, folder: Path) -> dict[str, Any]:
    image_id = given.get("image_id", given["image"])
    split = given["split"] if "split" in given else _drawn(image_id)
    return {
        "id": given.get("id", given["audio"]),
        "split": config.splits.get(split, split),
        "audio": str(folder / given["audio"]),
        "image": str(folder / given["image"]),
        "image_id": image_id,
        "text": given.get("text"),
        "speaker": given.get("speaker"),
    }


def _drawn(image_id: str) -> str:
    place = int.from_bytes(sha256(image_id.encode()).digest()[:8]) / 2**64
    return "dev" if place < 0.1 else "test" if place < 0.2 else "train"


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # a missing number is none at all


def _records(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and what its columns hold."""
    if path.suffix in (".csv", ".tsv"):
        form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
        reader = csv.DictReader(StringIO(read_text(path)), **form)
        try:
            for record in reader:
                where = f"{path.name} line {reader.line_num}"
                if None in record or None in record.values():
                    problems.add(where, f"expected {len(reader.fieldnames or [])} cells, as in the first line")
                else:
                    yield where, record
        except csv.Error as error:
            raise UserError(f"{path.name} line {reader.line_num}: {error}") from None
    elif path.suffix == ".jsonl":
        for where, line in lines_of(path):
            try:
                yield where, dict(parse_json(line))
            except (ValueError, TypeError) as error:
                raise UserError(f"{where}: not a JSON object: {error}") from None
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    else:
        raise UserError(f"{path}: expected one of {READERS}")


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise UserError(f"{path}: Parquet is read by pyarrow: pip install 'sclip[parquet]'") from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path.name} row {number}", record
    except ArrowInvalid as error:
        raise UserError(f"{path}: not Parquet: {error}") from None
