"""Process pools that return results in order.

Python runs one thread at a time. A thread that launches a GPU's kernels lets go of Python's lock at every launch, and
then waits for each thread that has taken it meanwhile. Next to eight threads that decoded recordings, launching took
three times as long. So `extract-features` decodes recordings for a GPU in other processes.

This module does not import torch, which a process that decodes does not need, and which takes seconds to import.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from sclip.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

READING_PROCESSES = 8  # at most


def map_in_processes(compute: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
    """Yield `compute` of each item, in order, from one process per core. A single item is computed in this process."""
    if len(items) == 1:
        yield compute(items[0])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_cores(), mp_context=context, initializer=_end_with_parent) as pool:
        try:
            with _without_interrupts():
                results = pool.map(compute, items)
            yield from tqdm(results, title, len(items), disable=None)
        except BrokenProcessPool:
            raise UserError(
                f"a process that computes {title} ended unexpectedly; if no lines above say why, the machine probably "
                "has too little memory: stop other programs, and run the same command again"
            ) from None


def prefetch_in_processes(read: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield `read` of each item, in order. Processes prefetch an item each, and stay for the next call."""
    readers = _idle.pop() if _idle else _Readers(_reading_processes())
    try:
        yield from readers.compute(read, items)
    except _Ended:
        raise UserError(
            "a process that reads recordings ended unexpectedly; if no lines above say why, the machine probably has "
            "too little memory: stop other programs, or set a smaller features.batch_seconds"
        ) from None
    _idle.append(readers)


class _Ended(Exception):
    """Raised when a process ended before it sent its result."""


class _Readers:
    """Processes that compute items in turns, one item at a time each, so that their results come in order.

    Ctrl+C may stop the calling thread anywhere, so it takes the results from a SimpleQueue, which allows that. An
    executor of `concurrent.futures` does not: when results came often, Ctrl+C sometimes left a lock of a future locked,
    and the program never ended.
    """

    def __init__(self, count: int):
        context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's locks, not its threads
        self._processes: list[BaseProcess] = []
        self._pipes: list[_Pipe] = []
        self._turns = SimpleQueue[_Pipe | None]()  # the pipes that a result will come from, in order
        self._results = SimpleQueue[tuple[Any, Exception | None]]()
        for _ in range(count):
            connection, other_end = context.Pipe()
            process = context.Process(target=_serve, args=(other_end,), daemon=True)
            with _without_interrupts():
                process.start()
            other_end.close()
            self._processes.append(process)
            self._pipes.append(_Pipe(connection))
        threading.Thread(target=self._receive, daemon=True).start()

    def compute(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function` of each item. If the iteration ends early, the processes end too."""
        pipes, waiting = cycle(self._pipes), 0
        try:
            for item in items:
                if waiting == len(self._pipes):
                    waiting -= 1
                    yield self._next_result()
                self._send(next(pipes), function, item)
                waiting += 1
            while waiting:
                waiting -= 1
                yield self._next_result()
        except BaseException:
            self._stop()
            raise

    def _send(self, pipe: "_Pipe", function: Callable[[Item], Result], item: Item) -> None:
        try:
            pipe.connection.send((function, item))
        except OSError:
            raise _Ended from None
        self._turns.put(pipe)

    def _next_result(self) -> Any:
        result, error = self._results.get()
        if error is not None:
            raise error
        return result

    def _receive(self) -> None:
        for pipe in iter(self._turns.get, None):
            self._results.put(_received(pipe))
        for pipe in self._pipes:
            pipe.close()

    def _stop(self) -> None:
        """Let each process finish its item, and end."""
        self._turns.put(None)
        for process in self._processes:
            process.join()


_idle: list[_Readers] = []


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes without SIGINT: Ctrl+C goes to all processes of a terminal, and the parent handles it.

    SIGINT is blocked in this thread, and the processes inherit this. Another thread may still receive it. So until the
    processes have started, the handler only records it; then it is raised again.
    """
    resource_tracker.ensure_running()  # starting it would let SIGINT through again
    received: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    replaced = callable(handler) and threading.current_thread() is threading.main_thread()
    if replaced:
        signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the processes inherit this
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if replaced:
            signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


class _Pipe:
    """An end of a pipe, which sends the arrays of a message after the rest of it.

    A `Connection` reads in pieces, takes Python's lock for each piece, and copies it. A socket, which the pipe is made
    of, reads an array into its memory while other threads run.
    """

    def __init__(self, connection: Connection):
        self.connection, self._socket = connection, socket.socket(fileno=os.dup(connection.fileno()))

    def send(self, message: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        self.connection.send((pickled, [array.nbytes for array in arrays]))
        for array in arrays:
            self._socket.sendall(array)

    def receive(self) -> Any:
        pickled, sizes = self.connection.recv()
        arrays = [np.empty(size, np.uint8) for size in sizes]
        for array in arrays:
            unread = array.data
            while unread:
                count = self._socket.recv_into(unread, flags=socket.MSG_WAITALL)
                if count == 0:
                    raise EOFError
                unread = unread[count:]
        return pickle.loads(pickled, buffers=arrays)

    def close(self) -> None:
        self.connection.close()
        self._socket.close()


def _received(pipe: _Pipe) -> tuple[Any, Exception | None]:
    """Wait for the outcome of an item."""
    try:
        outcome: tuple[Any, Exception | None] = pipe.receive()
    except (EOFError, OSError):
        return None, _Ended()
    except Exception as error:  # too little memory, for example
        return None, error
    return outcome


def _serve(connection: Connection) -> None:
    """Compute items until the other end is closed, or its process has ended."""
    pipe = _Pipe(connection)
    with suppress(EOFError, OSError):
        while True:
            pipe.send(_outcome(connection.recv_bytes()))


def _outcome(task: bytes) -> tuple[Any, Exception | None]:
    try:
        function, item = pickle.loads(task)
        return function(item), None
    except Exception as error:
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())  # where it was raised in this process
        return None, error


def _reading_processes() -> int:
    """Return how many processes read for this one: one per core, up to a limit.

    Under torchrun, the processes of a machine divide its cores.
    """
    started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    cores = _cores() // (int(os.environ["LOCAL_WORLD_SIZE"]) if started_by_torchrun else 1)
    return max(1, min(READING_PROCESSES, cores))


def _cores() -> int:
    """Count the cores that this process may use: a job on a cluster often has a few cores of a large machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not macOS


def _end_with_parent() -> None:
    """Make this process end when its parent ends or is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
