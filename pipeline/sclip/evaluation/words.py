"""The keyword study: how many slots it takes, and which words are found.

A word is what CLIP's tokenizer makes it, one token or several; keywords make up a word where slots side by side hold
its tokens in order. `words.json`, empty for an architecture without keywords:

    slots           for k = 1, 2, …: hit rate of the first k slots, and the share of utterances with any hit among them
    counts          for each number of keywords: utterances that have it, their hit rate and duplicates
    by_frequency    bands of words by how many captions say them: what share of the sayings is found
    words           each word: captions that say it, how many of those the keywords find, how often keywords say it,
                    and whether it is a content word
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sclip.encoders.clip import spelled
from sclip.evaluation.bootstrap import Bootstrap, ratio
from sclip.evaluation.inference import Found
from sclip.evaluation.keywords import Lexicon, precision_recall
from sclip.padded import valid_mask

if TYPE_CHECKING:
    from sclip.encoders.clip import ClipEncoder

NO_WORD = 0
PIECES = 4  # of a word at most: so many tokens fit into 64 bits
BANDS = (1, 2, 5, 10, 30, 100, 300)  # captions that say a word: where each band begins


def word_codes(tokens: Tensor, lengths: Tensor, ends: Tensor) -> Tensor:
    """tokens (N, S), of which (N,) count, and which of CLIP's tokens end a word -> (N, S): the word that ends there"""
    base = len(ends) + 1
    unfinished, pieces = torch.zeros(len(tokens), dtype=torch.long), torch.zeros(len(tokens), dtype=torch.long)
    codes = torch.full_like(tokens, NO_WORD)
    valid = valid_mask(lengths, tokens.shape[1])
    for slot in range(tokens.shape[1]):
        unfinished = unfinished * base + tokens[:, slot] + 1
        pieces = pieces + 1
        over = ends[tokens[:, slot]]
        codes[:, slot] = torch.where(over & valid[:, slot] & (pieces <= PIECES), unfinished, NO_WORD)
        unfinished, pieces = unfinished.masked_fill(over, 0), pieces.masked_fill(over, 0)
    return codes


def spell(code: int, clip: "ClipEncoder", base: int) -> str:
    pieces = []
    while code:
        code, token = divmod(code, base)
        pieces.append(clip.piece(token - 1))
    return spelled("".join(reversed(pieces)))


class Words:
    """Of the keywords and the captions of N utterances."""

    def __init__(self, found: Found, texts: list[str], lexicon: Lexicon, clip: "ClipEncoder"):
        self.clip, self.lexicon = clip, lexicon
        ends = torch.tensor([clip.piece(token).endswith("</w>") for token in range(len(lexicon.content))])
        self.base = len(ends) + 1
        captions = [torch.tensor(ids, dtype=torch.long) for ids in clip.token_ids(texts)]
        lengths = torch.tensor([len(caption) for caption in captions])
        spoken = word_codes(pad_sequence(captions, batch_first=True), lengths, ends)
        self.spoken = _pairs(spoken)  # (P, 2): utterance and word, each once
        self.said = _pairs(word_codes(lexicon.ids[found.rows], found.lengths, ends))
        self.utterances = len(texts)

    @property
    def right(self) -> Tensor:
        """(P,): which of the words said by keywords their caption has"""
        return _among(self.said, self.spoken)

    def scores(self, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
        """Precision, recall and F1 of each utterance's distinct words"""
        counts = [torch.bincount(pairs[:, 0], minlength=self.utterances) for pairs in (self.said, self.spoken)]
        right = torch.bincount(self.said[self.right, 0], minlength=self.utterances)
        return precision_recall(right, counts[0], counts[1], pictures, bootstrap)

    def table(self) -> list[dict[str, Any]]:
        """Each word that captions say, the commonest first"""
        words, spoken = torch.unique(self.spoken[:, 1], return_counts=True)
        hits = _counts(self.said[self.right, 1], words)
        said = _counts(self.said[:, 1], words)
        rows = zip(words.tolist(), spoken.tolist(), hits.tolist(), said.tolist(), strict=True)
        named = [
            {
                "word": spell(code, self.clip, self.base),
                "spoken": spoken_by,
                "found": found,
                "said": said_by,
                "content": code >= self.base or bool(self.lexicon.content[code - 1]),
            }
            for code, spoken_by, found, said_by in rows
        ]
        return sorted(named, key=lambda row: (-row["spoken"], row["word"]))


def study(
    found: Found, hit: Tensor, words: list[dict[str, Any]], pictures: Tensor, bootstrap: Bootstrap
) -> dict[str, Any]:
    """hit (N, S): which slots hit; `words`: Words.table()"""
    return {
        "slots": _first_slots(found, hit, pictures, bootstrap),
        "counts": _by_count(found, hit),
        "by_frequency": _by_frequency(words),
        "words": words,
    }


def _first_slots(found: Found, hit: Tensor, pictures: Tensor, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    hits, slots = hit.cumsum(1).double(), found.valid.cumsum(1)
    return [
        {
            "slots": k + 1,
            "hit_rate": bootstrap.mean(100 * ratio(hits[:, k], slots[:, k]), pictures),
            "any_hit": bootstrap.mean(100.0 * (hits[:, k] > 0), pictures),
        }
        for k in range(hit.shape[1])
    ]


def _by_count(found: Found, hit: Tensor) -> list[dict[str, Any]]:
    repeats = (found.valid & ~found.first).sum(1)
    rows = []
    for count in torch.unique(found.lengths).tolist():
        chosen = found.lengths == count
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


def _pairs(codes: Tensor) -> Tensor:
    """(N, S) -> (P, 2)"""
    utterance = torch.arange(len(codes))[:, None].expand_as(codes)
    chosen = codes != NO_WORD
    return torch.unique(torch.stack([utterance[chosen], codes[chosen]], 1), dim=0)


def _among(pairs: Tensor, others: Tensor) -> Tensor:
    """(P, 2), (Q, 2) -> (P,): both hold each pair once"""
    _, where, counts = torch.unique(torch.cat([pairs, others]), dim=0, return_inverse=True, return_counts=True)
    return counts[where[: len(pairs)]] > 1


def _counts(codes: Tensor, words: Tensor) -> Tensor:
    """How often each of the words, sorted, is among the codes"""
    codes = codes.contiguous()
    place = torch.searchsorted(words, codes).clamp(max=len(words) - 1)
    return torch.bincount(place[words[place] == codes], minlength=len(words))
