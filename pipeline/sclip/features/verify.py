"""Every byte of a feature store against what was written."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from sclip.errors import UserError
from sclip.features.store import (
    DIRECTIONS_FILE,
    INDEX_FILE,
    Shard,
    bytes_of,
    read_directions,
    read_index,
)


@dataclass(frozen=True)
class Finding:
    where: str
    what: str


def verify(folder: Path, ids: Sequence[str] | None = None) -> list[Finding]:
    """Reads everything. `ids`: the manifest's, each of which must be stored or skipped, and no other."""
    index = read_index(folder)
    findings: list[Finding] = []
    opened: list[Shard] = []
    for entry in index["shards"]:
        try:
            opened.append(Shard.open(folder / entry["file"]))
        except UserError as error:
            findings.append(Finding(entry["file"], str(error).removeprefix(f"{folder / entry['file']}: ")))
            continue
        if opened[-1].entry() != entry or opened[-1].fingerprint != index["fingerprint"]:
            findings.append(Finding(entry["file"], f"not what {INDEX_FILE} tells of"))
    with ThreadPoolExecutor() as pool:
        checked = pool.map(lambda shard: list(_damage(shard)), opened)
        for found in tqdm(checked, "shards", len(opened), unit="", disable=None):
            findings += found
    known = {entry["file"] for entry in index["shards"]}
    if "components" in index["features"]:
        known.add(DIRECTIONS_FILE)
        try:
            read_directions(folder, index["features"])
        except UserError as error:
            findings.append(Finding(DIRECTIONS_FILE, str(error)))
    stray = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in known)
    findings += [Finding(name, f"not in {INDEX_FILE}") for name in stray]
    stored = [*index.get("lengths", ()), *(name for shard in opened for name in shard.ids)]  # online: no shards
    findings += [Finding(name, "stored twice") for name in _repeated(stored)]
    if ids is not None and len(opened) == len(index["shards"]):
        present = {*stored, *index["skipped"]}
        findings += [Finding(name, "in the manifest, not in the store") for name in ids if name not in present]
        findings += [Finding(name, "in the store, not in the manifest") for name in sorted(present.difference(ids))]
    return findings


def _damage(shard: Shard) -> Iterator[Finding]:
    utterances = torch.split(shard.states, shard.lengths.tolist())
    for name, hash_, states in zip(shard.ids, shard.hashes, utterances, strict=True):
        if hashlib.sha256(bytes_of(states)).digest() != bytes(hash_.tolist()):
            yield Finding(shard.path.name, f"utterance {name}: not the bytes that were written")
        elif not bool(states.abs().max().isfinite()):  # many times as fast as asking each
            yield Finding(shard.path.name, f"utterance {name}: holds numbers that are not finite")


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
