"""The start of a command: a faster import of large libraries, and the end by Ctrl-C."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPED = "\nstopped; to go on, run the same command again"  # after Ctrl-C; it may stand next to a progress bar
STOPPED_STATUS = 130  # the exit status after Ctrl-C, as shells have it


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause the garbage collector while libraries are imported.

    An import of torch and transformers makes a million objects and drops hardly any. The collector would search all of
    them again and again, for a sixth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def end_where_ctrl_c_is_dropped() -> None:
    """Make Ctrl-C end the process at once where a KeyboardInterrupt would be dropped. Elsewhere it raises one as usual.

    Some libraries drop it while they are imported, or abort. torch goes on with a numpy that is imported in part, and
    fails later. Python drops it in a `__del__`. A process that ignores Ctrl-C, like one in the background, still does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    place = frame
    while place is not None:
        if place.f_code.co_filename.startswith("<frozen importlib") or place.f_code.co_name == "__del__":
            with suppress(OSError):  # of `2>&1 | tee`: Ctrl-C has ended tee, too
                os.write(2, f"{STOPPED}\n".encode())
            os._exit(STOPPED_STATUS)
        place = place.f_back
    signal.default_int_handler(number, frame)
