"""Check of a corpus: read every recording and picture, count them, and find faults."""

import hashlib
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from sclip.concurrency import chunks, prefetch_batches
from sclip.config import CorpusConfig
from sclip.corpora.listing import PublishedCounts
from sclip.corpora.make import find_rows, unfit_splits
from sclip.corpora.recordings import CONVERTED, decode, inspect
from sclip.corpora.rows import SPLITS, Row
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.pictures import FLAT, is_flat, picture_fault, read_rgb
from sclip.errors import Fault, Findings, Problems, list_findings

SHORTEST = 400  # samples at 16 kHz that make one frame of most speech encoders
NUMBERS = ("utterances", "pictures", "captions", "speakers")  # of a split, in SplitCounts and in a report


@dataclass(frozen=True)
class SplitCounts:
    utterances: int
    pictures: int
    captions: int
    speakers: int
    seconds: Sequence[float]  # of each usable recording


@dataclass
class Check:
    """The result of a check."""

    splits: dict[str, SplitCounts] = field(default_factory=dict)
    published: PublishedCounts | None = None
    notes: Findings = field(default_factory=dict)  # what is unusual and does no harm
    faults: Findings = field(default_factory=dict)


class _CheckedFile(NamedTuple):
    hash: str
    seconds: float | None = None  # of a usable recording
    note: str | None = None
    fault: str | None = None


_CheckedFiles = list[tuple[Row, _CheckedFile]]


def check_corpus(config: CorpusConfig, manifest: Path, shortest: int = SHORTEST) -> Check:
    """Check a preset's corpus: the files of its source, or, for scenes, those that `make-corpus` made.

    `shortest` is the number of samples that make one frame of the preset's speech encoder.
    """
    rows, check = _find_rows(config, manifest)
    recordings = _check_files(rows, partial(_check_recording, shortest=shortest), "recordings")
    pictures = _check_files(list({row.image: row for row in rows}.values()), _check_picture, "pictures")
    for kind, files in ((CONVERTED, recordings), (FLAT, pictures)):
        for row, file in files:
            if file.fault is not None:
                _add(check.faults, "files that cannot be used", f"{row.name}: {file.fault}")
            if file.note is not None:
                _add(check.notes, kind, f"{row.name}: {file.note}")
    _find_duplicates(check, rows, recordings, pictures)
    seconds = {row.id: file.seconds for row, file in recordings if file.seconds is not None}
    check.splits = {split: _count([row for row in rows if row.split == split], seconds) for split in SPLITS}
    for kind, split in unfit_splits(rows):
        _add(check.notes, kind, split)
    for difference in _compare_counts(check):
        _add(check.faults, "counts that differ from the published ones", difference)
    return check


def _find_duplicates(check: Check, rows: Sequence[Row], recordings: _CheckedFiles, pictures: _CheckedFiles) -> None:
    """Add recordings with the same content to the notes, and pictures with the same content to the faults."""
    for ids in _groups_by_hash((file.hash, row.id) for row, file in recordings if file.fault is None):
        _add(check.notes, "groups of recordings with the same content", ", ".join(ids))
    hashes = {row.image: file.hash for row, file in pictures if file.fault is None}
    uses = dict.fromkeys((row.image, row.split) for row in rows if row.image in hashes)
    for group in _groups_by_hash((hashes[image], (image, split)) for image, split in uses):
        if len({split for _, split in group}) > 1:
            _add(check.faults, "pictures in two splits", ", ".join(f"{image.name} ({split})" for image, split in group))
        else:
            _add(check.faults, "groups of pictures with the same content", ", ".join(image.name for image, _ in group))


def as_data(check: Check) -> dict[str, Any]:
    """Return a report as plain data."""
    return {
        "splits": {split: _split_data(counts) for split, counts in check.splits.items()},
        "notes": dict(sorted(check.notes.items())),
        "faults": dict(sorted(check.faults.items())),
    }


def _split_data(counts: SplitCounts) -> dict[str, Any]:
    seconds = sorted(counts.seconds)
    spread = {"least": seconds[0], "median": statistics.median(seconds), "most": seconds[-1]} if seconds else None
    numbers = {key: getattr(counts, key) for key in NUMBERS}
    return {**numbers, "hours": sum(seconds) / 3600, "seconds": spread}


def report(check: Check) -> Iterator[str]:
    """Yield the lines of a report: a table in Markdown, then notes and faults."""
    yield f"| split | {' | '.join(NUMBERS)} | hours | seconds: least, median, most |"
    yield "|---|---|---|---|---|---|---|"
    for split, data in as_data(check)["splits"].items():
        numbers = " | ".join(f"{data[key]:,}" for key in NUMBERS)
        spread = ", ".join(f"{value:.1f}" for value in (data["seconds"] or {}).values())
        yield f"| {split} | {numbers} | {data['hours']:.2f} | {spread} |"
    for title, findings in (("note", check.notes), ("fault", check.faults)):
        yield from list_findings(title, dict(sorted(findings.items())), brief=(CONVERTED,))


def _find_rows(config: CorpusConfig, manifest: Path) -> tuple[list[Row], Check]:
    """Return the usable rows, and a check with the faults of the corpus's own files."""
    problems, check = Problems(skip=True), Check()
    rows, listing = find_rows(config, manifest, problems)
    check.published = listing.published
    for reason, names in listing.left_out.items():
        (check.notes if reason in listing.harmless else check.faults)[reason] = sorted(names)
    check.notes |= listing.notes
    check.faults |= listing.faults
    for name, reason in problems.skipped.items():
        _add(check.faults, "rows that cannot be used", f"{name}: {reason}")
    return rows, check


def _add(findings: Findings, kind: str, case: str) -> None:
    findings.setdefault(kind, []).append(case)


def _check_files(rows: Sequence[Row], check_file: Callable[[Row], _CheckedFile], title: str) -> _CheckedFiles:
    """Return each row with the result of `check_file`, which runs in threads."""
    checked: _CheckedFiles = []
    with tqdm(None, title, len(rows), unit="", disable=None) as bar:
        for batch, files in prefetch_batches(chunks(rows, 64), check_file):
            checked += zip(batch, files, strict=True)
            bar.update(len(batch))
    return checked


def _check_recording(row: Row, shortest: int) -> _CheckedFile:
    recording = inspect(row)
    waveform = decode(recording, shortest)
    if isinstance(waveform, Fault):
        return _CheckedFile(recording.hash, fault=waveform.reason)
    return _CheckedFile(recording.hash, len(waveform) / SAMPLE_RATE, recording.note)


def _check_picture(row: Row) -> _CheckedFile:
    try:
        data = row.image.read_bytes()
        flat = is_flat(read_rgb(io.BytesIO(data)))
    except Exception as error:  # a damaged picture can raise any exception
        return _CheckedFile("", fault=picture_fault(row.image, error))
    note = f"image {row.image.name}: a single colour" if flat else None
    return _CheckedFile(hashlib.sha256(data).hexdigest(), note=note)


def _groups_by_hash(hashed: Iterable[tuple[str, Any]]) -> Iterator[list[Any]]:
    """Yield each group of items that share a hash."""
    groups: dict[str, list[Any]] = {}
    for digest, item in hashed:
        groups.setdefault(digest, []).append(item)
    return (group for group in groups.values() if len(group) > 1)


def _count(rows: Sequence[Row], seconds: Mapping[str, float]) -> SplitCounts:
    return SplitCounts(
        utterances=len(rows),
        pictures=len({row.image_id for row in rows}),
        captions=sum(row.text is not None for row in rows),
        speakers=len({row.speaker for row in rows} - {None}),
        seconds=[seconds[row.id] for row in rows if row.id in seconds],
    )


def _compare_counts(check: Check) -> Iterator[str]:
    """Yield the counts that differ from those of the published corpus."""
    if check.published is None:
        return
    for kind, published in (("pictures", check.published.pictures), ("utterances", check.published.utterances or {})):
        for split, expected in published.items():
            count = getattr(check.splits[split], kind)
            if count != expected:
                yield f"{split}: expected {expected:,} {kind}, found {count:,}"
