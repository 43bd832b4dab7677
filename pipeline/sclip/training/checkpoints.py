"""What an interrupted training goes on from: one file, whole or not there, that knows what it belongs to."""

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import torch

from sclip import processes
from sclip.whole import whole


class Checkpoint:
    def __init__(self, path: Path, identity: Mapping[str, Any]):
        """`identity`: everything, as plain data, that decides the result."""
        self.path = path
        self.fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last. One of another training is removed."""
        if not self.path.is_file():
            return None
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        processes.wait()  # until all have read it
        if saved["fingerprint"] == self.fingerprint:
            return saved["state"]
        if processes.is_first():
            click.echo(f"{self.path}: of another configuration, data or code; training starts anew", err=True)
            self.path.unlink()
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # By way of memory: torch's own error where a disk is full does not say so.
        with whole(self.path) as unfinished, BytesIO() as buffer:
            torch.save({"fingerprint": self.fingerprint, "state": state}, buffer)
            unfinished.write_bytes(buffer.getbuffer())
