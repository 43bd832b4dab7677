"""Thread pools that return results in order: prefetch data, and compute batches in parallel.

On a CPU, a reading thread takes a core from the computation, and a matrix product on all cores waits for the slowest
one. On two cores, a training step with a reading thread took up to twice as long. So on a CPU the computing thread
reads, and each core computes its own batches if batches do not depend on each other.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Data = TypeVar("Data")
Result = TypeVar("Result")

READERS = 8  # threads
PREFETCHED_BATCHES = 3
PARALLEL_BATCHES = 4  # on a CPU; all of them are in memory


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces of `size` items; the last may be shorter."""
    return (items[i : i + size] for i in range(0, len(items), size))


def prefetch_count(device: str | torch.device, count: int) -> int:
    """Return how many batches to prefetch for a device: `count`, or 0 for a CPU."""
    return 0 if torch.device(device).type == "cpu" else count


def prefetch(read: Callable[[Item], Data], items: Iterable[Item], count: int) -> Generator[Data, None, None]:
    """Yield `read` of each item, in order. One thread prefetches `count` items.

    With a count of 0 the calling thread reads, and reuses the memory that it has freed.
    """
    if count == 0:
        yield from map(read, items)
        return
    yield from map_in_threads(read, items, 1, count, drop=True)


def prefetch_batches(
    batches: Iterable[Sequence[Item]], read: Callable[[Item], Data]
) -> Iterator[tuple[Sequence[Item], list[Data]]]:
    """Yield each batch with `read` of its items, in order. Threads prefetch the next batches."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Sequence[Item], list[Future[Data]]]] = deque()
        for batch in batches:
            waiting.append((batch, [pool.submit(read, item) for item in batch]))
            if len(waiting) > PREFETCHED_BATCHES:
                batch, futures = waiting.popleft()
                yield batch, [future.result() for future in futures]
        for batch, futures in waiting:
            yield batch, [future.result() for future in futures]


def process_batches(
    batches: Iterable[Sequence[Item]],
    read: Callable[[Item], Data],
    compute: Callable[[Sequence[Item], list[Data]], Result],
    device: str | torch.device,
) -> Generator[Result, None, None]:
    """Yield `compute(batch, data)` of each batch, in order, where `data` is `read` of the batch's items."""
    if prefetch_count(device, PREFETCHED_BATCHES):
        yield from (compute(batch, data) for batch, data in prefetch_batches(batches, read))
    else:
        yield from map_on_cores(lambda batch: compute(batch, [read(item) for item in batch]), batches)


def map_on_cores(compute: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield `compute` of each item, in order, from several threads that divide torch's cores among them.

    Until the generator is closed, every torch operation of this process uses one thread's share of the cores.
    """
    cores = torch.get_num_threads()
    threads = _threads(cores)
    if threads == 1:
        yield from map(compute, items)
        return
    torch.set_num_threads(cores // threads)
    try:
        yield from map_in_threads(compute, items, threads, threads, drop=True)
    finally:
        torch.set_num_threads(cores)


def _threads(cores: int) -> int:
    """Return one thread per core, or, with too many cores for that, the number that leaves the fewest cores idle."""
    if cores <= PARALLEL_BATCHES:
        return cores
    return max(range(2, PARALLEL_BATCHES + 1), key=lambda threads: (cores // threads * threads, threads))


def map_in_threads(
    compute: Callable[[Item], Result], items: Iterable[Item], threads: int, count: int, drop: bool = False
) -> Iterator[Result]:
    """Yield `compute` of each item, in order, and prefetch up to `count` further items.

    If the iteration ends early, the prefetched items are still computed, so that, for example, every shard is written.
    With `drop`, only those that have already started are.
    """
    with ThreadPoolExecutor(threads) as pool:
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
