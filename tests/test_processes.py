"""Process pools: results come in order, an error is raised at its item, and no process outlives its parent."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from process_task import FAILING, KILLED, read

from sclip import processes
from sclip.errors import UserError
from sclip.processes import PREFETCHED, READERS, map_in_processes, prefetch_in_processes


def test_processes_prefetch_a_few_items_in_order_up_to_the_error():
    taken, results = [], []
    with pytest.raises(UserError, match=r"^row 35: no such file$"):
        for result, process in prefetch_in_processes(read, (taken.append(i) or i for i in range(100))):
            results.append(result)
            assert process != os.getpid()
            assert len(taken) <= len(results) + READERS + PREFETCHED
    assert results == [-item for item in range(FAILING)]


def test_a_reader_that_is_killed_is_an_error_of_the_machine():
    with pytest.raises(UserError, match=r"was killed, probably because .* set a smaller features\.batch_seconds"):
        list(prefetch_in_processes(read, [1, KILLED]))
    processes._readers.cache_clear()


PROGRAM = """
import os
from sclip.processes import prefetch_in_processes
if __name__ == "__main__":
    for pid in prefetch_in_processes(eval, ["__import__('os').getpid()", "__import__('time').sleep(60)"]):
        print(pid, flush=True)
"""


def test_processes_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True) as parent:
        reader = int(parent.stdout.readline())
        parent.kill()
    stop = time.monotonic() + 30
    while is_running(reader) and time.monotonic() < stop:
        time.sleep(0.05)
    assert not is_running(reader)


def is_running(process):
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_that_decode_start_without_torch():
    program = "import sys, sclip.corpora.recordings, sclip.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_job_with_three_cores_of_a_machine_starts_three_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 9, 40}, raising=False)
    started = []

    def pool(count, mp_context, initializer):
        started.append((count, mp_context, initializer))
        return ThreadPoolExecutor(count)

    monkeypatch.setattr("sclip.processes.ProcessPoolExecutor", pool)
    assert list(map_in_processes(abs, [-1, 2, -3], "numbers")) == [1, 2, 3]
    assert [count for count, _, _ in started] == [3]
