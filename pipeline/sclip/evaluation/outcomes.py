"""outcomes.safetensors: what a model did with each query and each utterance of the test split.

Two models can be compared picture by picture only with these, not with the figures of metrics.json. A tensor's name is
GROUP/COLUMN. All columns of a group have the same rows; all numbers are int32.

    utterances         (N,), int64: of each utterance a hash of its id, its picture's id and its text
    GROUP/pictures     (Q,): the picture of each row, 0 to I - 1 in order of first appearance. The bootstrap draws these
    DIRECTION/BRANCH   (Q,): the rank of each query's best correct answer, for each direction and branch of metrics.json
    keywords/hits      (C, 2): of each utterance with text, the slots that are hits, and all slots
    keywords/all       (C, 3): keywords that are in the caption, all keywords, all tokens of the caption, without
                       duplicates; also keywords/content and keywords/content, synonyms as one: see keywords.py
    localization/all   (L, 2): of each utterance with timed words, the keywords that are located, and those that can be;
                       also localization/content: see localization.py

The metadata has the format and the number of pictures I.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip.config import BRANCHES
from sclip.corpora.rows import Row
from sclip.errors import UserError
from sclip.evaluation.bootstrap import ratio
from sclip.evaluation.metrics_file import AGAIN
from sclip.fingerprints import data_fingerprint
from sclip.formats import check_format
from sclip.tensors import read_tensors_and_metadata, write_tensors

FORMAT = "sclip outcomes 1"
UTTERANCES, PICTURES, HITS = "utterances", "pictures", "hits"
REQUIRED = {"keywords": (HITS, "all", "content"), "localization": ("all", "content")}  # columns of groups of counts
Groups = dict[str, dict[str, Tensor]]  # group: column: one row for each query or utterance


@dataclass(frozen=True)
class Outcomes:
    pictures: int
    utterances: Tensor  # (N,)
    groups: Groups  # those without columns are not saved

    @classmethod
    def of(cls, rows: Iterable[Row], pictures: int, groups: Groups) -> "Outcomes":
        return cls(pictures, _hashes(rows), groups)

    def save(self, path: Path) -> None:
        columns = {f"{group}/{name}": column for group, of in self.groups.items() for name, column in of.items()}
        tensors = {UTTERANCES: self.utterances, **{name: column.int() for name, column in columns.items()}}
        write_tensors(path, tensors, {"format": FORMAT, PICTURES: self.pictures})

    @classmethod
    def read(cls, path: Path) -> "Outcomes":
        tensors, metadata = read_tensors_and_metadata(path)
        check_format(path, metadata, FORMAT, AGAIN)
        groups: Groups = {}
        for name, tensor in tensors.items():
            group, _, column = name.partition("/")
            if column:
                groups.setdefault(group, {})[column] = tensor
        outcomes = cls(metadata.get(PICTURES, 0), tensors.get(UTTERANCES, torch.empty(0)), groups)
        if not outcomes._is_valid():
            raise UserError(f"{path}: not what `sclip evaluate` writes; {AGAIN}")
        return outcomes

    @property
    def test_data(self) -> str:
        """Return the SHA-256 of the utterances' hashes and of the number of pictures."""
        return data_fingerprint([self.pictures, self.utterances.tolist()])

    def _is_valid(self) -> bool:
        """Check types and shapes, which a right digest does not promise."""
        if self.utterances.dtype != torch.int64 or self.utterances.ndim != 1 or not isinstance(self.pictures, int):
            return False
        branches = self.groups.get("speech_to_image", {}).keys() & set(BRANCHES)
        return (
            bool(branches)
            and 0 < self.pictures <= len(self.utterances)
            and all(_is_valid_group(name, columns, self.pictures) for name, columns in self.groups.items())
        )


def matching_rates(correct: Tensor, keywords: Tensor, references: Tensor) -> dict[str, Tensor]:
    """Return precision, recall and F1 (N,) in % of each utterance: see keywords.py."""
    return {
        "precision": 100 * ratio(correct.double(), keywords),
        "recall": 100 * ratio(correct.double(), references),
        "f1": 100 * ratio(2 * correct.double(), keywords + references),
    }


def hit_rates(hit_slots: Tensor, slots: Tensor) -> Tensor:
    """Return the share (N,) in % of each utterance's slots that are hits."""
    return 100 * ratio(hit_slots.double(), slots)


def _is_valid_group(group: str, columns: dict[str, Tensor], pictures: int) -> bool:
    if not columns.keys() >= {PICTURES, *REQUIRED.get(group, ())}:
        return False
    owners = columns[PICTURES]
    of_type = all(
        column.dtype == torch.int32 and column.shape == (owners.numel(), *_row_shape(group, name))
        for name, column in columns.items()
    )
    return of_type and bool(((owners >= 0) & (owners < pictures)).all())


def _row_shape(group: str, column: str) -> tuple[int, ...]:
    if column == PICTURES or group not in REQUIRED:
        return ()
    return (2,) if group == "localization" or column == HITS else (3,)


def _hashes(rows: Iterable[Row]) -> Tensor:
    """Return the first eight bytes of the SHA-256 of each utterance's id, its picture's id and its text."""

    def digest(*texts: Any) -> bytes:
        return hashlib.sha256(json.dumps(texts).encode()).digest()[:8]

    hashes = b"".join(digest(row.id, row.image_id, row.text) for row in rows)
    return torch.frombuffer(bytearray(hashes), dtype=torch.int64)
