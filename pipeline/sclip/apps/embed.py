"""`sclip embed`: write the vectors of recordings, pictures or sentences to a file for other programs."""

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sclip.apps.inputs import NOUNS, Item, file_items, list_files, sentence_items
from sclip.apps.outputs import check_file, check_unicode
from sclip.errors import UserError
from sclip.files import atomic_file, locked, write_json
from sclip.startup import paused_collection

if TYPE_CHECKING:
    from torch import Tensor

    from sclip.apps.models import OpenedModel
    from sclip.model.speechclip import SpeechCLIP

FORMATS = (".npy", ".parquet", ".safetensors")
BLOCKS_SUFFIX = ".blocks"  # of the folder of what an interrupted command has embedded so far
ROWS = 2**14  # of a row group of Parquet
LARGEST_HEADER = 90_000_000  # bytes; safetensors reads headers of at most 100 MB


@dataclass(frozen=True)
class EmbedResult:
    files: tuple[Path, ...]  # what was written
    count: int  # vectors
    embedded: int  # items that this call encoded; the others were in a block, or have the content of another item
    skipped: dict[str, str]  # files or sentences that cannot be used, and why
    seconds: float


def embed(
    kind: Literal["audio", "image", "text"],
    files: "Sequence[str | Path] | str | Path",
    out: str | Path,
    *,
    model: "str | Path | SpeechCLIP | OpenedModel",
    branch: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> EmbedResult:
    """Write the vectors and ids of files to `out`, a .npy, .parquet or .safetensors file.

    `files` are files, folders, patterns and lists, as for `index`; for text they hold one sentence a line. The id of a
    recording or a picture is its path, and that of a sentence FILE:LINE. `branch` chooses the vector of recordings if
    the model has two. If the function is interrupted, the next call continues.
    """
    began, out = time.monotonic(), Path(out)
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: expected a name that ends with one of {', '.join(FORMATS)}")
    check_unicode(out)
    check_file(out)
    items = sentence_items(files) if kind == "text" else file_items(list_files(files, kind).files)
    write = _writer(out, items)
    with paused_collection():
        from sclip.apps.embedding import Store, embed_items, embedder
        from sclip.apps.models import open_model
    opened = open_model(model, device)
    item_embedder = embedder(opened, kind, opened.branch_for(kind, branch))
    blocks = out.with_name(out.name + BLOCKS_SUFFIX)
    with locked(blocks):
        store = Store(blocks, item_embedder.key)
        result = embed_items(items, item_embedder, store, progress)
        if result.usable:
            _, vectors = store.gather([place for _, place in result.usable])
            written = write([_unicode(item.name) for item, _ in result.usable], vectors)
        store.remove()
    result.refuse_none(NOUNS[kind])
    skipped = {item.name: reason for item, reason in result.skipped}
    return EmbedResult(tuple(written), len(result.usable), result.embedded, skipped, time.monotonic() - began)


def _unicode(name: str) -> str:
    """Replace bytes of a file's name that are not UTF-8 by \\udcXX, because no file format could hold them."""
    return name.encode("utf-8", "backslashreplace").decode()


def _writer(out: Path, items: Sequence[Item]) -> "Callable[[list[str], Tensor], list[Path]]":
    """Return the function that writes ids and vectors to `out`, after a check that it can."""
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError(f"{out}: Parquet needs pyarrow; run pip install pyarrow") from None
    if out.suffix == ".safetensors" and sum(len(json.dumps(item.name)) + 2 for item in items) > LARGEST_HEADER:
        raise UserError(f"{out}: {len(items):,} ids are too many for a safetensors file; choose .parquet or .npy")
    writers = {".npy": _write_npy, ".parquet": _write_parquet, ".safetensors": _write_safetensors}
    return functools.partial(writers[out.suffix], out)


def _write_npy(out: Path, ids: list[str], vectors: "Tensor") -> list[Path]:
    """Write the vectors (N, J) as numpy does, and the ids as a JSON list next to them."""
    import numpy as np

    ids_file = out.with_name(f"{out.name}.ids.json")
    write_json(ids_file, ids)
    with atomic_file(out) as unfinished, unfinished.open("wb") as file:
        np.save(file, vectors.numpy())
    return [out, ids_file]


def _write_safetensors(out: Path, ids: list[str], vectors: "Tensor") -> list[Path]:
    from sclip.tensors import write_tensors

    write_tensors(out, {"vectors": vectors}, {"ids": ids})
    return [out]


def _write_parquet(out: Path, ids: list[str], vectors: "Tensor") -> list[Path]:
    """Write the columns `id` and `vector`, a list of fixed size."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kind = pa.list_(pa.float32(), vectors.shape[1])
    schema = pa.schema([("id", pa.string()), ("vector", kind)])
    with atomic_file(out) as unfinished, ParquetWriter(unfinished, schema) as writer:
        for start in range(0, len(ids), ROWS):
            numbers = pa.array(vectors[start : start + ROWS].flatten().numpy())
            columns = [pa.array(ids[start : start + ROWS]), pa.FixedSizeListArray.from_arrays(numbers, type=kind)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return [out]
