"""One split of a corpus for training and evaluation: hidden states, CLIP's vectors, and which picture each row has.

Rows without hidden states or without their picture's vector are left out. The commands that computed the features and
vectors have already reported them.
"""

import array
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclip.concurrency import PREFETCHED_BATCHES, chunks, prefetch_batches
from sclip.corpora.manifest import Manifest, read_manifest
from sclip.corpora.recordings import inspect
from sclip.corpora.rows import Row
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.encode import FeatureEncoder
from sclip.features.online import OnlineStore, online_index
from sclip.features.resident import ResidentStore, fits
from sclip.features.settings import describe
from sclip.features.store import FeatureStore, read_index
from sclip.features.vectors import ClipVectors, TokenVectors
from sclip.padded import Padded


class _Positions:
    """The positions of names in a list. To save memory, names that are looked up in the list's order need no table."""

    def __init__(self, names: Sequence[str]):
        self._names, self._next = names, 0
        self._table: dict[str, int] | None = None

    def find(self, name: str) -> int | None:
        """Return the position of a name, or None if the list does not have it."""
        if self._next < len(self._names) and self._names[self._next] == name:
            position = self._next
        else:
            if self._table is None:
                self._table = {known: i for i, known in enumerate(self._names)}
            if name not in self._table:
                return None
            position = self._table[name]
        self._next = position + 1
        return position


class _Members:
    """The usable rows of a split as columns of numbers, which are a tenth the size of Python's objects."""

    def __init__(self) -> None:
        # The row in the manifest, in the store, in CLIP's vectors of pictures, and in those of captions (-1: none).
        self.columns = tuple(array.array("q") for _ in range(4))

    def append(self, *numbers: int) -> None:
        for column, number in zip(self.columns, numbers, strict=True):
            column.append(number)

    def tensors(self) -> list[Tensor]:
        """Return the columns (N,)."""
        return [torch.frombuffer(column, dtype=torch.long) for column in self.columns]


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one split, with their hidden states, pictures and captions."""

    rows: Sequence[Row]  # in the manifest's order
    frames: Tensor  # (N,): each utterance's number of frames
    images: Tensor  # (I, J): the split's pictures, in order of first appearance
    image_index: Tensor  # (N,): the index of each utterance's picture in `images`
    captioned: Tensor  # (C,): indices of the rows that have text
    captions: Tensor  # (C, J): vectors of their texts
    store: FeatureStore | OnlineStore | ResidentStore
    store_rows: Tensor  # (N,): each utterance's row in the store
    index: str  # the content of the store's index, which has a digest of every file
    clip: dict[str, Any]  # the CLIP that computed the vectors: name, revision, hash
    tokens: TokenVectors | None  # CLIP's vectors of single tokens

    @classmethod
    def open(
        cls, manifest: Path, features: Path, vectors: Path, split: str, encoder: FeatureEncoder | None = None
    ) -> "Dataset":
        """Open one split. `encoder` is needed for online features, which are not stored."""
        (dataset,) = cls.open_splits(manifest, features, vectors, (split,), encoder)
        return dataset

    @classmethod
    def open_splits(
        cls,
        manifest: Path,
        features: Path,
        vectors: Path,
        splits: Sequence[str],
        encoder: FeatureEncoder | None = None,
    ) -> list["Dataset"]:
        """Open several splits and read the manifest once."""
        all_rows, index = read_manifest(manifest, Problems(skip=True)), read_index(features)
        _check_recordings(index, all_rows, manifest, features)
        store: FeatureStore | OnlineStore
        if "online" in index["features"]:
            assert encoder is not None
            store = OnlineStore(index, all_rows, encoder)
        else:
            store = FeatureStore.open(features)
        clip = _open_vectors(vectors, all_rows, manifest)
        members = _join(all_rows, store, index["skipped"], clip, (manifest, features, vectors))
        text = json.dumps({key: value for key, value in index.items() if key != "rows"})  # the paths may change
        return [cls._of_split(split, members, all_rows, store, text, clip, (manifest, vectors)) for split in splits]

    @classmethod
    def open_exact(
        cls, manifest: Path, vectors: Path, split: str, encoder: FeatureEncoder, problems: Problems
    ) -> "Dataset":
        """Open a split whose hidden states the encoder computes from the recordings on each read, without a store."""
        all_rows = read_manifest(manifest, Problems(skip=True))
        rows = all_rows.select([i for i, (own,) in enumerate(all_rows.values("split")) if own == split])
        recordings = [recording for _, batch in prefetch_batches(chunks(rows, 64), inspect) for recording in batch]
        features = describe(encoder.encoder, encoder.config)
        index = online_index(features, recordings, encoder.encoder, f"{manifest}: split {split}", problems)
        store = OnlineStore(index, rows, encoder)
        clip = _open_vectors(vectors, all_rows, manifest)
        members = _join(rows, store, index["skipped"], clip, (manifest, manifest, vectors))
        return cls._of_split(split, members, rows, store, json.dumps(index), clip, (manifest, vectors))

    @classmethod
    def _of_split(
        cls,
        split: str,
        members: Mapping[str, _Members],
        manifest_rows: Manifest,
        store: FeatureStore | OnlineStore,
        index: str,
        clip: ClipVectors,
        origin: tuple[Path, Path],
    ) -> "Dataset":
        """Collect the members of a split. `origin` is the manifest and the folder of vectors, for messages."""
        manifest, vectors = origin
        if split not in members:
            raise UserError(
                f"{manifest}: no row is of split {split}; give this split to some rows of the corpus, and make it again"
            )
        if not members[split].columns[0]:
            raise UserError(f"{manifest}: no row of split {split} has hidden states and a picture in {vectors}")
        rows, store_rows, pictures, captions = members[split].tensors()
        distinct, first, inverse = np.unique(pictures.numpy(), return_index=True, return_inverse=True)
        order = first.argsort()  # of first appearance
        captioned = (captions >= 0).nonzero().flatten()
        return cls(
            rows=manifest_rows.select(rows.numpy()),
            frames=store.lengths[store_rows],
            images=clip.images[torch.from_numpy(distinct[order])],
            image_index=torch.from_numpy(order.argsort()[inverse]),
            captioned=captioned,
            captions=clip.captions[captions[captioned]],
            store=store,
            store_rows=store_rows,
            index=index,
            clip=clip.clip,
            tokens=clip.tokens,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def on_device(self, device: torch.device) -> "Dataset":
        """Return the dataset with its frames in a GPU's memory, or if they do not fit, with batches in pinned memory.

        Without a GPU or stored frames, the dataset is returned unchanged.
        """
        if device.type != "cuda" or not isinstance(self.store, FeatureStore):
            return self
        if not fits(self.store, int(self.frames.sum()), device):
            return self.with_pinned_batches(device)
        store = ResidentStore.copy(self.store, self.store_rows, device)
        return replace(self, store=store, store_rows=torch.arange(len(self)))

    def with_pinned_batches(self, device: torch.device) -> "Dataset":
        """Return the dataset with batches in pinned memory. Without a GPU or stored frames, it is unchanged."""
        if device.type != "cuda" or not isinstance(self.store, FeatureStore):
            return self
        return replace(self, store=self.store.with_pinned_batches())

    @property
    def prefetched_batches(self) -> int:
        """Return how many batches to read ahead on a GPU. Resident frames are read fast, into the GPU's own memory."""
        return 1 if isinstance(self.store, ResidentStore) else PREFETCHED_BATCHES

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that training reads."""
        digest = hashlib.sha256(self.index.encode())
        for row in self.rows:
            digest.update(json.dumps([row.id, row.image_id]).encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()

    def check_encoders(self, speech: AnySpeechEncoder, clip: ClipEncoder, model: str) -> None:
        """Raise an error unless these encoders computed the features and vectors. A head fits one pair of encoders."""
        own = {"hash": speech.fingerprint(), "normalize_waveform": speech.normalize_waveform}
        for what, command, origin, key_of_name, expected, name in (
            ("hidden states", "extract-features", self.store.features, "encoder", own, speech.source.name),
            ("vectors", "embed-clip", self.clip, "name", {"hash": clip.fingerprint()}, clip.source.name),
        ):
            if any(origin[key] != value for key, value in expected.items()):
                old, new = (
                    ", ".join(f"{key} {str(record[key])[:12]}" for key in expected) for record in (origin, expected)
                )
                raise UserError(
                    f"model {model}: {what} were computed by {origin[key_of_name]} ({old}), not by {name} ({new}), "
                    f"which the model has; run `sclip {command}` with the preset's encoders set to the model's own"
                )

    def read(
        self, indices: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1
    ) -> Padded:
        """Read frames [start, start + limit) of each utterance as they are stored.

        Return states (B, L, T, D) or codes (B, T, K). T is a multiple of `multiple`.
        """
        return self.store.read(self.store_rows[indices], starts, limit, multiple)

    def check_finite(self, indices: Tensor) -> None:
        """Raise an error that names the first of these utterances whose inputs are not finite, if there is one."""
        for index in indices.tolist():
            row, (states,) = self.rows[index], self.read(torch.tensor([index]))
            finite = states.flatten(1).isfinite().all(1)  # (L,), or (T,) of codes, which are integers
            if not bool(finite.all()):
                layer = int((~finite).int().argmax())
                raise UserError(
                    f"{row.name}: layer {layer}: hidden states in the cache are not finite; `sclip verify` names the "
                    "damaged files"
                )
            if not bool(self.images[self.image_index[index]].isfinite().all()):
                raise UserError(f"{row.name}: its picture's vector is not finite; run `sclip embed-clip` again")


def _check_recordings(index: Mapping[str, Any], rows: Manifest, manifest: Path, features: Path) -> None:
    """Refuse hidden states of other recordings. The recordings of two corpora can have the same ids."""
    if index.get("rows") not in (None, rows.fingerprint("id", "audio")):  # earlier versions wrote none
        raise UserError(
            f"{manifest}: its rows have changed since {features} was written (their order, an id or a recording's "
            "path); run `sclip extract-features` again"
        )


def _open_vectors(vectors: Path, rows: Manifest, manifest: Path) -> ClipVectors:
    """Open CLIP's vectors of the manifest's rows. A changed caption does not change an id, so ids show no change."""
    clip = ClipVectors.open(vectors)
    if clip.rows is not None and clip.rows != rows.fingerprint("id", "split", "image_id", "text"):
        raise UserError(
            f"{manifest}: its rows have changed since {vectors} was written (their order, an id, a split, a picture's "
            "name or a caption); run `sclip embed-clip` again"
        )
    return clip


def _join(
    rows: Manifest,
    store: FeatureStore | OnlineStore,
    skipped: Collection[str],
    clip: ClipVectors,
    origin: tuple[Path, Path, Path],
) -> dict[str, _Members]:
    """Join the rows with their hidden states and CLIP's vectors, and return the usable ones of each split.

    `skipped` are the rows without hidden states. `origin` is the manifest and the folders of features and vectors.
    """
    manifest, features, vectors = origin
    stored, captions = _Positions(store.ids), _Positions(clip.caption_ids)
    pictures = {name: i for i, name in enumerate(clip.image_ids)}
    members: dict[str, _Members] = {}
    for i, (name, split, image_id, text) in enumerate(rows.values("id", "split", "image_id", "text")):
        of_split = members.setdefault(split, _Members())
        states = None if name in skipped else stored.find(name)
        if states is None and name not in skipped:
            raise UserError(f"{manifest}: {rows[i].name} is not in {features}; run `sclip extract-features` again")
        if name in clip.skipped:
            continue
        picture, caption = pictures.get(image_id), None if text is None else captions.find(name)
        if picture is None or (text is not None and caption is None and states is not None):
            raise UserError(f"{manifest}: {rows[i].name} is not in {vectors}; run `sclip embed-clip` again")
        if states is not None:
            of_split.append(i, states, picture, -1 if caption is None else caption)
    return members
