"""Save and load the checkpoint from which an interrupted training resumes.

A checkpoint is one file. It is written atomically, and its checksum is verified when it is loaded. The first line is
the SHA-256, in hex, of the rest of the file; the rest is the output of `torch.save`.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from sclip import distributed
from sclip.files import atomic_file
from sclip.fingerprints import data_fingerprint

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

        Rename the checkpoint of another training, and a damaged one.
        """
        if not self.path.is_file():
            return None
        content = read_checked(self.path)
        distributed.barrier()  # until every process has read the file
        if content is None:
            reason = "its SHA-256 does not match; the file is damaged or comes from an older version"
            self._rename("damaged", f"{reason}; moved to {{name}}")
            return None
        saved = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        if saved["fingerprint"] == self.fingerprint:
            return saved["state"]
        different = ", ".join(_differences(saved["identity"], self.identity)) if "identity" in saved else "settings"
        self._rename("other", f"its training differs from this one in {different}; moved to {{name}}")
        return None

    def _rename(self, suffix: str, reason: str) -> None:
        """Move the checkpoint aside, and log the reason with the new name in place of {name}."""
        if distributed.is_main():
            moved = self.path.with_stem(f"{self.path.stem}.{suffix}")
            self.path.replace(moved)
            log.warning(f"{self.path}: {reason.format(name=moved.name)}; training starts from step 0")

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


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys with other values, with both values if they are numbers."""
    for key in {**saved, **current}:
        old, new = saved.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            are_numbers = isinstance(old, int | float) and isinstance(new, int | float)
            yield f"{prefix}{key} ({old:g}, now {new:g})" if are_numbers else f"{prefix}{key}"


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
