"""A tiny project, copies of it before and after each stage, and stages in processes that are forked from this one.

A fork costs milliseconds, and a new Python would take seconds to import torch.
"""

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from project import TINY, write_encoders
from shipped import PARAMS
from small import clip_encoder, speech_encoder
from torture.faults import Injection, Injector

from sclip.cli import main

HUNG = 300.0  # seconds
ARCH = ("--arch", "hybrid-cif", "--seed", "0", "--device", "cpu")
MODEL, INDEX = "models/tiny/hybrid-cif/seed-0", "found.index"
STAGES = {
    "make-corpus": ("make-corpus", "tiny"),
    "extract-features": ("extract-features", "--device", "cpu"),
    "embed-clip": ("embed-clip", "--device", "cpu"),
    "train": ("train", *ARCH),
    "evaluate": ("evaluate", *ARCH),
    "report": ("report",),
    "index": ("index", "data", "--kind", "image", "--model", MODEL, "--out", INDEX, "--device", "cpu"),
}
OUTPUTS = ("data", "models", "results", INDEX)
TIMES = ("train/steps_a_second",)  # in the history of a training
# Folders of the curves that other programs show: they have times, and no stage reads anything but metrics.json.
CURVES = "curves"
CORPUS = {"pictures": {"train": 6, "dev": 2, "test": 3}, "captions": {"train": 1, "dev": 1, "test": 1}}


@dataclass
class Run:
    """A stage's process that has ended."""

    status: int  # negative: the signal
    output: str
    seconds: float
    hung: bool = False

    @property
    def crashed(self) -> bool:
        return self.hung or self.status == CRASH


CRASH = 70  # the exit status of a process with a traceback


@dataclass
class Started:
    pid: int
    log: Path
    began: float = field(default_factory=time.monotonic)

    def wait(self, kill_after: float | None = None) -> Run:
        """Wait until the process ends, and kill it after some seconds."""
        hung = False
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            seconds = time.monotonic() - self.began
            if pid:
                break
            if seconds > (HUNG if kill_after is None else kill_after):
                hung = kill_after is None
                os.kill(self.pid, signal.SIGKILL)
                kill_after = HUNG
            time.sleep(0.003)
        return Run(os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace"), seconds, hung)


def start(folder: Path, command: tuple[str, ...], injection: Injection | None = None, log: str = "log") -> Started:
    """Fork a process that runs a command of sclip in a folder."""
    path = folder.with_name(f"{folder.name}.{log}")
    path.touch()  # the process may be killed before it writes
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Started(pid, path)
    status = CRASH
    try:
        os.chdir(folder)
        with path.open("w") as file:
            for handle in (1, 2):
                os.dup2(file.fileno(), handle)
        sys.stdout, sys.stderr = (os.fdopen(handle, "w", buffering=1) for handle in (1, 2))
        if injection is not None:
            Injector(folder, injection).install()
        main(list(command))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


def run(folder: Path, command: tuple[str, ...], injection: Injection | None = None) -> Run:
    return start(folder, command, injection).wait()


def count(folder: Path, command: tuple[str, ...]) -> tuple[int, int]:
    """Return how many writes and reads a command does, in a forked process."""
    result = folder.with_name(f"{folder.name}.counts")
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        injector = Injector(folder, Injection(None, 0))
        injector.install()
        with contextlib.suppress(SystemExit):
            main(list(command))
        injector.paused = True
        result.write_text(json.dumps([injector.writes, injector.reads, sorted(sys.modules)]))
        os._exit(0)
    os.waitpid(pid, 0)
    writes, reads, modules = json.loads(result.read_text())
    for name in modules:  # so that later forks need not import them
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return writes, reads


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of each file that the stages have written, without the times of a training."""
    found = {}
    for top in OUTPUTS:
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and CURVES not in path.parts:
                found[str(path.relative_to(folder))] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name != "history.json":
        return data
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        rows = json.loads(data)
        return json.dumps([{key: row[key] for key in row if key not in TIMES} for row in rows]).encode()
    return data


@dataclass
class Stage:
    """What a fault needs to know about a stage: the project before and after it, and how long it takes."""

    name: str
    command: tuple[str, ...]
    before: Path
    after: Path
    expected: dict[str, str]  # contents of `after`
    writes: int
    reads: int
    seconds: float
    older: Path | None = None  # a project whose encoders had other weights, after this stage

    @property
    def outputs(self) -> list[str]:
        """Return the files that the stage writes."""
        return sorted(self.expected.keys() - contents(self.before).keys())


def prepare(folder: Path) -> dict[str, Stage]:
    """Run all stages undisturbed, twice, and return what each of them does."""
    # Several processes would each import all libraries; they have no say in the files.
    from sclip.apps import embedding
    from sclip.corpora.scenes import corpus

    corpus.map_in_processes = lambda compute, items, title: map(compute, items)
    embedding.IMAGES_AT_ONCE, embedding.BLOCK_SECONDS = 4, 0.0  # several blocks, as for many files
    work = folder / "work"  # stages run in one place, because an index has full paths
    project = write_project(folder / "project")
    stages = {}
    before = copy(project, folder / "before")
    for name, command in STAGES.items():
        copy(before, work)
        writes, reads = count(work, command)
        first = contents(work)
        shutil.rmtree(work)
        copy(before, work)
        ran = run(work, command)
        assert ran.status == 0, ran.output
        assert contents(work) == first, f"{name}: two undisturbed runs differ"
        after = copy(work, folder / f"after-{name}")
        shutil.rmtree(work)
        stages[name] = Stage(name, command, before, after, first, writes, reads, ran.seconds)
        before = after
    add_older(folder, stages)
    return stages


def add_older(folder: Path, stages: dict[str, Stage]) -> None:
    """Run the stages with other encoders, so that a fault can also happen while older outputs are replaced."""
    work, project = folder / "work", write_project(folder / "older")
    torch.manual_seed(1)
    for name, encoder in (("speech", speech_encoder()), ("clip", clip_encoder())):
        shutil.rmtree(project / name)
        encoder.save(project / name)
    copy(project, work)
    shutil.copytree(stages["make-corpus"].after / "data", work / "data")
    for name, stage in stages.items():
        if name not in ("make-corpus", "index"):  # an index that replaces an older one has another number
            ran = run(work, stage.command)
            assert ran.status == 0, ran.output
            stage.older = copy(work, folder / f"older-{name}")
    shutil.rmtree(work)


def write_project(project: Path) -> Path:
    """Write encoders and settings."""
    project.mkdir()
    write_encoders(project)
    params = yaml.safe_load(PARAMS.read_text())
    preset = TINY | {"corpus": TINY["corpus"] | CORPUS}
    params["presets"] = {"tiny": preset | {"training": TINY["training"] | {"batch": 4}}}
    params["run"] |= {"presets": ["tiny"], "architectures": ["hybrid-cif"], "seeds": [0]}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return project


def copy(project: Path, to: Path) -> Path:
    """Copy a project. What no stage writes, the encoders and settings, is linked."""
    to.mkdir()
    for path in project.iterdir():
        if path.name in OUTPUTS:
            shutil.copytree(path, to / path.name)
        else:
            (to / path.name).symlink_to(path.resolve())
    return to
