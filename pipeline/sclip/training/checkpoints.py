"""What an interrupted training goes on from: one file, whole or not there, that knows what it belongs to."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from sclip import processes


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
        unfinished = self.path.with_name(self.path.name + ".unfinished")
        with unfinished.open("wb") as file:
            torch.save({"fingerprint": self.fingerprint, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path)
