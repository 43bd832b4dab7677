"""Ten thousand damaged inputs. `make fuzz` tries a million."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_damaged_inputs_are_read_or_refused():
    """A Python of its own, because each reader works in a process that is forked from it."""
    command = [sys.executable, "-m", "fuzz.run", "--inputs", "10000"]
    paths = [str(TESTS), str(TESTS.parent / "pipeline"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "10,000 inputs, 0 problems" in result.stdout
