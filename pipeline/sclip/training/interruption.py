"""SIGTERM and Ctrl-C during a training: finish the step at hand, save, leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from sclip import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """The training was asked to stop."""


class Interruption:
    """Remembers the signal that asked for a stop, if one came."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._may_raise = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # asked twice
            raise KeyboardInterrupt
        self.signal = number
        if self._may_raise:
            raise Interrupted

    def check(self, device: torch.device) -> None:
        """Raise Interrupted if any process was asked to stop."""
        if distributed.all_max(int(self.signal is not None), device):
            raise Interrupted

    @contextmanager
    def may_interrupt(self) -> Iterator[None]:
        """Let a signal end the block at once, which must change nothing that is saved.

        Of several processes none leaves alone: the others would wait for it.
        """
        self._may_raise = distributed.world_size() == 1
        try:
            if self._may_raise and self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._may_raise = False


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Yield an Interruption that receives this process's signals until the block ends."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread alone
        yield interruption
        return
    before = {number: signal.signal(number, interruption.handle) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
