"""Reading ahead of what computes, and computing ahead of what writes, in threads beside each other.

On a CPU nothing runs beside what computes: a thread that reads or writes takes a core away, and every product waits for
the slowest of its own threads. On two cores that made a training step take up to twice as long, and the speech encoder
up to half as long again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Found = TypeVar("Found")

READERS = 8  # threads
BATCHES = 3  # in memory beside the one at hand


def ahead_on(device: str | torch.device, count: int) -> int:
    """How many to be ahead of what computes there."""
    return 0 if torch.device(device).type == "cpu" else count


def prefetched(read: Callable[[Item], Found], items: Iterable[Item], ahead: int) -> Iterator[Found]:
    """What `read` makes of each item, in order, from a thread that stays so many ahead; of none, from this one, whose
    freed memory it can take."""
    if ahead == 0:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Found]] = deque()
        for item in items:
            waiting.append(thread.submit(read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_ahead(
    batches: Iterable[Sequence[Item]], read: Callable[[Item], Found], ahead: int = BATCHES
) -> Iterator[tuple[Sequence[Item], list[Found]]]:
    """Each batch with what `read` makes of its items, in order, from threads that stay so many batches ahead; of none,
    a batch is read by all of them when it is asked for."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Sequence[Item], list[Future[Found]]]] = deque()
        for batch in batches:
            waiting.append((batch, [pool.submit(read, item) for item in batch]))
            if len(waiting) > ahead:
                batch, futures = waiting.popleft()
                yield batch, [future.result() for future in futures]
        for batch, futures in waiting:
            yield batch, [future.result() for future in futures]
