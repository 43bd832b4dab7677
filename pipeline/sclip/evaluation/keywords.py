"""Keywords against the captions that were spoken, and how many different ones there are.

Everything is at the level of CLIP's tokens, as published: a word of several pieces is several tokens, and a caption
is the set of its tokens, full stops included. All figures are in %, first of an utterance, then averaged over
utterances:

- hit rate, as published: the share of slots whose keyword has, among its 5 nearest tokens of the vocabulary (itself
  the first, the blocked ones included), one of the caption's. With fixed slots also slot by slot.
- precision, recall and F1 of the set of keywords against the set of the caption's tokens, among them those that are
  not in the vocabulary; and once more of content words alone, on both sides, where stop words and punctuation are
  left out. An utterance without keywords has precision 0; without content words it does not count. Stop words are
  those of the corpus's language; where it is not given there are none, and every word is a content word.
- duplicates: the share of slots that repeat an earlier keyword of their utterance

Beside it stands what the same figures are for the commonest tokens, always the same ones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sclip.config import LANGUAGES
from sclip.evaluation.bootstrap import Bootstrap, ratio
from sclip.evaluation.inference import BLOCK, Found

if TYPE_CHECKING:
    from sclip.encoders.clip import ClipEncoder
    from sclip.heads.vocabulary import Vocabulary

NEAREST = 5
NO_TOKEN = -1  # pads captions; no token has this id
PUNCTUATION = """. , ; : ! ? ' " - – — ( ) &"""
STOP_WORDS = {  # of each of LANGUAGES; each is one token of CLIP's
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
    """What the vocabulary's rows stand for; on the CPU."""

    ids: Tensor  # (V,), of CLIP's tokens
    nearest: Tensor  # (V, 5), the ids of the nearest tokens
    content: Tensor  # over all of CLIP's tokens: is it a content word, or part of one?
    blocked: Tensor  # (V,)

    @classmethod
    def of(cls, vocabulary: "Vocabulary", clip: "ClipEncoder", unit_table: Tensor, language: str | None) -> "Lexicon":
        """unit_table (V, W): the vocabulary's embeddings, of unit length. `language`: a key of STOP_WORDS"""
        ids = torch.tensor(vocabulary.ids)
        near = [
            (rows @ unit_table.T).topk(min(NEAREST, len(ids))).indices.cpu() for rows in torch.split(unit_table, BLOCK)
        ]
        content = torch.ones(len(clip.text_tower.table), dtype=torch.bool)
        left_out = f"{PUNCTUATION} {'' if language is None else STOP_WORDS[language]}".split()
        content[[token for (token,) in clip.token_ids(left_out)]] = False
        blocked = torch.zeros(len(ids), dtype=torch.bool)
        blocked[list(vocabulary.blocked)] = True
        return cls(ids, ids[torch.cat(near)], content, blocked)

    def commonest(self, like: Found) -> Found:
        """As many as `like` has on average: the vocabulary has the training captions' commonest tokens first."""
        count = max(1, round(float(like.lengths.double().mean())))
        rows = (~self.blocked).nonzero()[:count, 0]
        return Found(rows.expand(len(like.rows), -1), torch.full_like(like.lengths, len(rows)))


def describe_stop_words(language: str | None) -> str:
    """Say for people which stop words a language has here."""
    return "none: language not given" if language is None else f"{LANGUAGES[language]} stop words"


def caption_tokens(texts: list[str], clip: "ClipEncoder") -> Tensor:
    """(N, C): each caption's tokens, each once"""
    sets = [torch.tensor(sorted(set(ids)), dtype=torch.long) for ids in clip.token_ids(texts)]
    return pad_sequence(sets, batch_first=True, padding_value=NO_TOKEN)


def usage(found: Found, pictures: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
    """How many keywords there are, and how many different ones"""
    repeats = found.lengths - found.first.sum(1)
    return {
        "per_utterance": bootstrap.mean(found.lengths, pictures),
        "duplicates": bootstrap.mean(100 * ratio(repeats.double(), found.lengths), pictures),
        "distinct_tokens": len(torch.unique(found.rows[found.valid])),
    }


def matches(
    found: Found, captions: Tensor, lexicon: Lexicon, pictures: Tensor, bootstrap: Bootstrap, by_slot: bool
) -> dict[str, Any]:
    """found and captions (N, C) of the same utterances, and the picture (N,) of each"""
    hit = hits(found, captions, lexicon)
    scores: dict[str, Any] = {"hit_rate": bootstrap.mean(100 * ratio(hit.sum(1).double(), found.lengths), pictures)}
    if by_slot:
        scores["hit_rate_of_slot"] = {str(k): bootstrap.mean(100.0 * hit[:, k], pictures) for k in range(hit.shape[1])}
    right = torch.cat([_among(lexicon.ids[r], c) for r, c in _blocks(found.rows, captions)])
    everything = torch.ones_like(lexicon.content)
    for name, counted in (("all", everything), ("content", lexicon.content)):
        chosen = found.first & counted[lexicon.ids[found.rows]]  # (N, S)
        spoken = (captions != NO_TOKEN) & counted[captions]  # (N, C)
        counts = ((chosen & right).sum(1), chosen.sum(1), spoken.sum(1))
        scores[name] = precision_recall(*counts, pictures, bootstrap)
    return scores


def hits(found: Found, captions: Tensor, lexicon: Lexicon) -> Tensor:
    """(N, S): the slots that have one of the caption's tokens near"""
    return torch.cat([_among(lexicon.nearest[r], c).any(-1) for r, c in _blocks(found.rows, captions)]) & found.valid


def precision_recall(
    right: Tensor, chosen: Tensor, spoken: Tensor, pictures: Tensor, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Three counts (N,): of the keywords that are in the caption, of the keywords, of the caption's tokens"""
    amounts = {
        "precision": ratio(right.double(), chosen),
        "recall": ratio(right.double(), spoken),
        "f1": ratio(2 * right.double(), chosen + spoken),
    }
    return {name: bootstrap.mean(100 * amount, pictures, spoken > 0) for name, amount in amounts.items()}


def _among(tokens: Tensor, captions: Tensor) -> Tensor:
    """tokens (N, ...) and captions (N, C) -> (N, ...): which tokens are their caption's"""
    spread = captions.view(len(captions), *[1] * (tokens.ndim - 1), -1)
    return (tokens[..., None] == spread).any(-1)


def _blocks(rows: Tensor, captions: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(rows, BLOCK), torch.split(captions, BLOCK), strict=True))
