"""docs/slurm.sh hands SLURM's warning to the running command, waits until its state is saved, and requeues the job."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs/slurm.sh"
# Programs that note how they were called. srun saves its state half a second after a signal.
PROGRAMS = {
    "scontrol": '[ "$1" = show ] && echo machine-1 || echo "scontrol $*" >> calls',
    "sclip": 'echo "sclip $*" >> calls',
    "srun": """echo "srun ${*##* sclip }" >> calls
trap 'sleep 0.5; echo saved >> calls; exit 143' TERM
case "$*" in *" $WAITS_AT "*) touch waiting; while true; do sleep 0.05; done;; esac""",
}


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, code in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    monkeypatch.chdir(tmp_path)
    numbers = {"SLURM_JOB_NODELIST": "x", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "17"}

    def start(waits_at: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
        env = {**os.environ, **numbers, "PATH": path, "WAITS_AT": waits_at}
        return subprocess.Popen(["bash", str(SCRIPT), "tiny", "parallel"], env=env)

    return start


def calls() -> list[str]:
    return Path("calls").read_text().splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_all_stages_run_in_order(job):
    assert job("nothing").wait() == 0
    stages = [next(word for word in line.split() if word in STAGES) for line in calls()]
    assert stages == STAGES


STAGES = ["make-corpus", "extract-features", "embed-clip", "train", "evaluate", "report"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("stage", ["extract-features", "train"])
def test_a_warning_saves_the_state_and_requeues_the_job(job, stage):
    running = job(stage)
    while not Path("waiting").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 0
    assert calls()[-2:] == ["saved", "scontrol requeue 17"]
    assert stage in calls()[-3]
