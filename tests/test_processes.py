"""Process pools: results come in order, an error is raised at its item, and no process outlives its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from process_task import FAILING, KILLED, arrays, fail_unreadably, read

from sclip import processes
from sclip.errors import UserError
from sclip.processes import map_in_processes, prefetch_in_processes


def test_processes_prefetch_a_few_items_in_order_up_to_the_error():
    taken, results = [], []
    with pytest.raises(UserError, match=r"^row 35: no such file$"):
        for result, process in prefetch_in_processes(read, (taken.append(i) or i for i in range(100))):
            results.append(result)
            assert process != os.getpid()
            assert len(taken) <= len(results) + processes._reading_processes()
    assert results == [-item for item in range(FAILING)]


def test_a_killed_reader_is_an_error_and_the_next_call_starts_others():
    with pytest.raises(UserError, match=r"ended unexpectedly; .* set a smaller features\.batch_seconds"):
        list(prefetch_in_processes(read, [1, KILLED]))
    assert [result for result, _ in prefetch_in_processes(read, [1, 2])] == [-1, -2]


def test_an_unexpected_error_says_where_it_was_raised():
    with pytest.raises(ZeroDivisionError, match=r"File \"<string>\", line 1"):
        list(prefetch_in_processes(eval, ["1 // 0"]))


def test_a_result_that_cannot_be_read_is_an_error():
    with pytest.raises(TypeError, match="missing 1 required"):
        list(prefetch_in_processes(fail_unreadably, [1]))


def test_arrays_arrive_as_they_are():
    """They are larger than the memory of a socket."""
    sizes = [3_000_000, 1, 999_999]
    for size, result in zip(sizes, prefetch_in_processes(arrays, sizes), strict=True):
        for actual, expected in zip(result, arrays(size), strict=True):
            np.testing.assert_array_equal(actual, expected, strict=True)
        assert result[0].flags.writeable


def test_a_pipe_that_ends_within_an_array_is_an_error():
    ours, other = (processes._Pipe(connection) for connection in multiprocessing.Pipe())
    other.connection.send((b"", [100]))
    other._socket.sendall(bytes(10))
    other.close()
    with pytest.raises(EOFError):
        ours.receive()


def test_a_process_that_is_killed_is_named_by_what_it_computes():
    with pytest.raises(UserError, match=r"a process that computes scenes ended unexpectedly; .* too little memory"):
        list(map_in_processes(read, [1, KILLED, 2], "scenes"))


def test_the_processes_of_torchrun_divide_the_cores(monkeypatch):
    monkeypatch.setattr("sclip.processes._cores", lambda: 12)
    assert processes._reading_processes() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # of a program that started this one
    assert processes._reading_processes() == 8
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "sclip")
    assert processes._reading_processes() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert processes._reading_processes() == 1


PROGRAM = """
import itertools, signal
from sclip.processes import prefetch_in_processes
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    try:
        for pid in prefetch_in_processes(eval, itertools.repeat("__import__('os').getpid()")):
            print(pid, flush=True)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_their_parent_and_without_a_traceback(tmp_path, sent):
    """Ctrl+C goes to the whole group of processes. Whoever kills a process may not know that it has others."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command, pipe = [sys.executable, tmp_path / "program.py"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as parent:
        readers = set[int]()
        while len(readers) < processes._reading_processes():
            readers.add(int(parent.stdout.readline()))
        (os.killpg if sent == signal.SIGINT else os.kill)(parent.pid, sent)
        _, errors = parent.communicate(timeout=60)
    stop = time.monotonic() + 30
    while any(map(is_running, readers)) and time.monotonic() < stop:
        time.sleep(0.05)
    assert not any(map(is_running, readers))
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "function", ["prefetch_in_processes(abs, itertools.repeat(1))", "map_in_processes(abs, [1] * 9, '')"]
)
def test_ctrl_c_while_processes_start_prints_no_traceback(tmp_path, function):
    """Another thread of the program receives it, as one of numpy's may."""
    (tmp_path / "program.py").write_text(
        f"""
import itertools, signal, sys, threading, time
from multiprocessing.process import BaseProcess
from sclip.processes import map_in_processes, prefetch_in_processes
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    start = BaseProcess.start
    def start_and_wait(process):
        start(process)
        print("started", flush=True)
        time.sleep(0.5)
    BaseProcess.start = start_and_wait
    try:
        for _ in {function}:
            pass
    except KeyboardInterrupt:
        sys.exit("stopped")
"""
    )
    command, pipe = [sys.executable, tmp_path / "program.py"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as parent:
        assert parent.stdout.readline() == "started\n"
        os.killpg(parent.pid, signal.SIGINT)
        try:
            _, errors = parent.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):  # which is the rule
                os.killpg(parent.pid, signal.SIGKILL)
    assert errors == "stopped\n"


def is_running(process):
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_that_decode_start_without_torch():
    program = (
        "import sys, sclip.corpora.recordings, sclip.corpora.rows, sclip.processes; sys.exit('torch' in sys.modules)"
    )
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
