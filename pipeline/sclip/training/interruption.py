"""Handle SIGTERM, SIGHUP and Ctrl-C during training: finish the current step, save a checkpoint and exit.

A terminal that is closed sends SIGHUP. It is ignored under nohup.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sclip import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """Raised when a signal has asked the training to stop."""


class Interruption:
    """Record the signal that asks the training to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._may_raise = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGHUP:  # a shell sends it more than once
                return
            raise KeyboardInterrupt  # a second signal stops at once
        self.signal = number
        if self._may_raise:
            raise Interrupted

    def check(self) -> None:
        """Raise Interrupted if any process has received a signal."""
        if distributed.all_max(int(self.signal is not None)):
            raise Interrupted

    @contextmanager
    def may_interrupt(self) -> Iterator[None]:
        """Let a signal raise Interrupted anywhere in the block. The block must not change any saved state.

        With several processes a signal does not end the block, because the other processes would wait forever.
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
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals only to the main thread
        yield interruption
        return
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    handled = SIGNALS if ignores_hangup else (*SIGNALS, signal.SIGHUP)
    previous = {number: signal.signal(number, interruption.handle) for number in handled}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
