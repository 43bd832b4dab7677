"""`sclip index`: embed pictures or recordings into an index that `sclip search` searches."""

import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sclip.apps.index_config import (
    BLOCKS_FOLDER,
    CONFIG_FILE,
    FORMAT,
    IndexConfig,
    faiss_file,
    has_other_files,
    read_config,
    write_config,
)
from sclip.apps.inputs import NOUNS, Kind, file_items, list_files
from sclip.apps.outputs import check_unicode, check_writable
from sclip.errors import UserError
from sclip.files import check_digest, file_digest, locked
from sclip.startup import paused_collection

if TYPE_CHECKING:
    from sclip.apps.embedding import Embeddings, Store
    from sclip.apps.models import OpenedModel
    from sclip.apps.table import Table
    from sclip.model.speechclip import SpeechCLIP

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexResult:
    index: Path
    kind: Kind
    count: int  # files in the index
    embedded: int  # files whose content was neither in the previous index nor in a finished block
    dropped: int  # files that were in the previous index and are no longer listed
    skipped: dict[str, str]  # files that cannot be used, and why
    seconds: float


def index(
    files: "Sequence[str | Path] | str | Path",
    out: str | Path,
    *,
    model: "str | Path | SpeechCLIP | OpenedModel",
    kind: Kind | None = None,
    branch: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> IndexResult:
    """Write or update the index `out` of pictures or recordings: it then holds exactly the usable ones among `files`.

    `files` are files, folders, patterns and lists (`@list.txt`). `branch` chooses the vector of recordings if the
    model has two. Only new and changed files are embedded. If the function is interrupted, the next call continues.
    """
    began, folder = time.monotonic(), Path(out)
    check_unicode(folder)
    check_writable(folder if folder.is_dir() else folder.parent, folder)
    listing = list_files(files, kind)
    _previous_config(folder, listing.kind)
    with paused_collection():
        from sclip.apps.embedding import Store, embed_items, embedder
        from sclip.apps.models import open_model
    opened = open_model(model, device)
    branch = opened.branch_for(listing.kind, branch)
    items, item_embedder = file_items(listing.files), embedder(opened, listing.kind, branch)
    with _folder(folder):
        previous = _previous_config(folder, listing.kind)  # again, because another command may have ended meanwhile
        table = None if previous is None else open_table(folder, previous)
        reusable = table if previous is not None and previous.key == item_embedder.key else None
        if table is not None and reusable is None:
            log.warning(f"{folder}: made with another model or branch; all {NOUNS[listing.kind]} are embedded again")
        store = Store(folder / BLOCKS_FOLDER, item_embedder.key, reusable)
        result = embed_items(items, item_embedder, store, progress)
        if result.usable:
            file, sha256 = _write_table(folder, previous, reusable, result, store)
            _write_config(folder, _config(opened, listing.kind, branch, result, file, sha256))
        store.remove()
    result.refuse_none(NOUNS[listing.kind])
    dropped = 0 if table is None else len(set(table.names) - {item.name for item in items})
    skipped = {item.name: reason for item, reason in result.skipped}
    seconds = time.monotonic() - began
    return IndexResult(folder, listing.kind, len(result.usable), result.embedded, dropped, skipped, seconds)


def _config(
    opened: "OpenedModel", kind: Kind, branch: str | None, result: "Embeddings", file: str, sha256: str
) -> IndexConfig:
    """Return the configuration of an index whose table is in `file`."""
    return IndexConfig(
        format=FORMAT,
        kind=kind,
        model=opened.name,
        fingerprint=opened.fingerprint,
        branch=branch,
        key=opened.key(kind, branch),
        count=len(result.usable),
        width=opened.model.clip.joint_width,
        skipped=len(result.skipped),
        file=file,
        sha256=sha256,
    )


def _previous_config(folder: Path, kind: Kind) -> IndexConfig | None:
    """Return the configuration of the index that is to be updated; refuse a folder with anything else in it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; expected an index, or the name of a folder that does not exist yet")
    if has_other_files(folder):
        raise UserError(f"{folder}: has other files in it; expected an index, or a folder that does not exist yet")
    if not (folder / CONFIG_FILE).exists():  # a new one, or the first run was killed between its last two steps
        return None
    previous = read_config(folder)
    if previous.kind != kind:
        raise UserError(
            f"{folder}: an index of {NOUNS[previous.kind]}; give another --out for {NOUNS[kind]}, or delete it"
        )
    return previous


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Lock the index's folder, and remove it again if nothing is in it in the end."""
    try:
        with locked(folder):
            yield
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def open_table(folder: Path, config: IndexConfig) -> "Table":
    """Open the table of an index after a check of every byte."""
    from sclip.apps.table import read_table

    path, expected = folder / config.file, (config.count, config.width)
    try:
        check_digest(path, config.sha256, CONFIG_FILE)
        table = read_table(path)
        if table.vectors.shape != expected:
            raise UserError(f"{path}: vectors: expected {expected}, found {tuple(table.vectors.shape)}")
    except UserError as error:
        raise UserError(f"{error}; delete {folder} and make the index again") from None
    return table


def _write_table(
    folder: Path, previous: IndexConfig | None, reusable: "Table | None", result: "Embeddings", store: "Store"
) -> tuple[str, str]:
    """Write the table under a new name, and return the name and the SHA-256 of its file.

    A table with the same rows as `reusable`, that of the previous index, is not written again.
    """
    from sclip.apps.table import has_rows, write_table

    items = [item for item, _ in result.usable]
    if previous is not None and reusable is not None and has_rows(reusable, items, result.skipped):
        return previous.file, previous.sha256
    number = 1 if previous is None else int(re.sub("[^0-9]", "", previous.file)) + 1
    path = folder / f"vectors-{number}.safetensors"
    write_table(path, (items, *store.gather([place for _, place in result.usable])), result.skipped)
    return path.name, file_digest(path)


def _write_config(folder: Path, config: IndexConfig) -> None:
    """Write the configuration, and then delete the files of the previous index."""
    write_config(folder, config)
    for old in folder.glob("vectors-*"):
        if old.name not in (config.file, faiss_file(config)):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)  # a search may remove its own
