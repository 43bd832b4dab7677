"""The checkpoint that an interrupted training resumes from: one file, written atomically and checked when it is loaded.

The file is a SHA-256 in hex, a line end, and what torch.save writes, which the SHA-256 is of.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from sclip import distributed
from sclip.files import atomic_file

log = logging.getLogger(__name__)


class Checkpoint:
    def __init__(self, path: Path, identity: Mapping[str, Any]):
        """`identity`: everything, as plain data, that decides the result."""
        self.path = path
        self.fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last. Remove one of another training; set a damaged one aside."""
        if not self.path.is_file():
            return None
        digest, _, content = self.path.read_bytes().partition(b"\n")
        distributed.barrier()  # until every process has read the file
        if digest != _digest(content):
            self._set_aside()
            return None
        saved = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        if saved["fingerprint"] == self.fingerprint:
            return saved["state"]
        if distributed.is_main():
            log.warning(f"{self.path}: of another configuration, data or code; training starts anew")
            self.path.unlink()
        return None

    def _set_aside(self) -> None:
        if distributed.is_main():
            damaged = self.path.with_stem(f"{self.path.stem}.damaged")
            self.path.replace(damaged)
            log.warning(
                f"{self.path}: its SHA-256 does not match, the file is damaged or of an older version; "
                f"moved to {damaged.name}; training starts from step 0"
            )

    def save(self, state: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Through memory: when the disk is full, torch.save raises an error that does not say so.
        buffer = BytesIO()
        torch.save({"fingerprint": self.fingerprint, "state": state}, buffer)
        content = buffer.getbuffer()
        with atomic_file(self.path) as unfinished:
            unfinished.write_bytes(b"\n".join((_digest(content), content)))


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
