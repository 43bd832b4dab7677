"""Thread pools: results come in order, prefetching is limited, and an error is raised at its item."""

import threading
import time

import pytest
import torch

from sclip.concurrency import (
    PREFETCHED_BATCHES,
    map_in_threads,
    map_on_cores,
    prefetch,
    prefetch_batches,
    prefetch_count,
)


class SlowReader:
    """A slow reader that returns an item's negative, and raises an error at item 35."""

    def __init__(self):
        self.count = 0

    def __call__(self, item):
        self.count += 1
        time.sleep(0.001)
        if item == 35:
            raise OSError("disk")
        return -item


@pytest.mark.parametrize("count", [0, 2])
def test_prefetched_items_come_in_order_up_to_the_error(count):
    reader, results = SlowReader(), []
    with pytest.raises(OSError, match="disk"):
        for result in prefetch(reader, range(100), count):
            results.append(result)
            assert reader.count <= len(results) + (count + 1 if count else 0)
    assert results == [-item for item in range(35)]


def test_prefetched_batches_come_in_order_up_to_the_error():
    reader, results = SlowReader(), []
    batches = [range(start, start + 5) for start in range(0, 100, 5)]
    with pytest.raises(OSError, match="disk"):
        for batch, data in prefetch_batches(batches, reader):
            assert data == [-item for item in batch]
            results += data
            assert reader.count <= len(results) + 5 * PREFETCHED_BATCHES
    assert results == [-item for item in range(35)]


def test_submitted_items_are_computed_when_the_iteration_fails():
    """Extraction relies on this: it writes every shard whose states are computed."""
    written = []

    def items():
        yield from (1, 2)
        raise KeyboardInterrupt

    def write(item):
        time.sleep(0.02)
        written.append(item)

    with pytest.raises(KeyboardInterrupt):
        list(map_in_threads(write, items(), threads=1, count=2))
    assert written == [1, 2]


@pytest.mark.parametrize(
    ("cpu_cores", "threads", "cores_each"), [(1, 1, 1), (3, 3, 1), (5, 4, 1), (7, 3, 2), (8, 4, 2)]
)
def test_up_to_four_threads_divide_the_cores_and_leave_the_fewest_idle(cores, cpu_cores, threads, cores_each):
    reader, results, thread_counts = SlowReader(), [], set()

    def compute(item):
        thread_counts.add(torch.get_num_threads())
        return reader(item)

    cores(cpu_cores)
    with pytest.raises(OSError, match="disk"):
        for result in map_on_cores(compute, range(100)):
            results.append(result)
            assert reader.count <= len(results) + threads + 1
    assert results == [-item for item in range(35)]
    assert thread_counts == {cores_each}
    assert torch.get_num_threads() == cpu_cores


def test_closing_a_prefetch_cancels_items_that_have_not_started():
    started, permits = [], threading.Semaphore(1)
    second_started = threading.Event()

    def read(item):
        started.append(item)
        if item == 1:
            second_started.set()
        permits.acquire()

    results = prefetch(read, range(100), count=3)
    next(results)
    second_started.wait()
    threading.Timer(0.1, permits.release, [100]).start()
    results.close()
    assert started == [0, 1]


def test_a_cpu_does_not_prefetch():
    assert (prefetch_count("cpu", 2), prefetch_count("cuda:0", 2)) == (0, 2)
