"""Distributed computation: N processes give the result of one."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from distributed_program import VARIANTS
from features.conftest import Corpus
from stored_corpus import write_corpus

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    corpus = Corpus(folder / "corpus")
    (corpus.folder / "3.wav").write_bytes(b"not a recording")
    corpus.record("5.wav", 22050, rate=44100)
    return write_corpus(folder), corpus.path


def run_program(inputs, out: Path, processes: int, machines: int = 1) -> Path:
    """Run distributed_program.py, and return the folder of its results.

    Each machine is simulated by one torchrun. They find each other as those of docs/slurm.sh do.
    """
    out.mkdir(parents=True, exist_ok=True)
    torchrun = [
        *("-m", "torch.distributed.run", "--nnodes", machines, "--nproc-per-node", processes // machines),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{_free_port()}", "--rdzv-id", "sclip"),
        *("--log-dir", out / "torchrun"),
    ]
    command = [sys.executable, *(torchrun if processes > 1 else ()), HERE / "distributed_program.py", *inputs, out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(machines) as pool:
        start = partial(subprocess.run, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
        completed = list(pool.map(start, [[*map(str, command)]] * machines))
    for process in completed:
        assert process.returncode == 0, process.stderr[-3000:]
    return out


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def single(inputs, tmp_path_factory):
    """The results of a single process."""
    return run_program(inputs, tmp_path_factory.mktemp("single"), 1)


@pytest.mark.parametrize(("count", "machines"), [(2, 1), (4, 2)])
def test_several_processes_give_the_result_of_one(count, machines, inputs, single, tmp_path):
    # One shard and the directions exist already. Another shard is incomplete, as if a process had been killed.
    (tmp_path / "features").mkdir()
    shards = sorted((single / "features").glob("*.safetensors"))
    for path in (shards[0], single / "features/directions.safetensors"):
        (tmp_path / "features" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "features" / f"{shards[1].name}.unfinished").write_bytes(shards[1].read_bytes()[:1000])
    several = run_program(inputs, tmp_path, count, machines)

    one, many = (torch.load(folder / "steps.pt") for folder in (single, several))
    assert (many["skipped"], many["notes"]) == (one["skipped"], one["notes"])
    assert len(one["skipped"]) == len(one["notes"]) == 1
    for variant in VARIANTS:
        expected, computed = one["steps"][variant], many["steps"][variant]
        assert expected.keys() == computed.keys()
        largest = max(float(t.abs().max()) for n, t in expected.items() if n.startswith("gradient") and t.numel())
        for name in expected:
            difference = (computed[name] - expected[name]).abs()
            allowed = 1e-5 * (expected[name].abs() + largest)
            assert bool((difference <= allowed).all()), f"{variant}: {name}: {difference.max()} apart"

    contents = [{p.name: p.read_bytes() for p in (f / "features").iterdir()} for f in (single, several)]
    assert contents[0] == contents[1]
    metrics = [json.loads((folder / "results/metrics.json").read_text()) for folder in (single, several)]
    assert metrics[0] == metrics[1]
    histories = [json.loads((folder / "model/history.json").read_text()) for folder in (single, several)]
    assert [row["step"] for row in histories[0]] == [row["step"] for row in histories[1]]


def test_a_batch_that_cannot_be_divided_is_refused(inputs, tmp_path):
    with pytest.raises(AssertionError, match="a batch of 16 utterances cannot be divided among 3 processes"):
        run_program(inputs, tmp_path, 3)
