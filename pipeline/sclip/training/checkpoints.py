"""Save and load the checkpoint from which an interrupted training resumes.

A checkpoint is one file. It is written atomically, and its checksum is verified when it is loaded. The first line is
the SHA-256, in hex, of the rest of the file; the rest is the output of `torch.save`.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from io import BytesIO
from itertools import starmap
from pathlib import Path
from typing import Any

import torch

from sclip import distributed
from sclip.files import atomic_file
from sclip.fingerprints import data_fingerprint, differing_keys

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pt"  # of a training of a head


class Checkpoint:
    def __init__(self, path: Path, identity: Mapping[str, Any]):
        """Set where the checkpoint is stored, and which training it belongs to.

        `identity` is plain data. It contains everything that decides the result of the training.
        """
        self.path, self.identity = path, json.loads(json.dumps(identity))  # in the types of JSON alone
        self.fingerprint = data_fingerprint(identity)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None if this training has no valid checkpoint.

        Move the checkpoint of another training aside, and a damaged one. One that was moved aside earlier is used if it
        belongs to this training.
        """
        own = self._moved(self.fingerprint)
        state = self._load(self.path, "" if own.is_file() else "; training starts from step 0")
        if state is None and own.is_file():
            state = self._load(own, "; training starts from step 0")
            if state is not None and distributed.is_main():
                own.replace(self.path)
        return state

    def _load(self, path: Path, consequence: str) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        content = read_checked(path)
        distributed.barrier()  # until every process has read the file
        if content is None:
            reason = "its SHA-256 does not match; the file is damaged"
            _move(path, self.path.with_stem(f"{self.path.stem}.damaged"), reason, consequence)
            return None
        saved = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        if saved["fingerprint"] == self.fingerprint:
            return saved["state"]
        reason = "an earlier version of sclip wrote it, without the settings of its training"
        if "identity" in saved:
            different = ", ".join(starmap(describe_change, differing_keys(saved["identity"], self.identity)))
            reason = f"its training differs from this one in {different}"
        _move(path, self._moved(saved["fingerprint"]), reason, consequence)
        return None

    def _moved(self, fingerprint: str) -> Path:
        """Return where the checkpoint of another training is moved."""
        return self.path.with_stem(f"{self.path.stem}.{fingerprint[:8]}")

    def delete(self) -> None:
        """Delete the checkpoint and its folder. The checkpoints of other trainings stay there."""
        folder = self.path.parent
        others = set(folder.glob(f"{self.path.stem}.{'[0-9a-f]' * 8}{self.path.suffix}"))
        if not others:
            shutil.rmtree(folder)
            return
        for path in set(folder.iterdir()) - others:
            path.unlink()

    def save(self, state: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # torch.save writes to memory first, because its own error on a full disk does not name the cause.
        buffer = BytesIO()
        torch.save({"fingerprint": self.fingerprint, "identity": self.identity, "state": state}, buffer)
        # An error below keeps this frame alive. Python 3.12.1 crashes if it collects the buffer and an open view of it.
        with buffer.getbuffer() as content:
            data = b"\n".join((_digest(content), content))
        with atomic_file(self.path) as unfinished:
            unfinished.write_bytes(data)


def read_checked(path: Path) -> bytes | None:
    """Return the content of a checkpoint without its first line, or None if it does not match its checksum."""
    digest, _, content = path.read_bytes().partition(b"\n")
    return content if digest == _digest(content) else None


def _move(path: Path, target: Path, reason: str, consequence: str) -> None:
    if distributed.is_main():
        path.replace(target)
        log.warning(f"{path}: {reason}; moved to {target.name}{consequence}")


def describe_change(key: str, old: Any, new: Any) -> str:
    """Name a key with another value, with both values if they are numbers."""
    are_numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return f"{key} ({old}, now {new})" if are_numbers else key


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
