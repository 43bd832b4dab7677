"""The start of a command: a faster import of large libraries, and the end by Ctrl-C."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

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
