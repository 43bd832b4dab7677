"""Study how the number of slots affects the hit rate, and which words the keywords contain.

A word is one or more tokens of CLIP's tokenizer. Keywords are read in order, and pieces are joined until one ends a
word. So a piece that ends no word becomes part of the next keyword's word, also if this keyword is a word by itself.
`words.json` is empty for an architecture without keywords. Otherwise it has:

    slots           for k = 1, 2, …: hit rate of the first k slots, and the share of utterances with any hit among them
    counts          for each number of keywords: the utterances with this number, their hit rate and duplicates
    by_frequency    for bands of content words by the number of captions with the word: how many words, in how many
                    captions (spoken), and the share of these captions whose keywords contain the word (found)
    words           for each word: the number of captions with it (spoken), how many of them have keywords with it
                    (found), the number of utterances whose keywords contain it (said), and whether it is a content word
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sclip.encoders.tokens import WORD_END, text_of_pieces
from sclip.evaluation.bootstrap import Bootstrap, ratio
from sclip.evaluation.inference import DecodedKeywords
from sclip.evaluation.keywords import Lexicon, precision_recall
from sclip.padded import valid_mask

if TYPE_CHECKING:
    from sclip.encoders.clip import ClipEncoder

NO_WORD = 0
MAX_TOKENS = 4  # longest word, in tokens; the code of a longer word would not fit into 64 bits
BANDS = (1, 2, 5, 10, 30, 100, 300)  # number of captions with a word at which each band starts


def word_codes(tokens: Tensor, lengths: Tensor, ends: Tensor) -> Tensor:
    """Return the code of the word that ends at each token, or NO_WORD: tokens (N, S), lengths (N,) -> (N, S)

    `ends` marks those of CLIP's tokens that end a word.
    """
    base = len(ends) + 1
    unfinished, count = torch.zeros(len(tokens), dtype=torch.long), torch.zeros(len(tokens), dtype=torch.long)
    codes = torch.full_like(tokens, NO_WORD)
    valid = valid_mask(lengths, tokens.shape[1])
    for slot in range(tokens.shape[1]):
        unfinished = unfinished * base + tokens[:, slot] + 1
        count = count + 1
        is_end = ends[tokens[:, slot]]
        codes[:, slot] = torch.where(is_end & valid[:, slot] & (count <= MAX_TOKENS), unfinished, NO_WORD)
        unfinished, count = unfinished.masked_fill(is_end, 0), count.masked_fill(is_end, 0)
    return codes


def spell(code: int, clip: "ClipEncoder", base: int) -> str:
    pieces = []
    while code:
        code, token = divmod(code, base)
        pieces.append(clip.piece(token - 1))
    return text_of_pieces("".join(reversed(pieces)))


class WordComparison:
    """Compare the words in the keywords of N utterances with the words in their captions."""

    def __init__(self, keywords: DecodedKeywords, texts: list[str], lexicon: Lexicon, clip: "ClipEncoder"):
        self.clip, self.lexicon = clip, lexicon
        ends = torch.tensor([clip.piece(token).endswith(WORD_END) for token in range(len(lexicon.content))])
        self.base = len(ends) + 1
        captions = [torch.tensor(ids, dtype=torch.long) for ids in clip.token_ids(texts)]
        lengths = torch.tensor([len(caption) for caption in captions])
        # Pairs (P, 2) of an utterance and a word, without duplicates.
        self.caption_words = _distinct_pairs(word_codes(pad_sequence(captions, batch_first=True), lengths, ends))
        self.keyword_words = _distinct_pairs(word_codes(lexicon.ids[keywords.rows], keywords.lengths, ends))
        self.utterances = len(texts)

    @property
    def correct(self) -> Tensor:
        """Mark the `keyword_words` (P,) that are in the caption of their utterance."""
        return _contained(self.keyword_words, self.caption_words)

    def scores(self, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
        """Return precision, recall and F1 of each utterance's distinct words."""
        correct = self._count_by_utterance(self.keyword_words[self.correct])
        keywords = self._count_by_utterance(self.keyword_words)
        references = self._count_by_utterance(self.caption_words)
        return precision_recall(correct, keywords, references, pictures, bootstrap)

    def _count_by_utterance(self, pairs: Tensor) -> Tensor:
        return torch.bincount(pairs[:, 0], minlength=self.utterances)

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each word of the captions, the most common first."""
        words, spoken = torch.unique(self.caption_words[:, 1], return_counts=True)
        found = _counts(self.keyword_words[self.correct, 1], words)
        said = _counts(self.keyword_words[:, 1], words)
        columns = zip(words.tolist(), spoken.tolist(), found.tolist(), said.tolist(), strict=True)
        rows = [
            {
                "word": spell(code, self.clip, self.base),
                "spoken": spoken_count,
                "found": found_count,
                "said": said_count,
                "content": code >= self.base or bool(self.lexicon.content[code - 1]),
            }
            for code, spoken_count, found_count, said_count in columns
        ]
        return sorted(rows, key=lambda row: (-row["spoken"], row["word"]))


def study(
    keywords: DecodedKeywords, hit: Tensor, words: list[dict[str, Any]], pictures: Tensor, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return the content of words.json. `hit` (N, S) marks the hits, and `words` comes from `WordComparison.table`."""
    return {
        "slots": _first_slots(keywords, hit, pictures, bootstrap),
        "counts": _by_count(keywords, hit),
        "by_frequency": _by_frequency(words),
        "words": words,
    }


def _first_slots(
    keywords: DecodedKeywords, hit: Tensor, pictures: Tensor, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    hits, slots = hit.cumsum(1).double(), keywords.valid.cumsum(1)
    return [
        {
            "slots": k + 1,
            "hit_rate": bootstrap.mean(100 * ratio(hits[:, k], slots[:, k]), pictures),
            "any_hit": bootstrap.mean(100.0 * (hits[:, k] > 0), pictures),
        }
        for k in range(hit.shape[1])
    ]


def _by_count(keywords: DecodedKeywords, hit: Tensor) -> list[dict[str, Any]]:
    repeats = (keywords.valid & ~keywords.first).sum(1)
    rows = []
    for count in torch.unique(keywords.lengths).tolist():
        chosen = keywords.lengths == count
        slots = max(1, count) * int(chosen.sum())
        rows.append(
            {
                "keywords": count,
                "utterances": int(chosen.sum()),
                "hit_rate": 100 * int(hit[chosen].sum()) / slots,
                "duplicates": 100 * int(repeats[chosen].sum()) / slots,
            }
        )
    return rows


def _by_frequency(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for start, stop in zip(BANDS, (*BANDS[1:], None), strict=True):
        band = [w for w in words if w["content"] and w["spoken"] >= start and (stop is None or w["spoken"] < stop)]
        if band:
            spoken, found = (sum(word[key] for word in band) for key in ("spoken", "found"))
            rows.append(
                {"from": start, "below": stop, "words": len(band), "spoken": spoken, "found": 100 * found / spoken}
            )
    return rows


def _distinct_pairs(codes: Tensor) -> Tensor:
    """Return the distinct pairs of an utterance and a word: (N, S) -> (P, 2)"""
    utterance = torch.arange(len(codes))[:, None].expand_as(codes)
    is_word = codes != NO_WORD
    return torch.unique(torch.stack([utterance[is_word], codes[is_word]], 1), dim=0)


def _contained(pairs: Tensor, others: Tensor) -> Tensor:
    """Mark the pairs that are also in `others`: (P, 2), (Q, 2) -> (P,). Neither may have duplicates."""
    _, inverse, counts = torch.unique(torch.cat([pairs, others]), dim=0, return_inverse=True, return_counts=True)
    return counts[inverse[: len(pairs)]] > 1


def _counts(codes: Tensor, words: Tensor) -> Tensor:
    """Return the number of occurrences in `codes` of each of `words`, which must be sorted."""
    return torch.bincount(torch.searchsorted(words, codes[torch.isin(codes, words)]), minlength=len(words))
