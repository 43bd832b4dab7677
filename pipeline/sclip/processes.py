"""Process pools that return results in order.

Python runs one thread at a time. A thread that launches a GPU's kernels lets go of Python's lock at every launch, and
then waits for each thread that has taken it meanwhile. Next to eight threads that decoded recordings, launching took
three times as long. So `extract-features` decodes recordings for a GPU in other processes.

This module does not import torch, which a process that decodes does not need, and which takes seconds to import.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.connection import wait
from typing import TypeVar

from tqdm.auto import tqdm

from sclip.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

READING_PROCESSES = 8  # at most
PREFETCHED = 3  # items, in addition to those that the processes work on


def map_in_processes(compute: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
    """Yield `compute` of each item, in order, from one process per core. A single item is computed in this process."""
    if len(items) == 1:
        yield compute(items[0])
        return
    with _pool(_cores()) as pool:
        yield from tqdm(pool.map(compute, items), title, len(items), disable=None)


def prefetch_in_processes(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `read` of each item, in order. Processes prefetch a few items, and stay for the next call."""
    try:
        yield from in_order(_readers(), read, items, _reading_processes() + PREFETCHED, drop=True)
    except BrokenProcessPool:
        _readers.cache_clear()
        raise UserError(
            "a process that reads recordings ended unexpectedly; if no lines above say why, the machine probably has "
            "too little memory: stop other programs, or set a smaller features.batch_seconds"
        ) from None


def in_order(
    pool: Executor, compute: Callable[[Item], Result], items: Iterable[Item], count: int, drop: bool = False
) -> Iterator[Result]:
    """Yield `compute` of each item, in order, from a pool that computes up to `count` further items in advance.

    If the iteration ends early, items in advance are still computed. With `drop`, only those that have started are.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(compute, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting if drop else ():
            future.cancel()


@cache
def _readers() -> ProcessPoolExecutor:
    return _pool(_reading_processes())


def _reading_processes() -> int:
    """Return how many processes read for this one: one per core, up to a limit.

    Under torchrun, the processes of a machine divide its cores.
    """
    cores = _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(READING_PROCESSES, cores))


def _pool(processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's locks without its threads
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)


def _cores() -> int:
    """Count the cores that this process may use: a job on a cluster often has a few cores of a large machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not macOS


def _end_with_parent() -> None:
    """Make this process ignore Ctrl+C, which its parent handles, and end when its parent ends or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
