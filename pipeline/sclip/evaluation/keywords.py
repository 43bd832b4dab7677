"""Compare keywords with the captions that were spoken, and count distinct keywords.

All figures use CLIP's tokens, as published: a word may be several tokens, and a caption is the set of its tokens,
including full stops. Each figure is computed per utterance in %, then averaged over the utterances:

- hit rate, as published: the share of slots whose keyword has a token of the caption among its 5 nearest tokens of the
  vocabulary. These are nearest to the keyword's embedding, not to the slot, and include the keyword itself and blocked
  tokens. With a fixed number of slots, the hit rate of each slot is reported too.
- precision, recall and F1 of the set of keywords against the set of the caption's tokens, including tokens that are
  not in the vocabulary. A second version counts only content words on both sides, without stop words and punctuation.
  An utterance without keywords has precision 0. A caption without content words is not counted. The stop words are
  those of the corpus's language; if the language is not given, every word is a content word. For corpora whose grammar
  has synonyms that no picture tells apart, such as small and little, a third version counts synonyms as one word.
- duplicates: the share of slots that repeat an earlier keyword of the same utterance

The same figures are computed for two baselines, whose keywords are the same for every utterance: the most common tokens
of the training captions, and the most common content words. Their number is the mean number of keywords, or of distinct
content words among them, of an utterance, rounded, and at least 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sclip.config import LANGUAGES
from sclip.evaluation.bootstrap import Bootstrap, ratio
from sclip.evaluation.inference import BLOCK, DecodedKeywords
from sclip.evaluation.outcomes import hit_rates, matching_rates

if TYPE_CHECKING:
    from sclip.encoders.clip import ClipEncoder
    from sclip.heads.vocabulary import Vocabulary

NEAREST = 5
NO_TOKEN = -1  # pads captions; no token has this id
PUNCTUATION = """. , ; : ! ? ' " - – — ( ) &"""
STOP_WORDS = {  # for each of LANGUAGES; each word is one token of CLIP
    "en": """
        a an the this that these those some any each every no another other all both
        i you he she it we they me him her us them my your his its our their who which what where when while
        am is are was were be been being has have had do does did can could will would may might should
        and or but nor so as if than then not there here
        of in on at by for with to from into onto over under up down out off through near next between behind above
        below across along around against about after before during beside inside outside towards toward
        's 't 're 've 'm 'll 'd
    """
}


@dataclass(frozen=True)
class Lexicon:
    """Hold what evaluation needs to know about the rows of the vocabulary, on the CPU."""

    ids: Tensor  # (V,): CLIP's token of each row
    nearest: Tensor  # (V, 5): the ids of the nearest tokens
    content: Tensor  # for each of CLIP's tokens: whether it is a content word or a part of one
    blocked: Tensor  # (V,)
    synonym: Tensor | None = None  # for each of CLIP's tokens: the first of its synonyms

    @classmethod
    def of(
        cls,
        vocabulary: "Vocabulary",
        clip: "ClipEncoder",
        unit_table: Tensor,
        language: str | None,
        synonyms: Sequence[Sequence[str]] = (),
    ) -> "Lexicon":
        """Describe a vocabulary with the unit embeddings `unit_table` (V, W).

        `language` is a key of STOP_WORDS. `synonyms` are groups of words that mean the same.
        """
        ids = torch.tensor(vocabulary.ids)
        near = [
            (rows @ unit_table.T).topk(min(NEAREST, len(ids))).indices.cpu() for rows in torch.split(unit_table, BLOCK)
        ]
        content = torch.ones(len(clip.text_tower.table), dtype=torch.bool)
        excluded = f"{PUNCTUATION} {'' if language is None else STOP_WORDS[language]}".split()
        # With CLIP's own tokenizer each of them is one token.
        content[[tokens[0] for tokens in clip.token_ids(excluded) if len(tokens) == 1]] = False
        blocked = torch.zeros(len(ids), dtype=torch.bool)
        blocked[list(vocabulary.blocked)] = True
        return cls(ids, ids[torch.cat(near)], content, blocked, _first_synonyms(synonyms, clip) if synonyms else None)

    def commonest(self, like: DecodedKeywords, content: bool) -> DecodedKeywords:
        """Return the most common tokens as the keywords of every utterance, as many as `like` has on average.

        With `content`, only content words count. The rows of the vocabulary are ordered by how common the tokens are in
        the training captions.
        """
        counted = self.content[self.ids] if content else torch.ones_like(self.blocked)  # (V,)
        numbers = (like.first & counted[like.rows]).sum(1) if content else like.lengths
        count = max(1, round(float(numbers.double().mean())))
        rows = (counted & ~self.blocked).nonzero()[:count, 0]
        return DecodedKeywords(rows.expand(len(like.rows), -1), torch.full_like(like.lengths, len(rows)))


def describe_stop_words(language: str | None) -> str:
    """Return a description of a language's stop words, for reports."""
    return "none: language not given" if language is None else f"{LANGUAGES[language]} stop words"


def caption_tokens(texts: list[str], clip: "ClipEncoder") -> Tensor:
    """Return the distinct tokens (N, C) of each caption, padded with NO_TOKEN."""
    sets = [torch.tensor(sorted(set(ids)), dtype=torch.long) for ids in clip.token_ids(texts)]
    return pad_sequence(sets, batch_first=True, padding_value=NO_TOKEN)


def usage(keywords: DecodedKeywords, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the number of keywords per utterance, the share of duplicates, and the number of distinct tokens."""
    repeats = keywords.lengths - keywords.first.sum(1)
    return {
        "per_utterance": bootstrap.mean(keywords.lengths, pictures),
        "duplicates": bootstrap.mean(100 * ratio(repeats.double(), keywords.lengths), pictures),
        "distinct_tokens": len(torch.unique(keywords.rows[keywords.valid])),
    }


def matches(
    keywords: DecodedKeywords,
    captions: Tensor,
    lexicon: Lexicon,
    pictures: Tensor,
    bootstrap: Bootstrap,
    by_slot: bool,
) -> dict[str, Any]:
    """Return hit rates, precision, recall and F1 of N utterances with `captions` (N, C) and `pictures` (N,)."""
    hit = hits(keywords, captions, lexicon)
    scores: dict[str, Any] = {"hit_rate": bootstrap.mean(hit_rates(hit.sum(1), keywords.lengths), pictures)}
    if by_slot:
        scores["hit_rate_of_slot"] = {str(k): bootstrap.mean(100.0 * hit[:, k], pictures) for k in range(hit.shape[1])}
    for name, counts in count_matches(keywords, captions, lexicon).items():
        correct, distinct, references = counts.unbind(1)
        scores[name] = precision_recall(correct, distinct, references, pictures, bootstrap)
    return scores


def count_matches(keywords: DecodedKeywords, captions: Tensor, lexicon: Lexicon) -> dict[str, Tensor]:
    """Count for each utterance the distinct tokens in its keywords and its caption (N, C), in each version.

    The counts (N, 3) are those that `precision_recall` takes.
    """
    tokens = DecodedKeywords(lexicon.ids[keywords.rows], keywords.lengths)
    counts = {
        "all": _count(tokens, captions, torch.ones_like(lexicon.content)),
        "content": _count(tokens, captions, lexicon.content),
    }
    if lexicon.synonym is not None:
        tokens = DecodedKeywords(lexicon.synonym[tokens.rows], keywords.lengths)
        captions = torch.where(captions == NO_TOKEN, NO_TOKEN, lexicon.synonym[captions])
        counts["content, synonyms as one"] = _count(tokens, captions, lexicon.content)
    return counts


def _count(tokens: DecodedKeywords, captions: Tensor, counted: Tensor) -> Tensor:
    """Count distinct tokens (N, 3): keywords that are in the caption, all keywords, and all of the caption (N, C).

    `counted` marks those of CLIP's tokens that count.
    """
    lengths = (captions != NO_TOKEN).sum(1)
    keywords, references = tokens.first & counted[tokens.rows], DecodedKeywords(captions, lengths).first
    in_caption = torch.cat([_in_captions(t, c) for t, c in _blocks(tokens.rows, captions)])
    return torch.stack([(keywords & in_caption).sum(1), keywords.sum(1), (references & counted[captions]).sum(1)], 1)


def _first_synonyms(synonyms: Sequence[Sequence[str]], clip: "ClipEncoder") -> Tensor:
    """Return for each of CLIP's tokens the first of its synonyms. Words of several tokens are left out."""
    first = torch.arange(len(clip.text_tower.table))
    for group in synonyms:
        tokens = [ids[0] for ids in clip.token_ids(list(group)) if len(ids) == 1]
        if tokens:
            first[tokens] = tokens[0]
    return first


def hits(keywords: DecodedKeywords, captions: Tensor, lexicon: Lexicon) -> Tensor:
    """Mark the slots (N, S) whose keyword has a token of the caption among its nearest tokens."""
    blocks = _blocks(keywords.rows, captions)
    return torch.cat([_in_captions(lexicon.nearest[r], c).any(-1) for r, c in blocks]) & keywords.valid


def precision_recall(
    correct: Tensor, keywords: Tensor, references: Tensor, pictures: Tensor, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return precision, recall and F1 in % from the counts (N,) of each utterance.

    The counts are the keywords that are in the caption, all keywords, and all tokens or words of the caption.
    """
    rates = matching_rates(correct, keywords, references)
    return {name: bootstrap.mean(rate, pictures, references > 0) for name, rate in rates.items()}


def _in_captions(tokens: Tensor, captions: Tensor) -> Tensor:
    """Mark the tokens that are in the caption of their utterance: (N, ...) and (N, C) -> (N, ...)"""
    spread = captions.view(len(captions), *[1] * (tokens.ndim - 1), -1)
    return (tokens[..., None] == spread).any(-1)


def _blocks(rows: Tensor, captions: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(rows, BLOCK), torch.split(captions, BLOCK), strict=True))
