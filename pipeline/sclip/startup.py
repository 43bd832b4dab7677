"""A faster start of the commands that need large libraries."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
