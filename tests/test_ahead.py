"""What is read ahead comes in order, from not far ahead, and a reader's error arrives at its item."""

import time

import pytest

from sclip.ahead import ahead_on, prefetched, read_ahead


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
        for found in prefetched(slow, range(100), ahead):
            got.append(found)
            assert slow.read <= len(got) + (ahead + 1 if ahead else 0)
    assert got == [-item for item in range(35)]


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches(ahead):
    slow, got = Slow(), []
    batches = [range(start, start + 5) for start in range(0, 100, 5)]
    with pytest.raises(OSError, match="disk"):
        for batch, found in read_ahead(batches, slow, ahead):
            assert found == [-item for item in batch]
            got += found
            assert slow.read <= len(got) + 5 * ahead
    assert got == [-item for item in range(35)]


def test_nothing_runs_beside_a_cpu_s_products():
    assert (ahead_on("cpu", 2), ahead_on("cuda:0", 2)) == (0, 2)
