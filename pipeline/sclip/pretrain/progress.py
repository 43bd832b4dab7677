"""A long computation that can be killed at any moment and goes on from its last whole checkpoint."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

SECONDS = 60  # between checkpoints


class Progress:
    """Steps of a training whose randomness depends on (seed, step) alone, so that nothing else need be kept."""

    def __init__(self, path: Path, identity: dict[str, Any], parts: dict[str, Any]):
        """`parts` have state_dict and load_state_dict; a checkpoint of another `identity` is not gone on from."""
        self.path, self.identity, self.parts = path, identity, parts
        self.step, self.seconds = 0, 0.0
        if path.is_file():
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved["identity"] == identity:
                self.step, self.seconds = saved["step"], saved["seconds"]
                for name, part in parts.items():
                    part.load_state_dict(saved[name])

    def steps(self, total: int, title: str) -> Iterator[int]:
        """The steps still to do; each counts as done when the next is asked for."""
        started = saved = time.monotonic()
        before = self.seconds
        with tqdm(total=total, initial=self.step, desc=title, disable=None) as bar:
            for step in range(self.step, total):
                yield step
                self.step, now = step + 1, time.monotonic()
                self.seconds = before + now - started
                bar.update()
                if now - saved > SECONDS or self.step == total:
                    self.save()
                    saved = now

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".unfinished")
        states = {name: part.state_dict() for name, part in self.parts.items()}
        with unfinished.open("wb") as file:
            torch.save({"identity": self.identity, "step": self.step, "seconds": self.seconds, **states}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path)
