"""Verification of all that a preset's stages have written: every byte is read and compared with the recorded hashes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sclip import paths
from sclip.concurrency import chunks, prefetch_batches
from sclip.corpora.manifest import Manifest, digest_file, read_manifest
from sclip.corpora.recordings import Recording, inspect
from sclip.corpora.rows import Row
from sclip.errors import Problems, UserError
from sclip.evaluation.verify import verify_results
from sclip.features.embed import content_fingerprint, hash_pictures
from sclip.features.store import INDEX_FILE, read_index
from sclip.features.transcripts import Transcripts
from sclip.features.vectors import FILES, ClipVectors
from sclip.features.verify import Finding, find_changed_recordings, verify
from sclip.model.loading import load
from sclip.parsing import read_json
from sclip.training.checkpoints import CHECKPOINT_FILE, read_checked


@dataclass(frozen=True)
class Verification:
    checked: dict[str, int]  # what was read: how many of it
    faults: list[Finding]


def verify_preset(preset: str) -> Verification:
    """Read the manifest, its files, the features, vectors, transcripts, models, checkpoints and results of a preset.

    Folders that no stage has written yet are left out.
    """
    checked: dict[str, int] = {}
    features, vectors = paths.features_folder(preset), paths.vectors_folder(preset)
    rows, faults = _check_manifest(paths.manifest(preset), checked)
    if rows is not None:
        faults += _check_files(rows, _skipped(features), _skipped(vectors), checked)
    if features.is_dir():
        faults += _check_features(features, rows, checked)
    if vectors.is_dir():
        faults += _guarded(vectors, lambda: _check_vectors(vectors, rows, checked))
    transcripts = paths.transcripts(preset)
    if transcripts.is_file():
        faults += _guarded(transcripts, lambda: _check_transcripts(transcripts, rows, checked))
    faults += _check_each("models", paths.model_folders(preset), _check_model, checked)
    checkpoints = [folder / CHECKPOINT_FILE for folder in paths.scratch_folders(preset)]
    faults += _check_each("checkpoints", filter(Path.is_file, checkpoints), _check_checkpoint, checked)
    results = [folder / paths.METRICS for folder in paths.results_folders(preset)]
    faults += _check_each("results", filter(Path.is_file, results), verify_results, checked)
    return Verification(checked, faults)


def _check_manifest(manifest: Path, checked: dict[str, int]) -> tuple[Manifest | None, list[Finding]]:
    """Return the rows of a manifest, or None if it is damaged, and its faults."""
    problems = Problems(skip=True)
    try:
        rows = read_manifest(manifest, problems)
    except UserError as error:
        if not manifest.is_file():
            raise
        return None, [Finding(str(manifest), str(error).removeprefix(f"{manifest}: "))]
    checked["rows"] = len(rows)
    faults = [Finding(row, reason) for row, reason in problems.skipped.items()]
    if not digest_file(manifest).is_file():
        missing = (
            "no such file, so nothing shows whether the manifest is damaged; `sclip make-corpus` writes both again, "
            "and changes that you have made in the manifest are lost"
        )
        faults.append(Finding(str(digest_file(manifest)), missing))
    return rows, faults


def _guarded(place: Path, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what a check finds, or the error that keeps it from reading a file or a folder to its end."""
    try:
        return check()
    except UserError as error:
        where, _, what = str(error).partition(": ")
        return [Finding(where, what) if where.startswith(str(place)) else Finding(str(place), str(error))]
    except OSError as error:  # of the disk, or of a folder that may not be entered
        return [Finding(str(error.filename or place), _reason(error))]


def _check_each(
    kind: str, places: Iterable[Path], check: Callable[[Path], list[Finding]], checked: dict[str, int]
) -> list[Finding]:
    """Return what a check finds in several files or folders of one kind, and count them."""
    findings: list[Finding] = []
    for place in places:
        checked[kind] = checked.get(kind, 0) + 1
        findings += _guarded(place, partial(check, place))
    return findings


def _reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _skipped(folder: Path) -> set[str]:
    """Return the utterances that a stage has skipped and counted, as far as its index can be read."""
    try:
        return set(read_json(folder / INDEX_FILE)["skipped"])
    except (UserError, OSError, KeyError, TypeError):
        return set()


def _check_files(
    rows: Sequence[Row], without_features: set[str], without_vectors: set[str], checked: dict[str, int]
) -> list[Finding]:
    """Check that the recordings and the pictures of a manifest exist, except those that the stages have skipped."""
    files = {"recordings": {row.audio: row for row in rows}, "pictures": {row.image: row for row in rows}}
    checked |= {kind: len(named) for kind, named in files.items()}
    return [
        finding
        for named, skipped in zip(files.values(), (without_features, without_vectors), strict=True)
        for path, row in named.items()
        if row.id not in skipped
        for finding in _guarded(path, partial(_check_file, path, row))
    ]


def _check_file(path: Path, row: Row) -> list[Finding]:
    return [] if path.is_file() else [Finding(str(path), f"no such file; {row.name} names it")]


def _check_features(folder: Path, rows: Manifest | None, checked: dict[str, int]) -> list[Finding]:
    ids = None if rows is None else [row.id for row in rows]
    findings = _guarded(folder, lambda: _check_store(folder, ids, checked))
    if rows is not None:
        findings += [finding for finding in _check_recordings(folder, rows) if finding not in findings]
        findings = findings or _guarded(folder, lambda: _check_paths(folder, rows))
    return findings


def _check_paths(folder: Path, rows: Manifest) -> list[Finding]:
    """Compare the ids and the recordings' paths, as `train` and `evaluate` do, which read no recording."""
    if read_index(folder).get("rows") in (None, rows.fingerprint("id", "audio")):
        return []
    changed = "not of the manifest's rows: their order, an id or a recording's path has changed; "
    changed += "run `sclip extract-features` again"
    return [Finding(str(folder / INDEX_FILE), changed)]


def _check_store(folder: Path, ids: Sequence[str] | None, checked: dict[str, int]) -> list[Finding]:
    checked["shards"] = len(read_index(folder)["shards"])
    return [_with_folder(folder, finding) for finding in verify(folder, ids)]


def _check_recordings(folder: Path, rows: Sequence[Row]) -> list[Finding]:
    """Check that the recordings can be read, and are those whose features were stored."""
    findings: list[Finding] = []
    hashes: dict[str, str] = {}
    for batch, inspected in prefetch_batches(chunks(rows, 64), _inspect):
        for row, recording in zip(batch, inspected, strict=True):
            if isinstance(recording, Finding):
                findings.append(recording)
            else:
                hashes[row.id] = recording.hash
    changed = _guarded(folder, lambda: find_changed_recordings(folder, hashes))
    return findings + [_with_folder(folder, finding) for finding in changed]


def _with_folder(folder: Path, finding: Finding) -> Finding:
    """Return a finding of a feature store with the whole path of its file. Others are about an utterance."""
    is_file = finding.where.endswith((".safetensors", INDEX_FILE)) and not finding.where.startswith(str(folder))
    return Finding(str(folder / finding.where), finding.what) if is_file else finding


def _inspect(row: Row) -> Recording | Finding:
    """Inspect a recording, and return an error of the disk as what was found."""
    try:
        return inspect(row)
    except OSError as error:
        return Finding(str(row.audio), _reason(error))


def _check_vectors(folder: Path, rows: Manifest | None, checked: dict[str, int]) -> list[Finding]:
    checked["files of vectors"] = len(FILES)
    vectors = ClipVectors.open(folder)  # compares every file with its digest
    tensors: dict[str, Tensor] = {"pictures": vectors.images, "captions": vectors.captions}
    if vectors.tokens is not None:
        tensors["tokens"] = vectors.tokens.vectors
    findings = [
        Finding(str(folder), f"{name}: vectors that are not finite")
        for name, tensor in tensors.items()
        if not bool(tensor.isfinite().all())
    ]
    if rows is not None:
        findings += _guarded(folder, lambda: _check_content(folder, vectors, rows))
    return findings


def _check_content(folder: Path, vectors: ClipVectors, rows: Sequence[Row]) -> list[Finding]:
    if vectors.content == content_fingerprint(rows, hash_pictures(rows)):
        return []
    changed = "not of the pictures and captions that the manifest names: a file or a row has changed since; "
    changed += "run `sclip embed-clip` again"
    return [Finding(str(folder), changed)]


def _check_transcripts(path: Path, rows: Manifest | None, checked: dict[str, int]) -> list[Finding]:
    """Open the transcripts as `evaluate` does, which compares them with their digest and with the rows."""
    spoken = [row for row in rows or () if row.split == "test"]
    if any(row.transcript is not None for row in spoken):  # those are used, and the file is not
        spoken = []
    transcripts = Transcripts.find(spoken, path)
    assert transcripts is not None
    checked["transcripts"] = len(transcripts.texts)
    return []


def _check_model(folder: Path) -> list[Finding]:
    """Load a model with its encoders, whose hashes are in the model's configuration."""
    return [
        Finding(str(folder), f"head.{name}: numbers that are not finite")
        for name, tensor in load(folder).head.state_dict().items()
        if not bool(torch.isfinite(tensor).all())
    ]


def _check_checkpoint(path: Path) -> list[Finding]:
    damaged = Finding(str(path), "its SHA-256 does not match; delete it, and training starts from step 0")
    return [damaged] if read_checked(path) is None else []
