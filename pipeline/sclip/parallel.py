"""Work spread over processes, in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm.auto import tqdm

Job = TypeVar("Job")
Done = TypeVar("Done")


def spread(work: Callable[[Job], Done], jobs: Sequence[Job], title: str) -> Iterator[Done]:
    """Results in the order of the jobs, whatever the number of processes. A single job is done here."""
    if len(jobs) == 1:
        yield work(jobs[0])
        return
    context = multiprocessing.get_context("spawn")  # a forked child would inherit torch's locks, not its threads
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        yield from tqdm(pool.map(work, jobs), title, len(jobs), disable=None)
