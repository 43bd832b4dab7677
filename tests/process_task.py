"""A task for test_processes.py. Spawned processes import it, and they cannot import a module of tests."""

import os
import signal

from sclip.errors import UserError

FAILING, KILLED = 35, 1000


def read(item: int) -> tuple[int, int]:
    """Return an item's negative and the process; raise an error or kill the process at one item each."""
    if item == FAILING:
        raise UserError(f"row {item}: no such file")
    if item == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    return -item, os.getpid()
