"""A task for the processes of test_processes.py, which can import this module but not that one."""

import os
import signal
from typing import Any

import numpy as np

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


def arrays(size: int) -> list[Any]:
    """Return arrays of many kinds, among them two that a socket does not read at once."""
    large = np.arange(size, dtype=np.float32)
    read_only = np.arange(3)
    read_only.flags.writeable = False
    return [
        large,
        np.asfortranarray(large[: size // 4 * 4].reshape(4, -1)),
        np.empty(0),
        np.array(7),
        read_only,
        "text",
    ]
