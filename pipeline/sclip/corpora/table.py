"""A user's corpus as a table in CSV, TSV, JSON lines or Parquet, with one row per utterance.

The preset names the columns, and may name files of word alignments. Paths are absolute or relative to the table's
folder. CSV cells may be quoted; in TSV a quotation mark is an ordinary character. Without a column of splits, a hash of
the picture's name assigns a tenth of the pictures to development and a tenth to the test.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sclip.config import TableConfig
from sclip.corpora.alignments import UNUSED, AlignmentFiles, read_words, try_words
from sclip.corpora.listing import (
    Listing,
    find_split,
    is_empty_cell,
    is_text_cell,
    numbered_lines,
    parquet_errors,
    split_by_hash,
)
from sclip.corpora.rows import Draft
from sclip.errors import Problems, UserError
from sclip.files import EMPTY, missing_file_reason
from sclip.parsing import csv_records, parse_json, shortened

NO_SPLIT = "rows without a split, which a hash of their picture's name has chosen"
SUFFIXES = ".csv, .tsv, .jsonl, .parquet"


def list_table(config: TableConfig, problems: Problems) -> Listing:
    """Read the table's rows, and report those without a recording or a picture."""
    path = Path(config.path).resolve()
    if not path.is_file():
        raise UserError(f"{path}: {missing_file_reason(config.path)}")
    listing, columns = Listing(), {key: column for key, column in vars(config.columns).items() if key != "words"}
    files = AlignmentFiles(path.parent, config.alignments) if config.alignments else None
    seen: dict[str, str] = {}
    for where, record in _records(path, config, problems):
        missing = [column for column in vars(config.columns).values() if column is not None and column not in record]
        if missing:
            named = ", which the first line names," if path.suffix.lower() in (".csv", ".tsv") else ""
            columns_here = f"the columns{named} are {', '.join(map(str, record))}"
            advice = "; write null for what a row does not have" if path.suffix.lower() == ".jsonl" else ""
            raise UserError(f"{where}: no column {missing[0]!r}; {columns_here}{advice}")
        values = {key: record[column] for key, column in columns.items() if column is not None}
        cells = {key: str(value).strip() for key, value in values.items() if not is_empty_cell(value)}
        empty = [columns[key] for key in ("audio", "image") if key not in cells]
        not_text = [columns[key] for key in cells if not is_text_cell(values[key])]
        if not_text:
            problems.add(where, f"expected text in column {not_text[0]!r}, found {shortened(record[not_text[0]])}")
        elif empty:
            problems.add(where, f"column {empty[0]!r} is empty; every row needs a recording and a picture")
        elif config.columns.id is None and cells["audio"] in seen:
            problems.add(
                where,
                f"the recording {cells['audio']} is also in {seen[cells['audio']]}; add a column with a unique id for "
                "each row, and name it in columns.id",
            )
        else:
            seen[cells["audio"]] = where
            row = _row(cells, config, path.parent)
            if config.columns.split is not None and "split" not in cells:
                listing.note(NO_SPLIT, row["id"])
            listing.rows.append(Draft(where, row))
            _add_words(row, record, where, config, files, listing)
    for name in files.unused() if files else ():
        listing.note(UNUSED, name)
    return listing


def _add_words(
    row: dict[str, Any],
    record: dict[str, Any],
    where: str,
    config: TableConfig,
    files: AlignmentFiles | None,
    listing: Listing,
) -> None:
    """Add the times of a row's words, from its cell or else from the alignment files."""
    column = config.columns.words
    if column is not None and not is_empty_cell(record[column]):
        try_words(listing, row["id"], read_words, record[column], f"{where} ({row['id']}), column {column!r}")
    elif files is not None:
        try_words(listing, row["id"], files.find, row["id"], Path(row["audio"]))


def _row(cells: dict[str, str], config: TableConfig, folder: Path) -> dict[str, Any]:
    image_id = cells.get("image_id", cells["image"])
    split = cells["split"] if "split" in cells else split_by_hash(image_id)
    return {
        "id": cells.get("id", cells["audio"]),
        "split": find_split(split, config.splits) or split,
        "audio": str(folder / cells["audio"]),
        "image": str(folder / cells["image"]),
        "image_id": image_id,
        "text": cells.get("text"),
        "speaker": cells.get("speaker"),
        **({"language": cells["language"]} if "language" in cells else {}),
        **({"transcript": cells.get("transcript", "")} if config.columns.transcript is not None else {}),
    }


def _records(path: Path, config: TableConfig, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return an iterator over the rows of a table: the place of each in the file, and its cells by column."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv(path, config, problems)
    if suffix == ".jsonl":
        return _json_lines(path)
    if suffix == ".parquet":
        return _parquet(path)
    raise UserError(f"{path}: expected one of {SUFFIXES}")


def _csv(path: Path, config: TableConfig, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    is_tsv = path.suffix.lower() == ".tsv"
    # Without `strict`, a quotation mark that nothing closes would make one cell of many rows.
    records = csv_records(path, **({"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"strict": True}))
    number, columns = next(records, (0, []))
    _check_columns(path, columns, config)
    for number, cells in records:
        where = f"{path.name} line {number}"
        if len(cells) == len(columns):
            yield where, dict(zip(columns, cells, strict=True))
        elif cells:  # not an empty line
            quoting = "; write a cell that has a comma in quotes" if len(cells) > len(columns) and not is_tsv else ""
            problems.add(where, f"expected {len(columns)} cells, as in the first line, found {len(cells)}{quoting}")
    if number < 2:
        raise UserError(f"{path}: {'only its first line, with the names of columns' if number else EMPTY}")


def _check_columns(path: Path, columns: Sequence[str], config: TableConfig) -> None:
    """Refuse a name that two columns have, and a single column, because another character separates the columns."""
    for column in vars(config.columns).values():
        if columns.count(column) > 1:
            raise UserError(f"{path}: {columns.count(column)} columns are named {column!r}; rename all but one")
    if len(columns) != 1:
        return
    advice = {
        ".csv": {";": "save it with commas, or as .tsv with tabs", "\t": "save it with commas, or name it .tsv"},
        ".tsv": {",": "save it with tabs, or name it .csv", ";": "save it with tabs, or as .csv with commas"},
    }
    for separator, what_to_do in advice[path.suffix.lower()].items():
        if separator in columns[0]:
            name = "tabs" if separator == "\t" else f"'{separator}'"
            raise UserError(f"{path}: its columns are separated by {name}; {what_to_do}")


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in numbered_lines(path):
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise ValueError(f"found {shortened(record)}")
        except ValueError as error:
            array = "; write each object on a line of its own, without brackets around all" if line[0] == "[" else ""
            raise UserError(f"{where}: not a JSON object: {error}{array}") from None
        yield where, record


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    with parquet_errors(path):
        from pyarrow import parquet

        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path.name} row {number}", record
