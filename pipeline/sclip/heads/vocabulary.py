"""The reduced vocabulary: the tokens of CLIP that can be keywords. These are the tokens of a corpus's captions.

Padding, start and end come first. Their rows are blocked, so they are never keywords. Words follow, most frequent
first. (A published list begins with padding, a word, start and end. Both kinds load, because the file lists the blocked
rows.)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sclip.encoders.tokens import WORD_END, text_of_pieces
from sclip.errors import UserError
from sclip.parsing import parse, read_json

if TYPE_CHECKING:
    from sclip.encoders.clip import ClipEncoder


@dataclass(frozen=True)
class Vocabulary:
    ids: tuple[int, ...]  # CLIP's token id of each row
    pieces: tuple[str, ...]  # the text of each token in CLIP's tokenizer; `</w>` ends a word
    blocked: tuple[int, ...]  # rows that are never a keyword

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids) or len(self.pieces) != len(self.ids):
            raise ValueError("expected distinct ids, and one piece for each id")
        if not set(self.blocked) < set(range(len(self.ids))):
            raise ValueError(f"blocked: expected some rows of the vocabulary, but not all; found {self.blocked}")

    @classmethod
    def from_counts(cls, counts: Mapping[int, int], clip: "ClipEncoder") -> "Vocabulary":
        """Make a vocabulary of the tokens of captions, given how often the captions have each token."""
        special = clip.text_tower.special_tokens  # CLIP pads with the token of "!", which a caption may contain
        words = sorted(counts.keys() - set(special), key=lambda token: (-counts[token], token))
        if not words:
            raise UserError("vocabulary: the captions have no words; add captions with words to the manifest")
        ids = special + words
        return cls(tuple(ids), tuple(clip.piece(i) for i in ids), tuple(range(len(special))))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        vocabulary: Vocabulary = parse(cls, read_json(path), str(path))
        return vocabulary

    def check(self, clip: "ClipEncoder") -> None:
        """Raise an error if this CLIP numbers its tokens differently: the keywords would be other words."""
        tokens = len(clip.text_tower.table)
        for row, (token, piece) in enumerate(zip(self.ids, self.pieces, strict=True)):
            if not 0 <= token < tokens or clip.piece(token) != piece:
                raise UserError(
                    f"vocabulary: row {row}: expected token {token} to be {piece!r}, which CLIP "
                    f"{clip.source.name} does not have; use the CLIP that the vocabulary was made for"
                )

    def text(self, row: int) -> str:
        """Return the text of a row's token."""
        return text_of_pieces(self.pieces[row])

    def ends_word(self, row: int) -> bool:
        return self.pieces[row].endswith(WORD_END)

    def save(self, path: Path) -> None:
        data = {"ids": self.ids, "pieces": self.pieces, "blocked": self.blocked}
        path.write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.ids)
