"""Verification of a feature store: every byte is compared with the hashes of what was written."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    shard_name,
)
from sclip.fingerprints import data_fingerprint

CHANGED = (
    "not of the recordings that the manifest names: a file or a row has changed since; run `sclip extract-features` "
    "again"
)


@dataclass(frozen=True)
class Finding:
    """A fault in the store: the file or utterance, and what is wrong with it."""

    where: str
    what: str


def verify(folder: Path, ids: Sequence[str] | None = None) -> list[Finding]:
    """Read the whole store, and return its faults.

    `ids` are those of the manifest. The store must have stored or skipped each of them, and no other utterance.
    """
    index = read_index(folder)
    findings: list[Finding] = []
    shards = list(_open_shards(folder, index, findings))
    with ThreadPoolExecutor() as pool:
        damages = pool.map(lambda shard: list(_find_damage(shard)), shards)
        for damage in tqdm(damages, "shards", len(shards), unit="", disable=None):
            findings += damage
    findings += _check_other_files(folder, index)
    stored = [*index.get("lengths", ()), *(name for shard in shards for name in shard.ids)]  # online: no shards
    findings += [Finding(name, "stored twice") for name, count in Counter(stored).items() if count > 1]
    if ids is not None and len(shards) == len(index["shards"]):
        known = {*stored, *index["skipped"]}
        findings += [Finding(name, "in the manifest, not in the store") for name in ids if name not in known]
        findings += [Finding(name, "in the store, not in the manifest") for name in sorted(known.difference(ids))]
    return findings


def find_changed_recordings(folder: Path, hashes: Mapping[str, str]) -> list[Finding]:
    """Return the shards whose recordings have changed. `hashes` are the files' SHA-256 by utterance, in order."""
    index, findings = read_index(folder), []
    recordings = index.get("recordings")  # online: no shards
    if recordings not in (None, data_fingerprint([list(pair) for pair in hashes.items()])):
        findings.append(Finding(INDEX_FILE, CHANGED))
    position = {name: i for i, name in enumerate(hashes)}
    for shard in _open_shards(folder, index, []):
        own = {*shard.ids, *shard.skipped}
        if own <= hashes.keys():
            pairs = [(name, hashes[name]) for name in sorted(own, key=position.__getitem__)]
            if shard_name(shard.fingerprint, pairs) != shard.path.name:
                findings.append(Finding(shard.path.name, CHANGED))
    return findings


def _open_shards(folder: Path, index: dict[str, Any], findings: list[Finding]) -> Iterator[Shard]:
    """Yield the shards that can be opened. Add those that cannot, or that the index does not list, to the findings."""
    for entry in index["shards"]:
        try:
            shard = Shard.open(folder / entry["file"])
        except UserError as error:
            findings.append(Finding(entry["file"], str(error).removeprefix(f"{folder / entry['file']}: ")))
            continue
        if shard.entry() != entry or shard.fingerprint != index["fingerprint"]:
            findings.append(Finding(entry["file"], f"not the shard that {INDEX_FILE} lists"))
        yield shard


def _check_other_files(folder: Path, index: dict[str, Any]) -> Iterator[Finding]:
    """Check the directions, if there are any, and find files that the index does not list."""
    listed = {entry["file"] for entry in index["shards"]}
    if "components" in index["features"]:
        listed.add(DIRECTIONS_FILE)
        try:
            read_directions(folder, index["features"])
        except UserError as error:
            yield Finding(DIRECTIONS_FILE, str(error))
    for name in sorted(path.name for path in folder.glob("*.safetensors") if path.name not in listed):
        yield Finding(name, f"not in {INDEX_FILE}")


def _find_damage(shard: Shard) -> Iterator[Finding]:
    """Compare each utterance's states with their hash, and check that they are finite."""
    utterances = torch.split(shard.states, shard.lengths.tolist())
    for name, hash_, states in zip(shard.ids, shard.hashes, utterances, strict=True):
        if hashlib.sha256(bytes_of(states)).digest() != bytes(hash_.tolist()):
            yield Finding(shard.path.name, f"utterance {name}: not the bytes that were written")
        elif not bool(states.abs().max().isfinite()):  # much faster than isfinite of every number
            yield Finding(shard.path.name, f"utterance {name}: holds numbers that are not finite")
