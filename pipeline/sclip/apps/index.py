"""`sclip index`: embed pictures or recordings into an index that `sclip search` searches."""

import dataclasses
import logging
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
from sclip.apps.inputs import NOUNS, Item, Kind, file_items, list_files
from sclip.apps.outputs import check_unicode, check_writable
from sclip.errors import UserError, counted
from sclip.files import check_digest, file_digest, locked
from sclip.startup import paused_collection

if TYPE_CHECKING:
    from sclip.apps.embedding import Embedder, Store
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
        from sclip.apps.embedding import embedder
        from sclip.apps.models import open_model
    opened = open_model(model, device)
    branch = opened.branch_for(listing.kind, branch)
    config = IndexConfig(
        format=FORMAT,
        kind=listing.kind,
        model=opened.name,
        fingerprint=opened.fingerprint,
        branch=branch,
        key=opened.key(listing.kind, branch),
        count=0,
        width=opened.model.clip.joint_width,
        skipped=0,
        file="",
        sha256="",
    )
    items, item_embedder = file_items(listing.files), embedder(opened, listing.kind, branch)
    count, embedded, dropped, skipped = _update(folder, config, items, item_embedder, progress)
    return IndexResult(folder, listing.kind, count, embedded, dropped, skipped, time.monotonic() - began)


def _update(
    folder: Path, config: IndexConfig, items: Sequence[Item], item_embedder: "Embedder", progress: bool
) -> tuple[int, int, int, dict[str, str]]:
    """Embed and write what is new. Return how many items are in the index, embedded, dropped, and which are skipped.

    `config` is that of the new index, without the figures of its table.
    """
    from sclip.apps.embedding import Store, embed_items

    with _folder(folder):
        previous = _previous_config(folder, config.kind)  # again, because another command may have ended meanwhile
        table = None if previous is None else open_table(folder, previous)
        if previous is not None and previous.key != config.key:
            log.warning(f"{folder}: made with another model or branch; all {NOUNS[config.kind]} are embedded again")
        reusable = table if previous is not None and previous.key == config.key else None
        store = Store(folder / BLOCKS_FOLDER, config.key, reusable)
        embedded, transient_faults = embed_items(items, item_embedder, store, progress)
        usable, skipped = _usable_and_skipped(items, store, transient_faults)
        if usable:
            config = dataclasses.replace(config, count=len(usable), skipped=len(skipped))
            if previous is not None:
                config = dataclasses.replace(config, file=previous.file, sha256=previous.sha256)
            _write(folder, config, reusable, usable, skipped, store)
        store.remove()
    if not usable:
        name, reason = skipped[0][0].name, skipped[0][1]
        raise UserError(f"none of {counted(len(items), NOUNS[config.kind])} can be used; the first: {name}: {reason}")
    dropped = 0 if table is None else len(set(table.names) - {item.name for item in items})
    return len(usable), embedded, dropped, {item.name: reason for item, reason in skipped}


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
        table, _ = read_table(path)
        if table.vectors.shape != expected:
            raise UserError(f"{path}: vectors: expected {expected}, found {tuple(table.vectors.shape)}")
    except UserError as error:
        raise UserError(f"{error}; delete {folder} and make the index again") from None
    return table


def _usable_and_skipped(
    items: Sequence[Item], store: "Store", transient_faults: dict[str, str]
) -> tuple[list[tuple[Item, tuple[int, int]]], list[tuple[Item, str]]]:
    """Return the usable items with their places in the store, and the others with the reasons."""
    usable, skipped = [], []
    for item in items:
        place = store.find(item)
        if isinstance(place, tuple):
            usable.append((item, place))
        elif place is not None:
            skipped.append((item, place))
        else:
            # Without size and time, it is read again next time.
            skipped.append((Item(item.name), transient_faults[item.name]))
    return usable, skipped


def _write(
    folder: Path,
    config: IndexConfig,
    previous: "Table | None",
    usable: Sequence[tuple[Item, tuple[int, int]]],
    skipped: Sequence[tuple[Item, str]],
    store: "Store",
) -> None:
    """Write the table under a new name, then the configuration that names it, and delete the previous table.

    A table with the same rows as `previous` is not written again.
    """
    from sclip.apps.table import has_rows, write_table

    items = [item for item, _ in usable]
    if previous is None or not has_rows(previous, items, skipped):
        number = int("".join(filter(str.isdigit, config.file)) or 0) + 1
        path = folder / f"vectors-{number}.safetensors"
        rows = (items, *store.gather([place for _, place in usable], config.width))
        write_table(path, rows, skipped, {"key": config.key})
        config = dataclasses.replace(config, file=path.name, sha256=file_digest(path))
    write_config(folder, config)
    for old in folder.glob("vectors-*"):
        if old.name not in (config.file, faiss_file(config)):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
