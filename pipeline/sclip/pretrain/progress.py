"""A long computation that can be killed at any moment and goes on from its last whole checkpoint."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sclip.fingerprints import PRETRAINING, code_fingerprint
from sclip.training.checkpoints import Checkpoint

SECONDS = 60  # between checkpoints


class Progress:
    """Steps of a training whose randomness depends on (seed, step) alone, so that nothing else need be kept."""

    def __init__(self, path: Path, identity: dict[str, Any], parts: dict[str, Any]):
        """`parts` have state_dict and load_state_dict; a checkpoint of another `identity` is not gone on from."""
        whole = {**identity, "code": code_fingerprint(PRETRAINING), "torch": torch.__version__}
        self.checkpoint, self.parts = Checkpoint(path, whole), parts
        self.step, self.seconds = 0, 0.0
        saved = self.checkpoint.load()
        if saved is not None:
            self.step, self.seconds = saved["step"], saved["seconds"]
            for name, part in parts.items():
                part.load_state_dict(saved[name])

    def steps(self, total: int, title: str) -> Iterator[int]:
        """The steps still to do; each counts as done when the next is asked for."""
        saved = time.monotonic()
        started = saved - self.seconds
        with tqdm(total=total, initial=self.step, desc=title, disable=None) as bar:
            for step in range(self.step, total):
                yield step
                self.step, now = step + 1, time.monotonic()
                self.seconds = now - started
                bar.update()
                if now - saved > SECONDS or self.step == total:
                    self.save()
                    saved = now

    def save(self) -> None:
        states = {name: part.state_dict() for name, part in self.parts.items()}
        self.checkpoint.save({"step": self.step, "seconds": self.seconds, **states})
