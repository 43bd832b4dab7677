"""Write keywords and segments in the formats that other programs read.

    TextGrid   Praat's format: one tier, or several if fixed slots overlap in time; one file for a recording
    VTT        subtitles for a browser or a player; one file for a recording
    CTM        lines of recording, channel, start, duration, word, score: as in NIST's scoring and in Kaldi
    CSV        a line for each keyword: recording, start, end, score, word, and the other near pieces
    JSON       everything, with all pieces and firings

Names and pieces may come from strangers. All text formats have control characters escaped, and each format's own
special characters are written as the format demands.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sclip.apps.inputs import STANDARD_INPUT, STANDARD_INPUT_NAME
from sclip.apps.outputs import check_writable
from sclip.errors import UserError, counted, printable
from sclip.files import write_text

if TYPE_CHECKING:
    from sclip.apps.keywords import FoundKeywords, Word

Format = Literal["textgrid", "vtt", "ctm", "csv", "json"]
SUFFIXES: dict[str, Format] = {
    ".textgrid": "textgrid",
    ".vtt": "vtt",
    ".ctm": "ctm",
    ".csv": "csv",
    ".json": "json",
}
ENDINGS = {form: suffix for suffix, form in SUFFIXES.items()} | {"textgrid": ".TextGrid"}
SINGLE: tuple[Format, ...] = ("textgrid", "vtt")  # formats that have one recording in a file
FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes a cell that starts with one of these
NOTHING = "<eps>"  # how CTM writes an empty word


@dataclass(frozen=True)
class Destination:
    """Hold where keywords go: one file, or a folder with a file for each recording."""

    form: Format
    path: Path
    is_folder: bool

    def file_of(self, name: str) -> Path:
        """Return the file in the folder of the recording `name`; that of standard input is called stdin."""
        stem = "stdin" if name in (STANDARD_INPUT, STANDARD_INPUT_NAME) else printable(Path(name).stem)
        return self.path / f"{stem}{ENDINGS[self.form]}"

    def write(self, recordings: Iterable[FoundKeywords], *, segments: bool = False) -> Iterator[Path]:
        """Write files, each of them atomically, and yield their paths. Those of a folder are written one by one."""
        groups = ([recording] for recording in recordings) if self.is_folder else [list(recordings)]
        for group in groups:
            path = self.file_of(group[0].name) if self.is_folder else self.path
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, export(group, self.form, segments=segments))
            yield path


def destination(out: str | Path, form: Format | None, names: Sequence[str]) -> Destination:
    """Return where to write the keywords of the recordings `names`, after checking that it can be done.

    OUT is a folder if it exists as one, if it ends with a slash, or if the format has only one recording in a file and
    there are several. Without `form`, the name of the file decides.
    """
    path, suffix = Path(out), SUFFIXES.get(Path(out).suffix.lower())
    is_folder = path.is_dir() or str(out).endswith("/")
    chosen = form or suffix
    if chosen is None:
        if is_folder:
            raise UserError(f"{out}: a folder, whose name says no format; choose --format, one of {', '.join(ENDINGS)}")
        raise UserError(f"{out}: expected a name that ends in {', '.join(ENDINGS.values())}; or choose a format")
    if not is_folder and suffix not in (None, chosen):
        raise UserError(f"{out}: its ending is that of {suffix}, found --format {chosen}; leave one of the two out")
    if not is_folder and len(names) > 1 and chosen in SINGLE:
        if suffix is not None:
            raise UserError(
                f"{out}: {len(names)} recordings need as many {ENDINGS[chosen]} files; expected a folder, found a file "
                "name"
            )
        is_folder = True
    target = Destination(chosen, path, is_folder)
    check_writable(path if is_folder else path.parent, out)
    if is_folder:
        _refuse_repeated(names, "its file would be written twice")
        _refuse_equal({name: str(target.file_of(name)) for name in names}, "written to", "choose a folder for each")
    elif chosen == "ctm":
        check_ctm_names(names)
    return target


def check_ctm_names(names: Sequence[str]) -> None:
    """Refuse recordings that CTM could not tell apart in one file, or printed together."""
    _refuse_repeated(names, "CTM cannot tell one from the other")
    called = {name: _ctm_name(STANDARD_INPUT_NAME if name == STANDARD_INPUT else name) for name in names}
    _refuse_equal(called, "called", "CTM cannot tell one from the other; run the command for each")


def _refuse_repeated(names: Sequence[str], reason: str) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{name}: given {count} times; {reason}; give it once")


def _refuse_equal(results: dict[str, str], verb: str, advice: str) -> None:
    """Refuse two recordings with the same result. `results`: the file or the name that each recording leads to."""
    first: dict[str, str] = {}
    for name, result in results.items():
        other = first.setdefault(result, name)
        if other != name:
            raise UserError(f"{other} and {name} would both be {verb} {result}; {advice}")


def export(recordings: Sequence[FoundKeywords], form: Format, *, segments: bool = False) -> str:
    """Return the content of a file. `segments` takes CIF's segments, which do not overlap, instead of the keywords."""
    if form not in ENDINGS:
        raise UserError(f"format: expected one of {', '.join(ENDINGS)}, found {form!r}")
    if form in SINGLE and len(recordings) != 1:
        raise UserError(f"{form}: a file has one recording, found {len(recordings)}; call export for each")
    if form == "json":
        return as_json(recordings, segments)
    write: dict[str, Callable[..., str]] = {"textgrid": _textgrid, "vtt": _vtt, "ctm": _ctm, "csv": _csv}
    entries = []
    for recording in recordings:
        # Neighbours of CIF may share a frame, and the intervals of a TextGrid's tier must not overlap.
        apart = segments or (form == "textgrid" and recording.has_segments)
        entries.append((recording, recording.segments if apart else recording.words))
    if form in SINGLE:
        return write[form](*entries[0], "segments" if segments else "keywords")
    return write[form](entries)


def as_json(recordings: Sequence[FoundKeywords], segments: bool = False) -> str:
    """Return a JSON document. All of its characters are plain ASCII, so that a terminal shows it as it is."""
    key = "segments" if segments else "keywords"
    entries = [
        {
            "recording": recording.name,
            "seconds": round(recording.seconds, 4),
            key: [_fields(word) for word in (recording.segments if segments else recording.words)],
            **({"firings": [round(time, 4) for time in recording.firings]} if recording.has_segments else {}),
        }
        for recording in recordings
    ]
    return json.dumps({"recordings": entries}, indent=1).replace("\x7f", "\\u007f") + "\n"


def _fields(word: Word) -> dict[str, Any]:
    pieces = [
        {"text": piece.text, "token": piece.token, "score": round(piece.score, 4), "ends_word": piece.ends_word}
        for piece in word.pieces
    ]
    times = {"start": round(word.start, 4), "end": round(word.end, 4)}
    return {"word": word.text, "score": round(word.score, 4), **times, "pieces": pieces}


def _textgrid(recording: FoundKeywords, words: list[Word], title: str) -> str:
    tiers = _tiers(words)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {_time(recording)}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, tier in enumerate(tiers, 1):
        intervals = _filled(tier, recording.seconds)
        name = title if number == 1 else f"{title} {number}"
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += [
            "        xmin = 0",
            f"        xmax = {_time(recording)}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, text) in enumerate(intervals, 1):
            quoted = printable(text).replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
            ]
            lines.append(f'            text = "{quoted}"')
    return "\n".join(lines) + "\n"


def _time(recording: FoundKeywords) -> str:
    return f"{recording.seconds:.6f}"


def _tiers(words: Iterable[Word]) -> list[list[Word]]:
    """Distribute words over as few tiers as possible, so that those of a tier do not overlap. There is at least one."""
    tiers: list[list[Word]] = [[]]
    for word in words:
        if word.end <= word.start:
            continue
        free = next((tier for tier in tiers if not tier or tier[-1].end <= word.start + 1e-9), None)
        if free is None:
            tiers.append([word])
        else:
            free.append(word)
    return tiers


def _filled(tier: list[Word], seconds: float) -> list[tuple[float, float, str]]:
    """Return a tier's intervals with empty ones between them, as Praat demands, from 0 to the recording's end."""
    intervals, end = [], 0.0
    for word in tier:
        if word.start > end + 1e-6:
            intervals.append((end, word.start, ""))
        intervals.append((max(end, word.start), word.end, word.text))
        end = word.end
    if seconds > end + 1e-6 or not intervals:
        intervals.append((end, seconds, ""))
    return intervals


def _vtt(recording: FoundKeywords, words: list[Word], _title: str) -> str:
    times = ((_clock(word.start), _clock(word.end), word.text) for word in words)
    cues = [f"{start} --> {end}\n{_vtt_text(text)}\n" for start, end, text in times if start != end]
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _vtt_text(text: str) -> str:
    """Escape what WebVTT reads as tags. A cue without text would end at once."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") or "&nbsp;"


def _ctm(entries: list[tuple[FoundKeywords, list[Word]]]) -> str:
    lines = [
        f"{_ctm_name(recording.name)} 1 {word.start:.3f} {word.end - word.start:.3f} {_field(word.text)} "
        f"{word.score:.4f}\n"
        for recording, words in entries
        for word in words
    ]
    return "".join(lines)


def _ctm_name(recording: str) -> str:
    return _field(Path(recording).stem)


def _field(text: str) -> str:
    """Return a text as a CTM field: without spaces, not empty, and not the start of a comment."""
    field = "_".join(printable(text).split())
    return f"_{field}" if field.startswith(";;") else field or NOTHING


def _csv(entries: list[tuple[FoundKeywords, list[Word]]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recording", "start", "end", "score", "word", "near"])
    for recording, words in entries:
        name = f"./{recording.name}" if recording.name.startswith(FORMULA) else recording.name
        for word in words:
            near = " ".join(printable(piece.text) for piece in word.pieces[1:])
            times = (f"{time:.3f}" for time in (word.start, word.end))
            writer.writerow([printable(name), *times, f"{word.score:.4f}", printable(word.text), near])
    return file.getvalue()


def as_table(recording: FoundKeywords, *, segments: bool = False) -> str:
    """Return a table for a terminal."""
    words = recording.segments if segments else recording.words
    count = counted(len(words), "segments" if segments else "keywords")
    lines = [f"{printable(recording.name)}: {recording.seconds:.2f} s, {count}"]
    if words:
        width = max(8, *(len(printable(word.text)) for word in words))
        near = "also near" if any(len(word.pieces) > 1 for word in words) else ""
        lines.append(f"{'start':>9} {'end':>9} {'score':>6}  {'keyword':{width}}  {near}".rstrip())
    for word in words:
        others = " ".join(printable(piece.text) for piece in word.pieces[1:])
        line = f"{word.start:9.2f} {word.end:9.2f} {word.score:6.3f}  {printable(word.text):{width}}  {others}"
        lines.append(line.rstrip())
    return "\n".join(lines)
