"""Hub data sets: Parquet files with the recordings and the pictures inside, on the disk or on the hub.

An audio or picture cell has one of the layouts of `datasets`' features Audio and Image: {"bytes", "path"}, plain bytes,
or a path; and audio {"array", "sampling_rate"}. The bytes are written to files, named by their hash, because all later
stages read files; equal pictures become one file. Recordings are only opened by soundfile and pictures not at all, so
nothing else decodes them.

The split comes from a column, or else from the name of the file, such as train-00000-of-00001.parquet, or of its
folder. Folders around the data set do not count: the data of a user called dev is not the development set. If no name
says the split, a hash of the picture's name assigns a tenth of the pictures to development and a tenth to the test.
"""

import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
from tqdm.auto import tqdm

from sclip.config import HubConfig
from sclip.corpora.alignments import read_words, try_words
from sclip.corpora.listing import (
    Listing,
    find_files,
    find_split,
    is_empty_cell,
    is_text_cell,
    parquet_errors,
    split_by_hash,
)
from sclip.corpora.rows import Draft
from sclip.errors import Problems, UserError, one_line
from sclip.files import atomic_file
from sclip.parsing import shortened

HUB = "hf://"
NO_SPLIT = "rows without a split, which the name of a file or a folder, or a hash of their picture's name, has chosen"
ROWS = 32  # that are in memory at a time, with their recordings and pictures


class _BadCell(Exception):
    """Why a cell has no recording or picture."""


def list_hub(config: HubConfig, out: Path, problems: Problems) -> Listing:
    """Read the rows, and write their recordings and pictures to the folder `out`."""
    listing, columns = Listing(), {key: name for key, name in vars(config.columns).items() if name is not None}
    open_file, paths = _find(config.path)
    root = _common_folder(paths)
    for path in paths:
        for number, record in _records(open_file, path, list(columns.values())):
            where = f"{PurePosixPath(path).name} row {number}"
            try:
                row = _row(record, columns, out, PurePosixPath(path).parent)
            except _BadCell as error:
                problems.add(where, str(error))
                continue
            name = PurePosixPath(path).relative_to(root).with_suffix("")
            row["id"] = row.get("id") or f"{name}:{number}"
            if "split" in columns and "split" not in row:
                listing.note(NO_SPLIT, row["id"])
            row["split"] = _split(row.get("split"), name, root.name, row["image_id"], config.splits)
            listing.rows.append(Draft(where, row))
            if "words" in columns and not is_empty_cell(record[columns["words"]]):
                try_words(listing, row["id"], read_words, record[columns["words"]], where)
    return listing


def _find(path: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return how to open files, and the Parquet files that a path names: a file, a folder or a pattern."""
    if path.startswith(HUB):
        open_file, found = _find_on_hub(path)
    else:
        place = Path(path).resolve()
        anchor, pattern = Path(place.anchor), str(place.relative_to(place.anchor))
        if place.is_file():  # its name may have the characters of a pattern
            return _open_here, [str(place)]
        files = place.rglob("*.parquet") if place.is_dir() else find_files(anchor, pattern, path)
        open_file, found = _open_here, sorted(str(file) for file in files if file.is_file())
    if not found:
        raise UserError(f"{path}: no Parquet file there; name a file, a folder or a pattern such as data/*.parquet")
    return open_file, found


def _find_on_hub(path: str) -> tuple[Callable[[str], Any], list[str]]:
    from huggingface_hub import HfFileSystem

    system: Any = HfFileSystem()
    place = path.removeprefix(HUB).rstrip("/")
    pattern = place if "*" in place or place.endswith(".parquet") else f"{place}/**/*.parquet"
    try:
        return system.open, sorted(system.glob(pattern))
    except Exception as error:  # of the network, or of a repo that does not exist or needs a token
        raise UserError(
            f"{path}: cannot be listed: {one_line(error)}; for a private or gated repo, run `hf auth login`"
        ) from None


def _open_here(path: str) -> Any:
    return Path(path).open("rb")


def _records(open_file: Callable[[str], Any], path: str, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a file's rows, counted from 1, with the cells of these columns."""
    with parquet_errors(path), open_file(path) as file:
        from pyarrow import parquet

        table = parquet.ParquetFile(file)
        missing = [column for column in columns if column not in table.schema_arrow.names]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(table.schema_arrow.names)}")
        number = 0
        with tqdm(total=table.metadata.num_rows, desc=PurePosixPath(path).name, disable=None) as bar:
            for batch in table.iter_batches(ROWS, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
                bar.update(len(batch))


def _row(record: Mapping[str, Any], columns: Mapping[str, str], out: Path, folder: PurePosixPath) -> dict[str, Any]:
    """Return a row's values, and write its recording and picture."""
    texts = {key: record[name] for key, name in columns.items() if key not in ("audio", "image", "words")}
    row: dict[str, Any] = {key: str(value).strip() for key, value in texts.items() if not is_empty_cell(value)}
    not_text = [columns[key] for key in row if not is_text_cell(texts[key])]
    if not_text:
        raise _BadCell(f"expected text in column {not_text[0]!r}, found {shortened(record[not_text[0]])}")
    if "transcript" in columns:
        row.setdefault("transcript", "")
    recording, picture = (
        _file(record[columns[kind]], f"column {columns[kind]!r}", out / kind, folder) for kind in ("audio", "image")
    )
    try:
        soundfile.info(str(recording))
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]
        raise _BadCell(f"column {columns['audio']!r}: no recording that soundfile reads: {reason}") from None
    return row | {"audio": str(recording), "image": str(picture), "image_id": row.get("image_id", picture.stem)}


def _file(cell: Any, where: str, out: Path, folder: PurePosixPath) -> Path:
    """Return the path of a cell's file, which is written if the cell has its bytes."""
    parts = cell if isinstance(cell, dict) else {"bytes" if isinstance(cell, bytes) else "path": cell}
    data, path = parts.get("bytes"), parts.get("path")
    if data is None and parts.get("array") is not None:
        data, path = _wav(parts["array"], parts.get("sampling_rate"), where), "a.wav"
    if data is None and isinstance(path, str) and os.path.isfile(folder / path):
        return Path(folder / path)
    if data is None and isinstance(path, str) and path:
        raise _BadCell(f"{where}: no bytes, and {folder / path}: no such file")
    if not data or not isinstance(data, bytes):
        raise _BadCell(f"{where}: expected a file's bytes, or the path of a file, found {shortened(cell)}")
    suffix = PurePosixPath(path).suffix.lower() if isinstance(path, str) else ""
    ending = suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""  # others may be impossible as a file's name
    place = out / f"{sha256(data).hexdigest()[:32]}{ending}"
    if not place.is_file():
        out.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as unfinished:
            unfinished.write_bytes(data)
    return place


def _wav(samples: Any, rate: Any, where: str) -> bytes:
    """Return samples (N,) or (C, N) as a file."""
    file = io.BytesIO()
    try:
        soundfile.write(file, np.asarray(samples, np.float32).T, int(rate), format="WAV", subtype="FLOAT")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _BadCell(f"{where}: expected samples and a sampling rate: {error}") from None
    return file.getvalue()


def _split(written: str | None, name: PurePosixPath, root: str, image_id: str, splits: Mapping[str, str]) -> str:
    """Return the split of a row: the written one, else the one in the name of its file or a folder, else by a hash.

    `name` is the file's path below the innermost folder that holds all files. `root` is the name of that folder.
    """
    if written is not None:
        return find_split(written, splits) or written
    names = (start for part in reversed(name.parts) for start in (part, part.split("-")[0]))
    called = (find_split(start, splits) for start in (*names, root))
    return next((split for split in called if split is not None), None) or split_by_hash(image_id)


def _common_folder(paths: list[str]) -> PurePosixPath:
    """Return the innermost folder that holds all files."""
    return PurePosixPath(posixpath.commonpath([posixpath.dirname(path) for path in paths]))
