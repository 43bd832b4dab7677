"""N processes give the result of one."""

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
from features.conftest import Corpus
from several import VARIANTS
from stored_corpus import write_corpus as keep

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    corpus = Corpus(folder / "corpus")
    (corpus.folder / "3.wav").write_bytes(b"not a recording")
    corpus.record("5.wav", 22050, rate=44100)
    return keep(folder), corpus.path


def result(inputs, out: Path, processes: int, machines: int = 1) -> Path:
    """Of several machines each is played by a torchrun of its own, which finds the others as docs/slurm.sh's do."""
    out.mkdir(parents=True, exist_ok=True)
    torchrun = [
        *("-m", "torch.distributed.run", "--nnodes", machines, "--nproc-per-node", processes // machines),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{_free_port()}", "--rdzv-id", "sclip"),
    ]
    command = [sys.executable, *(torchrun if processes > 1 else ()), HERE / "several.py", *inputs, out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(machines) as pool:
        start = partial(subprocess.run, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
        all_done = list(pool.map(start, [[*map(str, command)]] * machines))
    for done in all_done:
        assert done.returncode == 0, done.stderr[-3000:]
    return out


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    return result(inputs, tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.parametrize(("count", "machines"), [(2, 1), (4, 2)])
def test_as_one(count, machines, inputs, alone, tmp_path):
    # Two shards were there already, and one that a lost process left half.
    (tmp_path / "features").mkdir()
    shards = sorted((alone / "features").glob("*.safetensors"))
    for path in (shards[0], alone / "features/directions.safetensors"):
        (tmp_path / "features" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "features" / f"{shards[1].name}.unfinished").write_bytes(shards[1].read_bytes()[:1000])
    several = result(inputs, tmp_path, count, machines)

    one, many = (torch.load(folder / "found.pt") for folder in (alone, several))
    assert (many["skipped"], many["notes"]) == (one["skipped"], one["notes"])
    assert len(one["skipped"]) == len(one["notes"]) == 1
    for variant in VARIANTS:
        wanted, found = one["steps"][variant], many["steps"][variant]
        assert wanted.keys() == found.keys()
        largest = max(float(t.abs().max()) for n, t in wanted.items() if n.startswith("gradient") and t.numel())
        for name in wanted:
            difference = (found[name] - wanted[name]).abs()
            allowed = 1e-5 * (wanted[name].abs() + largest)
            assert bool((difference <= allowed).all()), f"{variant}: {name}: {difference.max()} apart"

    contents = [{p.name: p.read_bytes() for p in (f / "features").iterdir()} for f in (alone, several)]
    assert contents[0] == contents[1]
    metrics = [json.loads((folder / "results/metrics.json").read_text()) for folder in (alone, several)]
    assert metrics[0] == metrics[1]
    histories = [json.loads((folder / "model/history.json").read_text()) for folder in (alone, several)]
    assert [row["step"] for row in histories[0]] == [row["step"] for row in histories[1]]


def test_a_batch_that_cannot_be_divided(inputs, tmp_path):
    with pytest.raises(AssertionError, match="a batch of 16 utterances cannot be divided among 3 processes"):
        result(inputs, tmp_path, 3)
