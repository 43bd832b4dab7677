"""A training loop that can be interrupted at any time and resumes from its last checkpoint."""

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
    """The steps of a training, with checkpoints.

    Randomness must depend on the seed and the step only, because a checkpoint does not store the state of a generator.
    """

    def __init__(self, path: Path, identity: dict[str, Any], parts: dict[str, Any]):
        """Resume from the checkpoint at `path`, unless it has another `identity`.

        `parts` have state_dict and load_state_dict.
        """
        full_identity = {**identity, "code": code_fingerprint(PRETRAINING), "torch": torch.__version__}
        self.checkpoint, self.parts = Checkpoint(path, full_identity), parts
        self.step, self.seconds = 0, 0.0
        saved = self.checkpoint.load()
        if saved is not None:
            self.step, self.seconds = saved["step"], saved["seconds"]
            for name, part in parts.items():
                part.load_state_dict(saved[name])

    def steps(self, total: int, title: str) -> Iterator[int]:
        """Yield the remaining steps. A step counts as done when the caller requests the next one."""
        last_save = time.monotonic()
        start = last_save - self.seconds
        with tqdm(total=total, initial=self.step, desc=title, disable=None) as bar:
            for step in range(self.step, total):
                yield step
                self.step, now = step + 1, time.monotonic()
                self.seconds = now - start
                bar.update()
                if now - last_save > SECONDS or self.step == total:
                    self.save()
                    last_save = now

    def save(self) -> None:
        states = {name: part.state_dict() for name, part in self.parts.items()}
        self.checkpoint.save({"step": self.step, "seconds": self.seconds, **states})
