"""Fifty seeded faults. `make torture` injects a thousand."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_fault_is_silently_wrong():
    """A Python of its own, with one thread, because the faults are injected into processes that are forked from it."""
    command = [sys.executable, "-m", "torture.run", "--faults", "50"]
    paths = [str(TESTS), str(TESTS.parent / "pipeline"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "injected 50: " in result.stdout and " 0 silently wrong" in result.stdout
