"""Reading ahead of what computes, and computing ahead of what writes, in threads beside each other.

On a CPU who reads takes a core from who computes, and a product that all cores share waits for the slowest of them: on
two cores a training step with a reader beside it took up to twice as long. So there a step reads for itself, and where
results do not depend on each other every core makes its own.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Found = TypeVar("Found")
Made = TypeVar("Made")

READERS = 8  # threads
BATCHES = 3  # in memory beside the one at hand
ABREAST = 4  # batches that a CPU computes at once, all in memory


def ahead_on(device: str | torch.device, count: int) -> int:
    """How many to be ahead of what computes there."""
    return 0 if torch.device(device).type == "cpu" else count


def prefetched(read: Callable[[Item], Found], items: Iterable[Item], ahead: int) -> Iterator[Found]:
    """What `read` makes of each item, in order, from a thread that stays so many ahead; of none, from this one, whose
    freed memory it can take."""
    if ahead == 0:
        yield from map(read, items)
        return
    yield from in_order(read, items, 1, ahead, drop=True)


def abreast(
    compute: Callable[[Item], Found], items: Iterable[Item], at_most: int = ABREAST
) -> Generator[Found, None, None]:
    """What `compute` makes of each item on a CPU, in order, from several threads that divide the cores among them.
    Until it is closed torch has no more cores for anyone."""
    cores = torch.get_num_threads()
    threads = _threads(cores, at_most)
    if threads == 1:
        yield from map(compute, items)  # in this thread
        return
    torch.set_num_threads(cores // threads)
    try:
        yield from in_order(compute, items, threads, threads, drop=True)
    finally:
        torch.set_num_threads(cores)


def _threads(cores: int, at_most: int) -> int:
    """A thread a core. Where there are more cores: so many from 2 on that the fewest are left over, or the more."""
    if cores <= at_most:
        return cores
    return max(range(min(2, at_most), at_most + 1), key=lambda threads: (cores // threads * threads, threads))


def computed(
    batches: Iterable[Sequence[Item]],
    read: Callable[[Item], Found],
    compute: Callable[[Sequence[Item], list[Found]], Made],
    device: str | torch.device,
    abreast_at_most: int = ABREAST,
) -> Generator[Made, None, None]:
    """What `compute` makes of each batch and of what `read` makes of its items, in order."""
    ahead = ahead_on(device, BATCHES)
    if ahead:
        yield from (compute(batch, found) for batch, found in read_ahead(batches, read, ahead))
    else:
        yield from abreast(lambda batch: compute(batch, [read(item) for item in batch]), batches, abreast_at_most)


def in_order(
    make: Callable[[Item], Found], items: Iterable[Item], threads: int, ahead: int, drop: bool = False
) -> Iterator[Found]:
    """What `make` makes of each item, from `threads` threads; up to `ahead` of them are made, or in the making, beyond
    the one asked for. Where it ends early these are made all the same (a shard is written), or, to `drop` them, those
    alone that are in the making."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Found]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # when one fails, or no more are asked for
            for future in waiting if drop else ():
                future.cancel()


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
