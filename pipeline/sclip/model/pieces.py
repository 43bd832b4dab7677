"""The keywords in a head's output: for each slot the nearest word pieces of CLIP's vocabulary."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sclip.heads.head import HeadOutput
from sclip.heads.keywords import KeywordBranch
from sclip.heads.vocabulary import Vocabulary
from sclip.model.inputs import AudioInput

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A word piece of CLIP's vocabulary that is near a keyword slot."""

    text: str
    token: int  # its id in CLIP's whole vocabulary
    score: float  # cosine
    ends_word: bool


@dataclass(frozen=True)
class Keyword:
    """One keyword slot: the nearest pieces, best first, and with CIF the span of its frames in seconds."""

    pieces: tuple[Piece, ...]
    span: tuple[float, float] | None


def keywords_of(
    output: HeadOutput, branch: KeywordBranch, vocabulary: Vocabulary, frame_seconds: float, top: int
) -> Iterator[list[Keyword]]:
    """Yield the keywords of each utterance in the output, with at most `top` pieces of a slot.

    `branch` belongs to the head of the output, and `frame_seconds` is the duration of one of its frames.
    """
    assert output.keywords is not None
    top = min(top, len(vocabulary) - len(vocabulary.blocked))
    nearest = branch.quantize.allowed(output.keywords).topk(top)  # (B, S, top)
    scores, rows = nearest.values.tolist(), nearest.indices.tolist()
    all_spans = None if output.cif is None else output.slot_times(frame_seconds).spans  # (B, S, 2)
    for b, slots in enumerate(output.keywords.embeddings.lengths.tolist()):
        spans: list[tuple[float, float] | None] = [None] * slots
        if all_spans is not None:
            spans = [(start, end) for start, end in all_spans[b, :slots].tolist()]
        yield [
            Keyword(tuple(_piece(vocabulary, r, s) for r, s in zip(rows[b][k], scores[b][k], strict=True)), spans[k])
            for k in range(slots)
        ]


def _piece(vocabulary: Vocabulary, row: int, score: float) -> Piece:
    return Piece(vocabulary.text(row), vocabulary.ids[row], score, vocabulary.ends_word(row))


def warn_of_lost_keywords(batch: Sequence[AudioInput], output: HeadOutput) -> None:
    """Log which recordings of a batch have more keywords than CLIP's text tower has room for."""
    if output.cif is not None:
        for i in output.cif.firing.truncated.nonzero().flatten().tolist():
            slots = output.cif.firing.weights.shape[1]
            log.warning("%s: more than %d keywords; the last ones are left out", batch[i].name, slots)
