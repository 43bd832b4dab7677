"""The command line starts at once and says what it does."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

import sclip
from sclip.cli import main


def test_help_imports_no_torch():
    code = "import sys, sclip.cli; assert not {'torch', 'transformers', 'open_clip'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


MISTAKES = {
    "init setup.cfg/project": "setup.cfg/project: Not a directory",
    "train --arch hybrd": "recipes.sclip: no 'hybrd'; did you mean 'hybrid'?",
    "evaluate --arch hybrd": "recipes.sclip: no 'hybrd'; did you mean 'hybrid'?",
    "train --arch zzz": "recipes.sclip: no 'zzz'; expected one of parallel, cascaded, cascaded-cif, hybrid, hybrid-cif",
    "evaluate": "expected one of --arch and --model, found neither",
    "evaluate --arch parallel --model models/scenes-cif": "expected one of --arch and --model, found both",
    "evaluate --model models/scenes-cif --seed 5": "--seed 5: chooses a model of --arch, and a model folder has none",
    "train --arch parallel --preset scene": "presets: no 'scene'; did you mean 'scenes'?",
    "make-corpus scene": "presets: no 'scene'; did you mean 'scenes'?",
    "check-corpus --preset scene": "presets: no 'scene'; did you mean 'scenes'?",
    "plan scene": "presets: no 'scene'; did you mean 'scenes'?",
    "plan scenes --preset scenes-mfcc": "PRESET is scenes and --preset is scenes-mfcc; give one of them",
    "extract-features --preset scene": "presets: no 'scene'; did you mean 'scenes'?",
    "transcribe whisper scene": "presets: no 'scene'; did you mean 'scenes'?",
    "embed-clip --preset scene": "presets: no 'scene'; did you mean 'scenes'?",
    "verify --preset scene": "presets: no 'scene'; did you mean 'scenes'?",
    "report --preset scene": "presets: no 'scene'; did you mean 'scenes'?",
    "train --arch parallel --seed -1": "--seed -1: expected 0 to 4294967295",
    f"evaluate --arch parallel --seed {10**400}": "--seed 1000",
    "train --arch parallel --device tpu": "--device tpu: expected auto, cpu, cuda, mps or xpu, or one of several",
    "pretrain clip --device tpu": "--device tpu: expected auto, cpu, cuda, mps or xpu, or one of several",
    "bench -S run.seeds=[5000000000]": "params.yaml: run.seeds[0]: expected 0 to 4294967295, found 5000000000",
    "keywords none.wav": "none.wav: no such file (--on-error skip goes on without it)",
    "segment setup.cfg setup.cfg --format textgrid": "2 recordings need a file each; choose a folder with --out",
    "pretrain clip --params none/params.yaml": "none/params.yaml: no such file",
}


def test_full_memory_of_a_gpu_is_one_line_with_what_to_do(monkeypatch):
    def fill(*_):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.88 GiB "
            "is free. See documentation for Memory Management (https://pytorch.org/docs)\nException raised from malloc"
        )

    monkeypatch.setattr("sclip.bench.run.run_bench", fill)
    result = CliRunner().invoke(main, ["bench"])
    assert result.exit_code == 1
    expected = (
        "Error: CUDA out of memory. Tried to allocate 2.00 GiB. Use a GPU with more free memory, or set features."
    )
    assert result.output.startswith(expected)
    assert result.output.count("\n") == 1


def test_too_few_threads_are_one_line_with_what_to_do(monkeypatch):
    def start(*_):
        raise RuntimeError("can't start new thread")  # what Python's threads raise

    monkeypatch.setattr("sclip.bench.run.run_bench", start)
    result = CliRunner().invoke(main, ["bench"])
    assert result.output.startswith("Error: the system allows no more processes and threads. Stop other programs, or")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


@pytest.mark.parametrize("error", ["OSError('no libtorchaudio.so')", "RuntimeError('TorchAudio has another CUDA.')"])
def test_a_torchaudio_that_does_not_fit_is_one_line_with_what_to_do(error, tmp_path):
    """transformers wraps one of these errors in another."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio/__init__.py").write_text(f"raise {error}")
    search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "sclip", "keywords", "data/examples/dog.wav"]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": search}, stderr=subprocess.PIPE, text=True)
    found = f"torchaudio {version('torchaudio')} does not work with torch {version('torch')}"
    reason = error.split("'")[1].rstrip(".")
    assert ended.stderr.startswith(f"Error: {found}: {reason}. Install one that does: ")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


def test_a_mistake_is_one_line_and_imports_no_torch():
    code = f"""
import sys
from click.testing import CliRunner
from sclip.cli import main

for command, message in {MISTAKES!r}.items():
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 1, (command, result.output, result.exception)
    assert message in result.output, (command, result.output)
    assert result.output.count("\\n") == 1 and len(result.output) < 400, (command, result.output)
assert not {{"torch", "transformers", "open_clip"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_training_without_an_architecture_says_how_to_list_them():
    result = CliRunner().invoke(main, ["train"])
    assert result.exit_code == 2
    assert "Missing option '--arch'. `sclip list archs` lists the architectures of a preset" in result.output


def _commands(group, name=""):
    for own, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name}{own} ")
        else:
            yield f"{name}{own}", command


def _groups(group, name=""):
    yield name, group
    for own, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _groups(command, f"{name}{own} ")


def test_summaries_of_commands_are_whole():
    for name, group in _groups(main):
        lines = CliRunner().invoke(main, [*name.split(), "--help"], prog_name="sclip").output.splitlines()
        shown = {own: line.strip() for line in lines for own in line.split()[:1]}
        for own, command in group.commands.items():
            if not command.hidden:
                summary = command.short_help
                assert summary and len(summary) <= 55 and summary.endswith("."), (name, own)
                assert shown[own].split(maxsplit=1)[1] == summary


def test_the_default_branch_is_that_of_the_command():
    commands = dict(_commands(main))
    found = {name for name, command in commands.items() if any(o.name == "branch" for o in command.params)}
    assert found == {"index", "search", "embed", "benchmark mteb"}
    for name in found:
        text = " ".join(CliRunner().invoke(main, [*name.split(), "--help"]).output.split())
        default = "that of an index of recordings, else parallel" if name == "search" else "parallel"
        assert f"by its keywords (cascaded). [default: {default}]" in text


def test_every_command_of_a_preset_takes_it_as_an_argument_or_as_an_option():
    found = [name for name, command in _commands(main) if any(o.name == "preset" for o in command.params)]
    assert {"make-corpus", "verify", "extract-features", "train", "evaluate", "report", "list archs"} <= set(found)
    message = "presets: no 'scene'; did you mean 'scenes'?"
    needed = {"train": "--arch parallel", "evaluate": "--arch parallel", "transcribe": "whisper"}
    for name in found:
        for preset in ("scene", "--preset scene"):
            result = CliRunner().invoke(main, f"{name} {needed.get(name, '')} {preset}".split())
            assert (result.exit_code, message in result.output) == (1, True), (name, result.output)


# A process in the background ignores Ctrl-C, and so would its children.
LIKE_IN_A_TERMINAL = "import os, runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
INTERRUPTED_IMPORT = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
"""
INTERRUPTED_DEL = """
from sclip.startup import end_where_ctrl_c_is_dropped
class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
end_where_ctrl_c_is_dropped()
Interrupted()
"""


@pytest.mark.parametrize("module", ["click", "torch"])  # imported by all commands, and inside some
@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_during_an_import_ends_the_command(module, terminal, tmp_path):
    """A module that interrupts its own import stands in for a user who presses Ctrl-C at this moment.

    It drops the exception, as torch does while it imports numpy. Of `2>&1 | tee`, Ctrl-C ends the other end, too.
    """
    (tmp_path / f"{module}.py").write_text(INTERRUPTED_IMPORT)
    places = os.pathsep.join([str(tmp_path), str(Path(sclip.__file__).parents[1])])
    reader, writer = os.pipe()
    if not terminal:
        os.close(reader)
    run = subprocess.run(
        [sys.executable, "-c", f"{LIKE_IN_A_TERMINAL}runpy.run_module('sclip', run_name='__main__')", "bench"],
        env={**os.environ, "PYTHONPATH": places}, stdout=subprocess.PIPE, stderr=writer,
    )  # fmt: skip
    os.close(writer)
    assert (run.returncode, run.stdout) == (130, b"")
    if terminal:
        assert os.read(reader, 10_000) == b"\nstopped; to go on, run the same command again\n"
        os.close(reader)


def test_ctrl_c_while_an_object_is_removed_ends_the_process():
    """Python drops the exceptions of a `__del__`."""
    code = LIKE_IN_A_TERMINAL + INTERRUPTED_DEL + "print('went on')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "\nstopped; to go on, run the same command again\n")


def test_help_shows_the_arguments():
    result = CliRunner().invoke(main, ["import", "--help"])
    assert result.exit_code == 0
    assert "CHECKPOINT" in result.output


def test_log_lines_are_printed_once_even_when_a_library_logs_to_the_root_logger():
    code = """
import logging
from click.testing import CliRunner
from sclip.cli import main

@main.command("noisy")
def noisy():
    logging.info("a library that logs without a logger of its own")
    logging.warning("a warning")
    logging.getLogger("other").warning("another")
    logging.getLogger("printing").addHandler(logging.NullHandler())
    logging.getLogger("printing.part").warning("printed by itself")
    logging.getLogger("sclip.training.loop").info("step 20")

result = CliRunner().invoke(main, ["noisy"])
assert result.output.splitlines() == ["a warning", "another", "step 20"], result.output
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_what_a_terminal_cannot_print_is_escaped():
    command = [sys.executable, "-m", "sclip", "list", "archs"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "latin-1:strict"}
    printed = subprocess.run(command, env=environment, capture_output=True, check=True).stdout.decode("latin-1")
    assert re.search(r"cascaded-cif +\\u2013 +CIF", printed)
