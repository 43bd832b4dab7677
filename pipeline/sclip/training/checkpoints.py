"""Save and load the checkpoint from which an interrupted training resumes.

A checkpoint is one file. It is written atomically, and its checksum is verified when it is loaded. The first line is
the SHA-256, in hex, of the rest of the file; the rest is the output of `torch.save`.
"""

import hashlib
import logging
from collections.abc import Mapping
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
        self.path = path
        self.fingerprint = data_fingerprint(identity)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None if this training has no valid checkpoint.

        Delete the checkpoint of another training. Rename a damaged one.
        """
        if not self.path.is_file():
            return None
        content = read_checked(self.path)
        distributed.barrier()  # until every process has read the file
        if content is None:
            self._rename_damaged()
            return None
        saved = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        if saved["fingerprint"] == self.fingerprint:
            return saved["state"]
        if distributed.is_main():
            log.warning(
                f"{self.path}: the checkpoint belongs to another configuration, data or code; "
                "deleted; training starts from step 0"
            )
            self.path.unlink()
        return None

    def _rename_damaged(self) -> None:
        if distributed.is_main():
            damaged = self.path.with_stem(f"{self.path.stem}.damaged")
            self.path.replace(damaged)
            log.warning(
                f"{self.path}: its SHA-256 does not match; the file is damaged or comes from an older version; "
                f"moved to {damaged.name}; training starts from step 0"
            )

    def save(self, state: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # torch.save writes to memory first, because its own error on a full disk does not name the cause.
        buffer = BytesIO()
        torch.save({"fingerprint": self.fingerprint, "state": state}, buffer)
        # An error below keeps this frame alive. Python 3.12.1 crashes if it collects the buffer and an open view of it.
        with buffer.getbuffer() as content:
            data = b"\n".join((_digest(content), content))
        with atomic_file(self.path) as unfinished:
            unfinished.write_bytes(data)


def read_checked(path: Path) -> bytes | None:
    """Return the content of a checkpoint without its first line, or None if it does not match its checksum."""
    digest, _, content = path.read_bytes().partition(b"\n")
    return content if digest == _digest(content) else None


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
