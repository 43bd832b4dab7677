"""Transcripts of the test split's recordings by a speech recogniser, for the topline that uses text.

`transcripts.json` has the recogniser, and for each utterance the hash of its recording and the transcript. It is
written after every few hundred utterances, so an interrupted run resumes, and only what is new or changed is computed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip.concurrency import chunks, prefetch_batches
from sclip.corpora.manifest import read_manifest
from sclip.corpora.recordings import Recording, decode, inspect
from sclip.corpora.rows import Row
from sclip.errors import Fault, Problems, UserError, counted
from sclip.files import file_digest
from sclip.index_file import read_index_file, write_index_file
from sclip.parsing import parse

if TYPE_CHECKING:
    from sclip.encoders.whisper import Recognizer

FORMAT, COMMAND = "sclip transcripts 1", "transcribe"
SPLIT = "test"  # only this one is evaluated
SHORTEST = 400  # samples, as for most speech encoders
SAVED_TOGETHER = 256  # utterances
OF_THE_CORPUS = "transcripts of the corpus"


@dataclass(frozen=True)
class Transcripts:
    """Hold the transcripts that a speech recogniser wrote, by utterance id."""

    source: str  # the name of the speech recogniser, or OF_THE_CORPUS
    texts: Mapping[str, str]

    @classmethod
    def find(cls, rows: Sequence[Row], path: Path) -> "Transcripts | None":
        """Return the transcripts in the manifest's rows or else in the file, if there are any.

        A recording that was replaced after `sclip transcribe` is refused. One that is no longer there is not compared.
        """
        written = {row.id: row.transcript for row in rows if row.transcript is not None}
        if written:
            return cls(OF_THE_CORPUS, written)
        if not path.is_file():
            return None
        stored = _Stored.read(path)
        missing = [row.name for row in rows if row.id not in stored.texts and row.id not in stored.skipped]
        if missing:
            raise UserError(f"{path}: no transcript of {missing[0]}; run `sclip {COMMAND}` again, or delete the file")
        transcribed = [row for row in rows if row.id in stored.texts and row.audio.is_file()]
        for batch, digests in prefetch_batches(chunks(transcribed, SAVED_TOGETHER), lambda row: file_digest(row.audio)):
            for row, digest in zip(batch, digests, strict=True):
                if digest != stored.texts[row.id][0]:
                    again = f"run `sclip {COMMAND}` again, or delete the file"
                    raise UserError(f"{path}: the recording of {row.name} has changed since; {again}")
        return cls(stored.recognizer.name, {row_id: text for row_id, (_, text) in stored.texts.items()})


@dataclass(frozen=True)
class _Origin:
    """The speech recogniser of the transcripts, and its language."""

    name: str
    revision: str | None
    hash: str  # of all that decides the transcripts
    language: str | None


@dataclass(frozen=True)
class _Stored:
    """The content of `transcripts.json`."""

    recognizer: _Origin
    texts: dict[str, tuple[str, ...]]  # by utterance id: the hash of the recording, and the transcript
    skipped: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "_Stored":
        index = read_index_file(path, FORMAT, COMMAND)
        stored: _Stored = parse(cls, {key: index.get(key) for key in ("recognizer", "texts", "skipped")}, str(path))
        if any(len(pair) != 2 for pair in stored.texts.values()):
            raise UserError(f"{path}: texts: expected [hash, transcript] for each utterance; delete the file")
        return stored


@dataclass(frozen=True)
class TranscriptionResult:
    transcripts: int
    computed: int  # the others existed already
    seconds: float


def transcribe(recognizer: "Recognizer", manifest: Path, out: Path, problems: Problems) -> TranscriptionResult:
    """Write the transcripts of the test split to the file `out`."""
    began = time.monotonic()
    rows = find_test_rows(manifest, problems)
    source = recognizer.source
    origin = _Origin(source.name, source.revision, recognizer.fingerprint(), recognizer.language)
    known = _read(out, origin)
    texts: dict[str, tuple[str, str]] = {}
    skipped: dict[str, str] = {}
    computed = 0
    with tqdm(total=len(rows), desc="transcripts", unit="", disable=None) as bar:
        for batch, recordings in prefetch_batches(chunks(rows, SAVED_TOGETHER), inspect):
            new = [recording for recording in recordings if known.get(recording.row.id, (None,))[0] != recording.hash]
            written = _recognize(recognizer, new, skipped, problems)
            same = {recording.row.id for recording in recordings} - {recording.row.id for recording in new}
            texts |= {row.id: known[row.id] for row in batch if row.id in same} | written
            computed += len(written)
            if new:
                # `known` has an earlier run's transcripts of the batches that this run has not reached.
                _write(out, origin, {**known, **texts}, skipped)
            bar.update(len(batch))
    if not texts:
        raise problems.nothing_left(
            f"{manifest}: none of {counted(len(rows), 'recordings')} of split {SPLIT} can be used"
        )
    _write(out, origin, texts, skipped)
    return TranscriptionResult(len(texts), computed, time.monotonic() - began)


def find_test_rows(manifest: Path, problems: Problems) -> list[Row]:
    """Return the rows of the test split, and refuse a corpus that has no such row or has transcripts of its own."""
    rows = [row for row in read_manifest(manifest, problems) if row.split == SPLIT]
    if any(row.transcript is not None for row in rows):
        raise UserError(f"{manifest}: has transcripts already; leave the column `transcript` out to replace them")
    if not rows:
        raise UserError(
            f"{manifest}: no row is of split {SPLIT}; give this split to some rows of the corpus, and make it again"
        )
    return rows


def _recognize(
    recognizer: "Recognizer", recordings: Sequence[Recording], skipped: dict[str, str], problems: Problems
) -> dict[str, tuple[str, str]]:
    """Return the hash and the transcript of each recording that can be used, and report the others."""
    usable: list[tuple[Recording, Tensor]] = []
    for recording in recordings:
        waveform = decode(recording, SHORTEST)
        if isinstance(waveform, Fault):
            problems.add(recording.row.name, waveform.reason)
            skipped[recording.row.id] = waveform.reason
        else:
            usable.append((recording, torch.from_numpy(waveform)))
    texts = recognizer([waveform for _, waveform in usable]) if usable else []
    return {recording.row.id: (recording.hash, text) for (recording, _), text in zip(usable, texts, strict=True)}


def _read(path: Path, origin: _Origin) -> dict[str, tuple[str, str]]:
    """Return the transcripts of an earlier run of the same recogniser."""
    if not path.is_file():
        return {}
    try:
        stored = _Stored.read(path)
    except UserError:  # damaged, or of another version
        return {}
    if stored.recognizer.hash != origin.hash:
        return {}
    return {row_id: (digest, text) for row_id, (digest, text) in stored.texts.items()}


def _write(path: Path, origin: _Origin, texts: Mapping[str, tuple[str, str]], skipped: Mapping[str, str]) -> None:
    write_index_file(path, {"format": FORMAT, "recognizer": asdict(origin), "texts": texts, "skipped": skipped})
