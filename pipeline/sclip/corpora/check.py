"""Everything that a corpus names, read once: what is there, and what is wrong with it."""

import hashlib
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from sclip.concurrency import chunks, prefetch_batches
from sclip.config import CorpusConfig
from sclip.corpora.gathered import Expected
from sclip.corpora.make import find_rows
from sclip.corpora.manifest import SPLITS, Row
from sclip.corpora.recordings import CONVERTED, decode, inspect
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.pictures import FLAT, is_flat, picture_fault, read_rgb
from sclip.errors import Fault, Findings, Problems, list_findings

SHORTEST = 400  # samples at 16 kHz: a frame of the speech encoders


@dataclass(frozen=True)
class SplitCounts:
    utterances: int
    pictures: int
    captions: int
    speakers: int
    seconds: Sequence[float]  # of each recording that can be heard


@dataclass
class Check:
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    expected: Expected | None = None
    notes: Findings = field(default_factory=dict)  # do no harm
    faults: Findings = field(default_factory=dict)


class _File(NamedTuple):
    hash: str
    seconds: float | None = None  # of a recording that can be heard
    note: str | None = None
    fault: str | None = None


def check_corpus(config: CorpusConfig, manifest: Path) -> Check:
    """`scenes` as it was made, anything else where it lies."""
    rows, check = _gathered(config, manifest)
    recordings = _read(rows, _listen, "recordings")
    pictures = _read(list({row.image: row for row in rows}.values()), _see, "pictures")
    for what, files in ((CONVERTED, recordings), (FLAT, pictures)):
        for row, file in files:
            if file.fault is not None:
                _add(check.faults, "files that cannot be used", f"{row.name}: {file.fault}")
            if file.note is not None:
                _add(check.notes, what, f"{row.name}: {file.note}")
    for same in _alike((file.hash, row.id) for row, file in recordings if file.fault is None):
        _add(check.notes, "recordings with the same content", ", ".join(same))
    hashes = {row.image: file.hash for row, file in pictures if file.fault is None}
    uses = dict.fromkeys((row.image, row.split) for row in rows if row.image in hashes)
    for same in _alike((hashes[image], (image, split)) for image, split in uses):
        if len({split for _, split in same}) > 1:
            _add(check.faults, "pictures in two splits", ", ".join(f"{image.name} ({split})" for image, split in same))
        else:
            _add(check.faults, "pictures with the same content", ", ".join(image.name for image, _ in same))
    seconds = {row.id: file.seconds for row, file in recordings if file.seconds is not None}
    check.splits = {split: _counted([row for row in rows if row.split == split], seconds) for split in SPLITS}
    for finding in _miscounted(check):
        _add(check.faults, "counts unlike the published ones", finding)
    return check


def report(check: Check) -> Iterator[str]:
    """Lines, the table in Markdown."""
    yield "| split | utterances | pictures | captions | speakers | hours | seconds: least, median, most |"
    yield "|---|---|---|---|---|---|---|"
    for split, counts in check.splits.items():
        seconds = sorted(counts.seconds)
        spread = f"{seconds[0]:.1f}, {statistics.median(seconds):.1f}, {seconds[-1]:.1f}" if seconds else ""
        numbers = " | ".join(f"{getattr(counts, of):,}" for of in ("utterances", "pictures", "captions", "speakers"))
        yield f"| {split} | {numbers} | {sum(seconds) / 3600:.2f} | {spread} |"
    for title, findings in (("note", check.notes), ("fault", check.faults)):
        yield from list_findings(title, dict(sorted(findings.items())))


def _gathered(config: CorpusConfig, manifest: Path) -> tuple[list[Row], Check]:
    problems, check = Problems(skip=True), Check()
    rows, gathered = find_rows(config, manifest, problems)
    check.expected = gathered.expected
    for why, what in gathered.left_out.items():
        # Published corpora have some of these.
        (check.notes if why.endswith("in no split") else check.faults)[why] = sorted(what)
    for name, reason in problems.skipped.items():
        _add(check.faults, "rows that cannot be used", f"{name}: {reason}")
    return rows, check


def _add(findings: Findings, what: str, which: str) -> None:
    findings.setdefault(what, []).append(which)


def _read(rows: Sequence[Row], read: Callable[[Row], _File], title: str) -> list[tuple[Row, _File]]:
    found: list[tuple[Row, _File]] = []
    with tqdm(None, title, len(rows), unit="", disable=None) as bar:
        for batch, files in prefetch_batches(chunks(rows, 64), read):
            found += zip(batch, files, strict=True)
            bar.update(len(batch))
    return found


def _listen(row: Row) -> _File:
    recording = inspect(row)
    waveform = decode(recording, SHORTEST)
    if isinstance(waveform, Fault):
        return _File(recording.hash, fault=waveform.reason)
    return _File(recording.hash, len(waveform) / SAMPLE_RATE, recording.note)


def _see(row: Row) -> _File:
    try:
        data = row.image.read_bytes()
        flat = is_flat(read_rgb(io.BytesIO(data)))
    except Exception as error:  # a damaged picture fails in whatever way it is damaged
        return _File("", fault=picture_fault(row.image, error))
    note = f"image {row.image.name}: a single colour" if flat else None
    return _File(hashlib.sha256(data).hexdigest(), note=note)


def _alike(hashed: Iterable[tuple[str, Any]]) -> Iterator[list[Any]]:
    """Yield the items that share a hash, group by group."""
    groups: dict[str, list[Any]] = {}
    for found, item in hashed:
        groups.setdefault(found, []).append(item)
    return (group for group in groups.values() if len(group) > 1)


def _counted(rows: Sequence[Row], seconds: Mapping[str, float]) -> SplitCounts:
    return SplitCounts(
        utterances=len(rows),
        pictures=len({row.image_id for row in rows}),
        captions=sum(row.text is not None for row in rows),
        speakers=len({row.speaker for row in rows} - {None}),
        seconds=[seconds[row.id] for row in rows if row.id in seconds],
    )


def _miscounted(check: Check) -> Iterator[str]:
    if check.expected is None:
        return
    for kind, expected in (("pictures", check.expected.pictures), ("utterances", check.expected.utterances or {})):
        for split, wanted in expected.items():
            found = getattr(check.splits[split], kind)
            if found != wanted:
                yield f"{split}: {found:,} {kind} of {wanted:,}"
