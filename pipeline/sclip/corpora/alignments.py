"""Word alignments: when each word of a recording starts and ends, in seconds.

- CTM, as of Flickr8k's `Flickr_8k.ctm`: lines `UTTERANCE CHANNEL START DURATION WORD`, and any further fields
- `text_alignment` of SpokenCOCO's Karpathy split: tokens `START__WORD__END`, separated by spaces
- Praat TextGrids: the tier `words`, or that of each speaker; see textgrid.py
- a list [[word, start, end], …], as in the manifest; also as JSON in a cell of a table

Marks of silence are no words. Other marks in angle brackets, such as <SPOKEN_NOISE>, are words that the aligner did not
know; all of them are written as <unk>.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import soundfile

from sclip.concurrency import chunks, prefetch_batches
from sclip.corpora.listing import Listing, find_files, numbered_lines
from sclip.corpora.rows import LARGEST_TIME, Row, TimedWords
from sclip.corpora.textgrid import read_textgrid
from sclip.errors import UserError
from sclip.parsing import parse_json, shortened

SILENCE = frozenset({"", "sil", "sp", "<eps>", "<sil>", "<silence>", "<s>", "</s>", "<p:>"})
UNKNOWN = "<unk>"
UNKNOWN_MARKS = frozenset({"spn", "[bracketed]", "[unk]"})  # MFA's, besides those in angle brackets
SLACK = 0.05  # seconds by which an alignment may pass the recording's end or the next word's start; it is rounded

MISSING = "utterances without word times"
UNUSED = "alignments without an utterance"
UNREADABLE = "alignments that cannot be read, so their utterances have no word times"
DISAGREEING = "alignments that are not of the caption, so their utterances have no word times"
OUTSIDE = "alignments that pass the end of the recording, so their utterances have no word times"
UNORDERED = "alignments whose words overlap or run backwards, so their utterances have no word times"


def read_ctm(path: Path) -> dict[str, TimedWords]:
    """Return the words of each utterance of a CTM file."""
    entries: dict[str, list[tuple[str, float, float]]] = {}
    for where, line in numbered_lines(path):
        if line.startswith(";;"):
            continue  # a comment
        fields = line.split()
        try:
            utterance, _, start, duration, word = fields[:5]
            begin = float(start)
            entries.setdefault(utterance, []).append((word, begin, begin + float(duration)))
        except ValueError:
            raise UserError(
                f"{where}: expected UTTERANCE CHANNEL START DURATION WORD, found {shortened(line)}"
            ) from None
    return {utterance: timed_words(words) for utterance, words in entries.items()}


def read_text_alignment(text: str, where: str) -> TimedWords:
    """Return the words of tokens `START__WORD__END`."""
    words = []
    for token in text.split():
        try:
            start, word, end = token.split("__")
            words.append((word, float(start), float(end)))
        except ValueError:
            raise UserError(f"{where}: expected START__WORD__END, found {shortened(token)}") from None
    return timed_words(words)


def read_words(value: Any, where: str) -> TimedWords:
    """Return the words of a table's cell: a list [[word, start, end], …], the same as JSON, or a `text_alignment`.

    Instead of [word, start, end], a word may be {"word", "start", "end"}.
    """
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return read_text_alignment(value, where)
    try:
        entries = parse_json(value) if isinstance(value, str) else value
        keys = ("word", "start", "end")
        triples = [[entry[key] for key in keys] if isinstance(entry, dict) else entry for entry in entries]
        return timed_words((str(word), float(start), float(end)) for word, start, end in triples)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UserError(f"{where}: expected [[word, start, end], ...], found {shortened(value)}") from None


def read_word_tier(path: Path) -> TimedWords:
    """Return the words of a TextGrid: of its tier `words`, of every `SPEAKER - words`, or of its only tier."""
    tiers = read_textgrid(path)
    chosen = [tier for tier in tiers if re.fullmatch(r"(.* - )?words?", tier.name.strip(), re.IGNORECASE)]
    if not chosen and len(tiers) == 1:
        chosen = tiers
    if not chosen:
        names = ", ".join(tier.name for tier in tiers) or "none"
        raise UserError(f"{path}: expected a tier called words, found {names}; rename the tier of the words")
    return timed_words(interval for tier in chosen for interval in tier.intervals)


def timed_words(entries: Iterable[tuple[str, float, float]]) -> TimedWords:
    """Return the words without silence, in order of their start, with times in steps of a tenth of a millisecond."""
    words: list[tuple[str, float, float]] = []
    for word, start, end in sorted(entries, key=lambda entry: entry[1:]):
        word = word.strip()
        lower = word.lower()
        if lower in SILENCE:
            continue
        is_mark = lower in UNKNOWN_MARKS or (lower[0] == "<" and lower[-1] == ">")
        words.append((UNKNOWN if is_mark else word, round(start, 4), round(end, 4)))
    if not words:
        return ()
    starts = [start for _, start, _ in words[1:]]
    return tuple(
        (word, start, following if following < end <= following + SLACK else end)
        for (word, start, end), following in zip(words, [*starts, math.inf], strict=True)
    )


class AlignmentFiles:
    """The alignment files that a pattern names, such as `aligned/**/*.TextGrid` or `words.ctm`."""

    def __init__(self, folder: Path, pattern: str):
        self.used: set[str] = set()
        root, pattern = (Path("/"), pattern[1:]) if pattern.startswith("/") else (folder, pattern)
        paths = [path for path in find_files(root, pattern, "alignments") if path.is_file()]
        if not paths:
            raise UserError(f"alignments: no file fits {root / pattern}; set the pattern to the folder of your files")
        self.textgrids: dict[str, list[Path]] = {}
        self.ctm: dict[str, TimedWords] = {}
        for path in paths:
            ending = path.suffix.lower()
            if ending == ".ctm":
                self.ctm |= read_ctm(path)
            elif ending == ".textgrid":
                self.textgrids.setdefault(path.stem, []).append(path)
            else:
                raise UserError(f"{path}: expected a .TextGrid or a .ctm; name only these in `alignments`")

    def find(self, row_id: str, audio: Path) -> TimedWords | None:
        """Return the words of a row. A CTM names the row's id or its recording; a TextGrid has its recording's name."""
        for name in (row_id, audio.stem):
            if name in self.ctm:
                self.used.add(name)
                return self.ctm[name]
        paths = self.textgrids.get(audio.stem, [])
        if not paths:
            return None
        shared = [_shared_folders(path, audio) for path in paths]
        if shared.count(max(shared)) > 1:
            raise UserError(
                f"alignments: {paths[0]} and {paths[1]} have the same name as {audio}; put TextGrids into folders with "
                "the names of their recordings' folders"
            )
        path = paths[shared.index(max(shared))]
        self.used.add(str(path))
        return read_word_tier(path)

    def unused(self) -> list[str]:
        names = [*self.ctm, *(str(path) for paths in self.textgrids.values() for path in paths)]
        return [name for name in names if name not in self.used]


def try_words(listing: Listing, row_id: str, read: Callable[..., TimedWords | None], *arguments: Any) -> None:
    """Add a row's words to the listing, or name an alignment that cannot be read.

    `read` gets the arguments, and returns None if there are no words.
    """
    try:
        words = read(*arguments)
    except UserError as error:
        listing.add_fault(UNREADABLE, str(error))
    else:
        if words:
            listing.words.setdefault(row_id, words)  # a row that repeats an id is refused


def _shared_folders(path: Path, other: Path) -> int:
    """Return the number of folders, counted from the file upwards, with the same names."""
    pairs = zip(reversed(path.parent.parts), reversed(other.parent.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def add_words(rows: Sequence[Row], listing: Listing) -> list[Row]:
    """Return all rows, with the listing's word times. Leave out wrong times, and add them to the listing's faults."""
    timed = [replace(row, words=listing.words.get(row.id, row.words) or None) for row in rows]
    for name in sorted(listing.words.keys() - {row.id for row in rows}):
        listing.note(UNUSED, name)
    if not any(row.words for row in timed):
        return timed
    durations = _durations([row for row in timed if row.words])
    checked = []
    for row in timed:
        if row.words is None:
            listing.note(MISSING, row.name)
        else:
            fault = next(_faults(row, durations.get(row.id)), None)
            if fault is not None:
                kind, reason = fault
                listing.add_fault(kind, f"{row.name}: {reason}")
                row = replace(row, words=None)
        checked.append(row)
    return checked


def _durations(rows: Sequence[Row]) -> dict[str, float]:
    """Return the seconds of each row's recording according to its header. Unreadable recordings are left out."""
    durations: dict[str, float] = {}
    for batch, seconds in prefetch_batches(chunks(rows, 256), _duration):
        durations |= {row.id: found for row, found in zip(batch, seconds, strict=True) if found is not None}
    return durations


def _duration(row: Row) -> float | None:
    try:
        return float(soundfile.info(str(row.audio)).duration)
    except RuntimeError:
        return None  # check-corpus and extract-features name the recording


def _faults(row: Row, duration: float | None) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a row's words: the kind of the fault, and the case."""
    words = row.words or ()
    for (word, start, end), following in zip(words, [*(start for _, start, _ in words[1:]), LARGEST_TIME], strict=True):
        if not 0 <= start <= end <= following:
            yield UNORDERED, f"{word!r} from {start} to {end} s"
    if duration is not None and words[-1][2] > duration + SLACK:
        yield OUTSIDE, f"{words[-1][0]!r} ends at {words[-1][2]} s, the recording at {duration:.2f} s"
    if row.text is not None and not agrees(words, row.text):
        yield DISAGREEING, f"{' '.join(word for word, _, _ in words)!r} for {row.text!r}"


def agrees(words: TimedWords, caption: str) -> bool:
    """Return whether the words are the caption's. Only letters and digits count; <unk> stands for any word."""
    known = [""]  # what is before, between and after the unknown words
    for word, _, _ in words:
        if word == UNKNOWN:
            known.append("")
        else:
            known[-1] += _letters(word)
    text, (first, *others) = _letters(caption), known
    if not others:
        return text == first
    *middle, last = others
    place = len(first)
    for part in middle:
        found = text.find(part, place + 1)  # an unknown word has at least one letter
        if found == -1:
            return False
        place = found + len(part)
    return text.startswith(first) and text.endswith(last) and place < len(text) - len(last)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())
