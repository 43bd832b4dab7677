"""What is made ahead comes in order, from not far ahead, and an error arrives at its item."""

import threading
import time

import pytest
import torch

from sclip.concurrency import map_in_threads, map_on_cores, prefetch, prefetch_batches, prefetch_count


class Slow:
    """Reads an item as its negative, and fails at the 35th."""

    def __init__(self):
        self.read = 0

    def __call__(self, item):
        self.read += 1
        time.sleep(0.001)
        if item == 35:
            raise OSError("disk")
        return -item


@pytest.mark.parametrize("ahead", [0, 2])
def test_items(ahead):
    slow, got = Slow(), []
    with pytest.raises(OSError, match="disk"):
        for found in prefetch(slow, range(100), ahead):
            got.append(found)
            assert slow.read <= len(got) + (ahead + 1 if ahead else 0)
    assert got == [-item for item in range(35)]


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches(ahead):
    slow, got = Slow(), []
    batches = [range(start, start + 5) for start in range(0, 100, 5)]
    with pytest.raises(OSError, match="disk"):
        for batch, found in prefetch_batches(batches, slow, ahead):
            assert found == [-item for item in batch]
            got += found
            assert slow.read <= len(got) + 5 * ahead
    assert got == [-item for item in range(35)]


def test_what_was_handed_over_is_made_though_the_next_fails():
    """A shard whose states are computed is written."""
    made = []

    def items():
        yield from (1, 2)
        raise KeyboardInterrupt

    def write(item):
        time.sleep(0.02)
        made.append(item)

    with pytest.raises(KeyboardInterrupt):
        list(map_in_threads(write, items(), threads=1, count=2))
    assert made == [1, 2]


@pytest.mark.parametrize(("count", "threads", "each"), [(1, 1, 1), (3, 3, 1), (5, 4, 1), (7, 3, 2), (8, 4, 2)])
def test_a_cpu_s_cores(cores, count, threads, each):
    """Each makes an item of its own, up to four; more of them go together, and as few as can be stay idle."""
    slow, got, together = Slow(), [], set()

    def make(item):
        together.add(torch.get_num_threads())
        return slow(item)

    cores(count)
    with pytest.raises(OSError, match="disk"):
        for found in map_on_cores(make, range(100)):
            got.append(found)
            assert slow.read <= len(got) + threads + 1
    assert got == [-item for item in range(35)]
    assert together == {each}
    assert torch.get_num_threads() == count


def test_what_waits_is_given_up_with_the_rest():
    begun, go_on = [], threading.Semaphore(1)
    second = threading.Event()

    def make(item):
        begun.append(item)
        if item == 1:
            second.set()
        go_on.acquire()

    found = prefetch(make, range(100), count=3)
    next(found)
    second.wait()
    threading.Timer(0.1, go_on.release, [100]).start()
    found.close()
    assert begun == [0, 1]


def test_nothing_is_read_beside_a_cpu_s_products():
    assert (prefetch_count("cpu", 2), prefetch_count("cuda:0", 2)) == (0, 2)
