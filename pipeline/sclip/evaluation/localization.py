"""Compare the times of keywords with those of the words that were spoken.

This is keyword localisation as in Olaleye and Kamper (2021). heads/slot_times.py defines a slot's peak and span.
Only slots whose keyword is a token of a spoken word count. Each figure is computed per utterance in %, then averaged:

    located   the share of these slots whose peak is within the word's time
    overlap   the mean over these slots of intersection / union of the span and the word's time
    chance    the share of these slots that a peak at a random time of the utterance would locate
    in_order  the share that evenly spaced peaks would locate: slot j of S, from 0, has its peak at (j + 1/2) / S of the
              utterance. CIF's slots are in the order of time, so they should be compared with this figure.

If the word occurs several times, the best occurrence counts. The duration of an utterance is that of its encoder
frames, which can be 25 ms less than that of the recording; later times count as its end.

`positions` says where CIF's firings fall: in which quarter of a word, or between words. A firing at the end of a word
belongs to this word. `even` says the same of firings that cut the utterance into equal parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sclip.corpora.rows import TimedWords
from sclip.evaluation.bootstrap import Bootstrap, ratio
from sclip.evaluation.boundaries import ROUNDING, even_firings
from sclip.evaluation.inference import BLOCK
from sclip.evaluation.keywords import NO_TOKEN
from sclip.heads.slot_times import SlotTimes

if TYPE_CHECKING:
    from sclip.encoders.clip import ClipEncoder

BETWEEN = "between words"
FIGURES = ("located", "overlap", "chance", "in_order")
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")


@dataclass(frozen=True)
class TimedTokens:
    """Hold the tokens of the words of N utterances, and the times of these words."""

    tokens: Tensor  # (N, W), padded with NO_TOKEN
    times: Tensor  # (N, W, 2): start and end in seconds

    @classmethod
    def of(cls, utterances: Sequence[TimedWords], clip: "ClipEncoder") -> "TimedTokens":
        words = sorted({word for utterance in utterances for word, _, _ in utterance})
        tokens_of = dict(zip(words, clip.token_ids(words), strict=True))
        tokens, times = [], []
        for utterance in utterances:
            # The first column is padding, so that there is a column even if no word has a token.
            pieces = [(NO_TOKEN, 0.0, 0.0)]
            pieces += [(token, start, end) for word, start, end in utterance for token in set(tokens_of[word])]
            tokens.append(torch.tensor([token for token, _, _ in pieces], dtype=torch.long))
            times.append(torch.tensor([[start, end] for _, start, end in pieces], dtype=torch.float64))
        return cls(
            pad_sequence(tokens, batch_first=True, padding_value=NO_TOKEN),
            pad_sequence(times, batch_first=True, padding_value=-1.0),
        )


def localization(
    tokens: Tensor,
    valid: Tensor,
    slot_times: SlotTimes,
    words: TimedTokens,
    durations: Tensor,
    content: Tensor,
    pictures: Tensor,
    bootstrap: Bootstrap,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the figures for all keywords and for content words, and the counts (N, 2) from which `located` comes.

    Without a single keyword that counts, there are no figures.

    `tokens` (N, S) are the keywords, and `valid` (N, S) marks those that are not padding. `durations` (N,) are in
    seconds. `content` marks those of CLIP's tokens that belong to content words.
    """
    columns = (tokens, valid, slot_times.peaks, slot_times.spans, words.tokens, words.times, durations)
    blocks = zip(*(torch.split(tensor, BLOCK) for tensor in columns), strict=True)
    spoken, *figures = (torch.cat(parts) for parts in zip(*(_compare(*block) for block in blocks), strict=True))
    scores: dict[str, Any] = {}
    counts: dict[str, Tensor] = {}
    for name, counted in (("all", torch.ones_like(content)), ("content", content)):
        slots = spoken & counted[tokens]  # (N, S)
        number = slots.sum(1)
        counts[name] = torch.stack([(figures[0] * slots).sum(1).long(), number], 1)
        scores[name] = {"keywords": int(number.sum())} | {
            figure: bootstrap.mean(100 * ratio((values * slots).sum(1), number), pictures, number > 0)
            for figure, values in zip(FIGURES, figures, strict=True)
            if number.any()
        }
    return scores, counts


def _compare(
    tokens: Tensor, valid: Tensor, peaks: Tensor, spans: Tensor, spoken: Tensor, times: Tensor, durations: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return for each slot (B, S) whether its keyword is spoken, and its values for FIGURES."""
    is_word = (tokens[:, :, None] == spoken[:, None]) & valid[..., None]  # (B, S, W)
    start, end = times[:, None].minimum(durations[:, None, None, None]).unbind(-1)  # (B, 1, W)
    span_start, span_end = (edge[..., None] for edge in spans.unbind(-1))  # (B, S, 1)
    shared = (span_end.minimum(end) - span_start.maximum(start)).clamp(min=0)
    overlap = ratio(shared, (span_end - span_start) + (end - start) - shared) * is_word
    chance = ((end - start) * is_word).sum(-1) / durations[:, None]
    in_order = (valid.cumsum(1) - 0.5) / valid.sum(1, keepdim=True).clamp(min=1) * durations[:, None]
    located, located_in_order = (
        (is_word & (start <= when[..., None]) & (when[..., None] <= end)).any(-1).double() for when in (peaks, in_order)
    )
    return is_word.any(-1), located, overlap.amax(-1), chance.clamp(max=1), located_in_order


def firing_positions(firings: Tensor, utterances: Sequence[TimedWords], durations: Tensor) -> dict[str, Any]:
    """Return the share in % of the firings (N, S) in each quarter of a word and between words.

    `firings` are times in seconds, padded with infinity.
    """
    even = even_firings(firings.isfinite().sum(1), durations)
    return {method: _shares(times, utterances) for method, times in (("cif", firings), ("even", even))}


def _shares(firings: Tensor, utterances: Sequence[TimedWords]) -> dict[str, float]:
    counts = dict.fromkeys((*QUARTERS, BETWEEN), 0)
    for times, words in zip(firings, utterances, strict=True):
        start, end = torch.tensor([[start, end] for _, start, end in words], dtype=torch.float64).T.contiguous()
        finite = times[times.isfinite()]
        word = torch.searchsorted(end, finite - ROUNDING).clamp(max=len(end) - 1)
        position = (finite - start[word] + ROUNDING) / (end[word] - start[word]).clamp(min=1e-6)
        at_end = (finite - end[word]).abs() <= ROUNDING
        for quarter in torch.where(at_end, 3.0, (4 * position).floor()).tolist():
            counts[QUARTERS[int(quarter)] if 0 <= quarter < 4 else BETWEEN] += 1
    total = max(1, sum(counts.values()))
    return {name: 100 * count / total for name, count in counts.items()}
