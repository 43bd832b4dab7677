"""No test reaches for a network. The same examples on every CI run, new ones at every desk."""

import logging
import os

import isolation  # first, because libraries read the environment when they are imported
import pytest
import torch
from hypothesis import settings

from sclip.device import configure_cuda

configure_cuda()  # as every command does
logging.getLogger("sclip").setLevel(logging.INFO)  # likewise
settings.register_profile("desk", deadline=None)  # other programs may make a test slow
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture
def cores():
    """Has torch compute on so many, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def bf16(monkeypatch):
    """Compute in bf16 on any CPU, as far as one test is concerned."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def pytest_unconfigure():
    """Remove the folder here, because a process of pytest-xdist ends without the functions of atexit."""
    isolation.SCRATCH.cleanup()


def pytest_collection_modifyitems(items):
    """Skip the tests that need a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape half surrogate pairs in captured text. A process of pytest-xdist cannot send them to the main process."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter, config):
    """Print a table of the tests on a GPU, with what they measured."""
    if config.option.markexpr != "gpu":
        return
    if torch.cuda.is_available():
        terminalreporter.section(torch.cuda.get_device_name())
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.partition("::")[2] or report.nodeid  # a module that is skipped has no tests
            figures = ", ".join(f"{name}: {value}" for name, value in getattr(report, "user_properties", ()))
            line = f"{outcome:8} {getattr(report, 'duration', 0.0):6.2f} s  {name}  {figures}"
            terminalreporter.write_line(line.rstrip())
