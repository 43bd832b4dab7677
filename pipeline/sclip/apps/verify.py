"""Verification of all that a preset's stages have written: every byte is read and compared with the recorded hashes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sclip import paths
from sclip.concurrency import chunks, prefetch_batches
from sclip.corpora.manifest import digest_file, read_manifest
from sclip.corpora.recordings import Recording, inspect
from sclip.corpora.rows import Row
from sclip.errors import Problems, UserError
from sclip.evaluation.metrics_file import check_other_files, read_metrics
from sclip.features.embed import content_fingerprint, hash_pictures
from sclip.features.store import INDEX_FILE, read_index
from sclip.features.vectors import FILES, ClipVectors
from sclip.features.verify import Finding, find_changed_recordings, verify
from sclip.model.folder import CONFIG_FILE
from sclip.model.loading import load
from sclip.parsing import read_json
from sclip.training.checkpoints import read_checked


@dataclass(frozen=True)
class Verification:
    checked: dict[str, int]  # what was read: how many of it
    faults: list[Finding]


def verify_preset(preset: str) -> Verification:
    """Read the manifest, its files, the features, the vectors, the models, checkpoints and results of a preset.

    Folders that no stage has written yet are left out.
    """
    checked: dict[str, int] = {}
    features, vectors = paths.features_folder(preset), paths.vectors_folder(preset)
    rows, faults = _check_manifest(paths.manifest(preset), checked)
    if rows is not None:
        faults += _check_files(rows, _skipped(features), _skipped(vectors), checked)
    if features.is_dir():
        faults += _guarded(features, lambda: _check_features(features, rows, checked))
    if vectors.is_dir():
        faults += _guarded(vectors, lambda: _check_vectors(vectors, rows, checked))
    faults += _check_models(paths.model_folder(preset, "*", 0).parents[1], checked)
    faults += _check_checkpoints(paths.scratch_folder(preset, "*", 0).parents[1], checked)
    faults += _check_results(paths.report_folder(preset), checked)
    return Verification(checked, faults)


def _check_manifest(manifest: Path, checked: dict[str, int]) -> tuple[Sequence[Row] | None, list[Finding]]:
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
        missing = "no such file, so nothing shows whether the manifest is damaged; `sclip make-corpus` writes it"
        faults.append(Finding(str(digest_file(manifest)), missing))
    return rows, faults


def _guarded(place: Path, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what a check finds, and the error that keeps it from reading a file or a folder to its end."""
    findings: list[Finding] = []
    try:
        for finding in check():
            findings.append(finding)
    except UserError as error:
        findings.append(Finding(str(place), str(error)))
    except OSError as error:  # of the disk, or of a folder that may not be entered
        findings.append(Finding(str(error.filename or place), _reason(error)))
    return findings


def _reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _skipped(folder: Path) -> set[str]:
    """Return the utterances that a stage has skipped and counted, as far as its index can be read."""
    try:
        return set(read_json(folder / INDEX_FILE)["skipped"])
    except (UserError, OSError, KeyError, TypeError):
        return set()


def _check_files(rows: Sequence[Row], unheard: set[str], unseen: set[str], checked: dict[str, int]) -> list[Finding]:
    """Check that the recordings and the pictures of a manifest exist, except those that the stages have skipped."""
    files = {"recordings": {row.audio: row for row in rows}, "pictures": {row.image: row for row in rows}}
    checked |= {kind: len(named) for kind, named in files.items()}
    return [
        finding
        for named, skipped in zip(files.values(), (unheard, unseen), strict=True)
        for path, row in named.items()
        if row.id not in skipped
        for finding in _guarded(path, partial(_check_file, path, row))
    ]


def _check_file(path: Path, row: Row) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding(str(path), f"no such file; {row.name} names it")


def _check_features(folder: Path, rows: Sequence[Row] | None, checked: dict[str, int]) -> Iterator[Finding]:
    checked["shards"] = len(read_index(folder)["shards"])
    faults = verify(folder, None if rows is None else [row.id for row in rows])
    yield from faults
    if rows is None:
        return
    hashes: dict[str, str] = {}
    for batch, inspected in prefetch_batches(chunks(rows, 64), _inspect):
        for row, recording in zip(batch, inspected, strict=True):
            if isinstance(recording, Finding):
                yield recording
            else:
                hashes[row.id] = recording.hash
    yield from (finding for finding in find_changed_recordings(folder, hashes) if finding not in faults)


def _inspect(row: Row) -> Recording | Finding:
    """Inspect a recording, and return an error of the disk as what was found."""
    try:
        return inspect(row)
    except OSError as error:
        return Finding(str(row.audio), _reason(error))


def _check_vectors(folder: Path, rows: Sequence[Row] | None, checked: dict[str, int]) -> Iterator[Finding]:
    checked["files of vectors"] = len(FILES)
    vectors = ClipVectors.open(folder)  # compares every file with its digest
    tensors: dict[str, Tensor] = {"pictures": vectors.images, "captions": vectors.captions}
    if vectors.tokens is not None:
        tensors["tokens"] = vectors.tokens.vectors
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            yield Finding(str(folder), f"{name}: vectors that are not finite")
    if rows is not None and vectors.content != content_fingerprint(rows, hash_pictures(rows)):
        yield Finding(
            str(folder), "not of the pictures and captions that the manifest names: a file or a row has changed since"
        )


def _check_models(folder: Path, checked: dict[str, int]) -> Iterator[Finding]:
    for config in sorted(folder.glob(f"*/seed-*/{CONFIG_FILE}")):
        checked["models"] = checked.get("models", 0) + 1
        yield from _guarded(config.parent, partial(_check_model, config.parent))


def _check_model(folder: Path) -> Iterator[Finding]:
    """Load a model with its encoders, whose hashes are in the model's configuration."""
    for name, tensor in load(folder).head.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            yield Finding(str(folder), f"head.{name}: numbers that are not finite")


def _check_checkpoints(folder: Path, checked: dict[str, int]) -> Iterator[Finding]:
    for path in sorted(folder.glob("*/seed-*/checkpoint.pt")):
        checked["checkpoints"] = checked.get("checkpoints", 0) + 1
        yield from _guarded(path, partial(_check_checkpoint, path))


def _check_checkpoint(path: Path) -> Iterator[Finding]:
    if read_checked(path) is None:
        yield Finding(str(path), "its SHA-256 does not match; delete it, and training starts from step 0")


def _check_results(folder: Path, checked: dict[str, int]) -> Iterator[Finding]:
    for path in sorted(folder.glob(f"runs/*/seed-*/{paths.METRICS}")):
        checked["results"] = checked.get("results", 0) + 1
        yield from _guarded(path.parent, partial(_check_run, path))


def _check_run(path: Path) -> Iterator[Finding]:
    metrics = read_metrics(path)
    if isinstance(metrics, dict):
        check_other_files(path.parent, metrics)
    yield from ()
