"""Embedding of many files or sentences, in blocks, so that an interrupted command continues where it was.

A finished block is a file. A later run reads it, and embeds only what is neither in a block nor in the previous index.
A file is recognised by its name, size and time, or else by its content.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sclip.apps.inputs import UNKNOWN, Item
from sclip.apps.models import OpenedModel
from sclip.apps.table import DIGEST, Embedded, Table, read_block, read_table, write_block
from sclip.concurrency import chunks, process_batches
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.pictures import picture_fault, read_rgb
from sclip.errors import Fault, UserError, counted
from sclip.files import atomic_file, file_digest, remove_unfinished
from sclip.model.inputs import AudioInput
from sclip.model.speechclip import SpeechCLIP

log = logging.getLogger(__name__)

IMAGES_AT_ONCE, RECORDINGS_AT_ONCE, TEXTS_AT_ONCE = 64, 64, 256
RECORDED_BYTES = 2**25  # of the files of a batch of recordings, which are in memory together
BLOCK_SECONDS, BLOCK_ROWS = 15.0, 2**16  # a block is written after this much work


@dataclass(frozen=True)
class Embedder:
    """Functions that read and embed items of one kind."""

    kind: str
    key: str  # fingerprint of everything that decides a vector
    device: torch.device
    batches: Callable[[Sequence[Item]], Iterator[Sequence[Item]]]
    digest: Callable[[Item], bytes]
    read: Callable[[Item], Any]  # what `encode` takes, or a Fault
    encode: Callable[[list[Any]], Tensor]  # -> (B, J)


def embedder(opened: OpenedModel, kind: str, branch: str | None) -> Embedder:
    """Return the functions with which a model reads and embeds pictures, recordings or sentences."""
    model, key = opened.model, opened.key(kind, branch)
    if kind == "image":
        return _picture_embedder(model, key)
    return _recording_embedder(model, key, branch) if kind == "audio" else _text_embedder(model, key)


def _picture_embedder(model: SpeechCLIP, key: str) -> Embedder:
    def read(item: Item) -> Tensor | Fault:
        try:
            return model.clip.preprocess(read_rgb(item.name))
        except Exception as error:  # a damaged picture can raise any exception
            path = Path(item.name)
            return Fault(picture_fault(path, error).removeprefix(f"image {path.name}: "))

    batches = partial(chunks, size=IMAGES_AT_ONCE)
    return Embedder("image", key, model.device, batches, _file_digest, read, model.encode_image)


def _recording_embedder(model: SpeechCLIP, key: str, branch: str | None) -> Embedder:
    def read(item: Item) -> AudioInput | Fault:
        try:
            return AudioInput(item.name, SAMPLE_RATE, item.name).usable(model.speech)
        except UserError as error:
            return Fault(str(error).removeprefix("audio ").removeprefix(f"{item.name}: "))

    encode = partial(model.encode_speech, branch=branch)
    return Embedder("audio", key, model.device, _recording_batches, _file_digest, read, encode)


def _text_embedder(model: SpeechCLIP, key: str) -> Embedder:
    def read(item: Item) -> str | Fault:
        assert item.text is not None
        tokens = model.clip.count_tokens(item.text)
        if tokens is not None and tokens > model.clip.most_tokens:
            log.warning("%s: %d tokens, cut to CLIP's %d", item.name, tokens, model.clip.most_tokens)
        return Fault("CLIP finds no token in it") if tokens == 0 else item.text

    def encode(texts: list[str]) -> Tensor:
        return F.normalize(model.clip.encode_text(texts).float(), dim=-1)

    return Embedder("text", key, model.device, partial(chunks, size=TEXTS_AT_ONCE), _text_digest, read, encode)


def _recording_batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield recordings of similar size, the smallest first."""
    batch: list[Item] = []
    size = 0
    for item in sorted(items, key=lambda item: (item.size, item.name)):
        if batch and (len(batch) == RECORDINGS_AT_ONCE or size + item.size > RECORDED_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


def _file_digest(item: Item) -> bytes:
    return bytes.fromhex(file_digest(Path(item.name)))


def _text_digest(item: Item) -> bytes:
    assert item.text is not None
    return hashlib.sha256(item.text.encode("utf-8", "surrogatepass")).digest()


class Store:
    """The items that are already embedded: those of an index and of finished blocks, to which it adds new blocks."""

    def __init__(self, folder: Path, key: str, previous: Table | None = None):
        """Open the blocks in `folder` whose vectors are decided by the same `key`, and delete others.

        `previous` is the table of the index that is to be updated.
        """
        self.folder, self.key = folder, key
        self.tables: list[Table] = []
        self.rows: dict[tuple[str, int, int], tuple[int, int]] = {}  # name, size and time: table and row
        self.faults: dict[tuple[str, int, int], str] = {}
        self.contents: dict[bytes, tuple[int, int]] = {}  # digest: table and row
        self._pending: list[Embedded] = []
        self._written, self._blocks = time.monotonic(), 0
        if previous is not None:
            self._add(previous)
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        for path in sorted(folder.glob("*.safetensors")):
            self._open_block(path)

    def _open_block(self, path: Path) -> None:
        try:
            table = read_block(path, self.key)
        except UserError as error:  # of a disk that lost a part of it
            log.warning(f"{error}; what was in it is embedded again")
            table = None
        if table is None:
            path.unlink()
            return
        self._add(table)
        self._blocks = max(self._blocks, int(path.stem))

    def _add(self, table: Table) -> None:
        number = len(self.tables)
        self.tables.append(table)
        for row, (name, (size, mtime)) in enumerate(zip(table.names, table.stats.tolist(), strict=True)):
            self.rows[name, size, mtime] = (number, row)
        for row, digest in enumerate(table.digests.numpy()):
            self.contents[digest.tobytes()] = (number, row)
        skipped = zip(table.skipped, table.skipped_stats.tolist(), table.reasons, strict=True)
        self.faults |= {(name, size, mtime): reason for name, (size, mtime), reason in skipped if size != UNKNOWN}

    def find(self, item: Item) -> tuple[int, int] | str | None:
        """Return an item's table and row, or why it cannot be used; None if it is new or has changed."""
        key = (item.name, item.size, item.mtime)
        return self.rows.get(key) or self.faults.get(key)

    def vector(self, digest: bytes) -> Tensor | None:
        """Return the vector (J,) of a content."""
        place = self.contents.get(digest)
        return None if place is None else self.tables[place[0]].vectors[place[1]]

    def add(self, embedded: Sequence[Embedded]) -> None:
        """Add items, and write a block if the last one was written long ago."""
        self._pending += embedded
        if time.monotonic() - self._written >= BLOCK_SECONDS or len(self._pending) >= BLOCK_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has been added since the last block as a block."""
        if self._pending:
            usable = [(e.item, e.digest, e.result) for e in self._pending if isinstance(e.result, Tensor)]
            skipped = [(e.item, e.result.reason) for e in self._pending if isinstance(e.result, Fault)]
            digests = torch.frombuffer(bytearray(b"".join(d for _, d, _ in usable) or bytes(1)), dtype=torch.uint8)
            vectors = torch.stack([vector for _, _, vector in usable]) if usable else torch.empty(0, 0)
            self._blocks += 1
            path = self.folder / f"{self._blocks:06d}.safetensors"
            rows = ([item for item, _, _ in usable], digests[: DIGEST * len(usable)].reshape(-1, DIGEST), vectors)
            write_block(path, rows, skipped, self.key)
            self._add(read_table(path))
            self._pending = []
        self._written = time.monotonic()

    def gather(self, places: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return the digests (N, 32) and vectors (N, J) of at least one place.

        The vectors are in a file, and not in memory. They are written before the file is mapped: on a full disk, that
        is an error, and writing to a mapped file would kill the process.
        """
        where = torch.tensor(places, dtype=torch.int64)  # (N, 2)
        width = self.tables[places[0][0]].vectors.shape[1]
        digests = torch.empty(len(where), DIGEST, dtype=torch.uint8)
        path = self.folder / "gathered"
        with atomic_file(path) as unfinished, unfinished.open("wb") as file:
            for rows in torch.split(torch.arange(len(where)), BLOCK_ROWS):
                vectors = torch.empty(len(rows), width)
                for number in sorted(set(where[rows, 0].tolist())):
                    here = (where[rows, 0] == number).nonzero()[:, 0]
                    table, of_table = self.tables[number], where[rows[here], 1]
                    digests[rows[here]], vectors[here] = table.digests[of_table], table.vectors[of_table]
                file.write(vectors.numpy().data)
        return digests, torch.from_file(str(path), size=len(where) * width, dtype=torch.float32).view(-1, width)

    def remove(self) -> None:
        """Delete the blocks, when all of them are in their final place."""
        self.tables.clear()
        shutil.rmtree(self.folder)


@dataclass(frozen=True)
class Embeddings:
    usable: list[tuple[Item, tuple[int, int]]]  # with their places in the store
    skipped: list[tuple[Item, str]]  # items that cannot be used, and why
    embedded: int  # items that were encoded now

    def refuse_none(self, nouns: str) -> None:
        """Raise an error if no item can be used."""
        if not self.usable:
            item, reason = self.skipped[0]
            number = counted(len(self.skipped), nouns)
            raise UserError(f"none of {number} can be used; the first: {item.name}: {reason}")


def embed_items(items: Sequence[Item], item_embedder: Embedder, store: Store, progress: bool = False) -> Embeddings:
    """Embed the items that are not in the store, and add them to it.

    Transient faults (no such file, no permission) are not stored, so the next run tries again.
    """
    waiting = [item for item in items if store.find(item) is None]
    transient_faults: dict[str, str] = {}
    count = 0

    def read(item: Item) -> Embedded | tuple[Item, bytes, Any]:
        try:
            digest = item_embedder.digest(item)
        except UserError as error:
            return Embedded(item, b"", Fault(str(error).removeprefix(f"{item.name}: ")))
        vector = store.vector(digest)
        return (item, digest, item_embedder.read(item)) if vector is None else Embedded(item, digest, vector)

    @torch.no_grad()
    def embed(_: Sequence[Item], data: list[Any]) -> tuple[list[Embedded], int]:
        new = [(item, digest, content) for item, digest, content in (d for d in data if isinstance(d, tuple))]
        usable = [content for _, _, content in new if not isinstance(content, Fault)]
        vectors = iter(item_embedder.encode(usable).float().cpu() if usable else ())
        done = [Embedded(i, d, content if isinstance(content, Fault) else next(vectors)) for i, d, content in new]
        return [d for d in data if isinstance(d, Embedded)] + done, len(usable)

    results = process_batches(item_embedder.batches(waiting), read, embed, item_embedder.device)
    hidden = None if progress else True
    with tqdm(None, item_embedder.kind, len(waiting), unit="", disable=hidden) as bar, closing(results):
        try:
            for embedded, new in results:
                transient_faults |= {
                    e.item.name: e.result.reason for e in embedded if not e.digest and isinstance(e.result, Fault)
                }
                store.add([e for e in embedded if e.digest])
                count += new
                bar.update(len(embedded))
        finally:
            store.flush()
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
    return Embeddings(usable, skipped, count)
