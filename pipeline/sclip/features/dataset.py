"""One split of a corpus for training and evaluation: hidden states, CLIP's vectors, and which picture each row has.

Rows without hidden states or without their picture's vector are left out. The commands that computed the features and
vectors have already reported them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sclip.concurrency import chunks, prefetch_batches
from sclip.corpora.manifest import Manifest, Row, read_manifest
from sclip.corpora.recordings import inspect
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError, counted
from sclip.features.encode import FeatureEncoder
from sclip.features.online import OnlineStore, online_index
from sclip.features.resident import ResidentStore, fits
from sclip.features.settings import describe
from sclip.features.store import INDEX_FILE, FeatureStore, read_index
from sclip.features.vectors import ClipVectors, TokenVectors
from sclip.padded import Padded


class _Member(NamedTuple):
    """A usable row of a split: its index in the manifest, and where its parts are stored."""

    row: int
    states: int  # row of the store
    picture: int
    caption: int | None


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
    index: str  # the text of the store's index, which has a digest of every file
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
        store: FeatureStore | OnlineStore
        if "online" in index["features"]:
            assert encoder is not None
            store = OnlineStore(index, all_rows, encoder)
        else:
            store = FeatureStore.open(features)
        extracted = {*store.ids, *index["skipped"]}
        for i, (name,) in enumerate(all_rows.values("id")):
            if name not in extracted:
                row = all_rows[i].name
                raise UserError(f"{manifest}: {row} is not in {features}; run `sclip extract-features` again")
        text = (features / INDEX_FILE).read_text(encoding="utf-8")
        return cls._build(manifest, all_rows, store, text, vectors, splits)

    @classmethod
    def open_exact(
        cls, manifest: Path, vectors: Path, split: str, encoder: FeatureEncoder, problems: Problems
    ) -> "Dataset":
        """Open a split whose hidden states the encoder computes from the recordings on each read, without a store."""
        all_rows = read_manifest(manifest, Problems(skip=True))
        rows = all_rows.select([i for i, (of,) in enumerate(all_rows.values("split")) if of == split])
        recordings = [recording for _, batch in prefetch_batches(chunks(rows, 64), inspect) for recording in batch]
        features = describe(encoder.encoder, encoder.config)
        index = online_index(features, recordings, encoder.encoder, problems)
        if rows and not index["lengths"]:
            raise problems.nothing_left(
                f"{manifest}: none of {counted(len(rows), 'recordings')} of split {split} can be used"
            )
        store = OnlineStore(index, rows, encoder)
        (dataset,) = cls._build(manifest, rows, store, json.dumps(index), vectors, (split,))
        return dataset

    @classmethod
    def _build(
        cls,
        manifest: Path,
        manifest_rows: Manifest,
        store: FeatureStore | OnlineStore,
        index: str,
        vectors: Path,
        splits: Sequence[str],
    ) -> list["Dataset"]:
        """Join the rows of each split with their hidden states and CLIP's vectors."""
        clip = ClipVectors.open(vectors)
        stored, pictures, captions = _positions(store.ids), _positions(clip.image_ids), _positions(clip.caption_ids)
        members: dict[str, list[_Member]] = {}
        for i, (name, split, image_id, text) in enumerate(manifest_rows.values("id", "split", "image_id", "text")):
            of_split = members.setdefault(split, [])
            if name in clip.skipped:
                continue
            if image_id not in pictures or (text is not None and name not in captions and name in stored):
                row = manifest_rows[i].name
                raise UserError(f"{manifest}: {row} is not in {vectors}; run `sclip embed-clip` again")
            if name in stored:
                of_split.append(_Member(i, stored[name], pictures[image_id], None if text is None else captions[name]))

        def build_split(split: str) -> "Dataset":
            if split not in members:
                raise UserError(f"{manifest}: no row is of split {split}")
            if not members[split]:
                raise UserError(f"{manifest}: no row of split {split} has hidden states and a picture in {vectors}")
            rows, store_rows, images, texts = map(list, zip(*members[split], strict=True))
            image_index = {image: i for i, image in enumerate(dict.fromkeys(images))}
            captioned = [i for i, text in enumerate(texts) if text is not None]
            return cls(
                manifest_rows.select(rows),
                store.lengths[store_rows],
                clip.images[list(image_index)],
                torch.tensor([image_index[image] for image in images]),
                torch.tensor(captioned, dtype=torch.long),
                clip.captions[[texts[i] for i in captioned]],
                store,
                torch.tensor(store_rows),
                index,
                clip.clip,
                clip.tokens,
            )

        return [build_split(split) for split in splits]

    def __len__(self) -> int:
        return len(self.rows)

    def on_device(self, device: torch.device) -> "Dataset":
        """Return the dataset with its frames in a GPU's memory, or unchanged without a GPU or if they do not fit."""
        if device.type != "cuda" or not isinstance(self.store, FeatureStore):
            return self
        if not fits(self.store, int(self.frames.sum()), device):
            return self
        store = ResidentStore.copy(self.store, self.store_rows, device)
        return replace(self, store=store, store_rows=torch.arange(len(self)))

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that training reads."""
        digest = hashlib.sha256(self.index.encode())
        digest.update(json.dumps([[row.id, row.image_id] for row in self.rows]).encode())
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
                old, new = (", ".join(f"{key} {str(of[key])[:12]}" for key in expected) for of in (origin, expected))
                raise UserError(
                    f"model {model}: {what} were computed by {origin[key_of_name]} ({old}), not by {name} ({new}), "
                    f"which the model has; run `sclip {command}` with the preset's encoders set to the model's own"
                )

    def read(
        self, indices: Tensor, starts: Tensor | None = None, limit: int | None = None, multiple: int = 1
    ) -> Padded:
        """Read frames [start, start + limit) of each utterance as they are stored: (B, L, T, D).

        T is a multiple of `multiple`.
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


def _positions(names: Sequence[str] | dict[str, None]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}
