"""What keywords need to know about a CLIP's tokenizer, for the two kinds that can have keywords.

Tokens are written as CLIP's own tokenizer writes them: one letter for each byte of UTF-8, and `</w>` behind a word.
"""

from collections.abc import Sequence
from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer, bytes_to_unicode

WORD_END = "</w>"
_LETTERS = bytes_to_unicode()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}
PADDING = 0  # the token that CLIP's own tokenizer pads with; it is also that of "!"
_SPACE = "\u2581"  # SentencePiece's mark before a word


class ClipTokens:
    """CLIP's own tokenizer. Its last two tokens are the start and the end of a sentence."""

    def __init__(self, tokenizer: open_clip.SimpleTokenizer, vocabulary: int):
        self.tokenizer, self.start, self.end = tokenizer, vocabulary - 2, vocabulary - 1

    @property
    def special(self) -> list[int]:
        """Return the tokens that are never keywords."""
        return [PADDING, self.start, self.end]

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens without start, end and padding, and without a limit."""
        ids: list[int] = self.tokenizer.encode(text)
        return ids

    def piece(self, token: int) -> str:
        return str(self.tokenizer.decoder[token])


class SentencePieceTokens:
    """A tokenizer of transformers that writes `start text end`, such as XLM-V's, which MetaCLIP 2 has.

    Its pieces say where a word starts and not where it ends, so each piece counts as a word. Most words of XLM-V, which
    has 900,000 pieces, are one piece.
    """

    def __init__(self, tokenizer: HFTokenizer, ends: Sequence[int], vocabulary: int):
        """`ends` are the tokens around an empty text: start and end."""
        self.tokenizer, (self.start, self.end) = tokenizer, ends
        others = [tokenizer.tokenizer.pad_token_id, *ends, *tokenizer.tokenizer.all_special_ids]
        self.special = [token for token in dict.fromkeys(others) if token < vocabulary]  # never keywords

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens without start, end and padding, and without a limit."""
        ids: list[int] = self.tokenizer.tokenizer(self.tokenizer.clean_fn(text), add_special_tokens=False).input_ids
        return ids

    def piece(self, token: int) -> str:
        written = self.tokenizer.tokenizer.convert_ids_to_tokens(token) or ""
        return "".join(_LETTERS[byte] for byte in written.replace(_SPACE, "").encode()) + WORD_END


Tokens = ClipTokens | SentencePieceTokens


def tokens_of(tokenizer: Any, vocabulary: int) -> Tokens | None:
    """Return a tokenizer's tokens, or None for one that keywords cannot use. `vocabulary` is the number of tokens."""
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return ClipTokens(tokenizer, vocabulary)
    if not isinstance(tokenizer, HFTokenizer) or tokenizer.tokenizer.pad_token_id is None:
        return None
    ends = tokenizer.tokenizer("").input_ids
    return SentencePieceTokens(tokenizer, ends, vocabulary) if len(set(ends)) == len(ends) == 2 else None


def text_of_pieces(pieces: str) -> str:
    """Decode word pieces to text."""
    return bytes(_BYTES[letter] for letter in pieces.removesuffix(WORD_END)).decode("utf-8", errors="replace")
