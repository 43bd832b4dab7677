"""A task for the processes of test_processes.py, which can import this module but not that one."""

import os
import signal

from sclip.errors import UserError

FAILING, KILLED = 35, 1000


def read(item: int) -> tuple[int, int]:
    """Return the negative of an item, and this process. FAILING raises an error, and KILLED kills the process."""
    if item == FAILING:
        raise UserError(f"row {item}: no such file")
    if item == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    return -item, os.getpid()


class Unreadable(Exception):
    """An exception that pickle writes and cannot read."""

    def __init__(self, first: int, second: int):
        super().__init__(first)


def fail_unreadably(item: int) -> None:
    raise Unreadable(item, item)
