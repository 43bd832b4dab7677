"""setup.cfg says which versions work, constraints.txt which of them `make` installs."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def requirements(text: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {found.name: found for found in map(Requirement, filter(None, lines))}


def required() -> dict[str, Requirement]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return requirements(setup["options"]["install_requires"])


def pinned() -> dict[str, str]:
    """The first version that each constraint allows: 2.11.0 of `torch==2.11.*`."""
    found = requirements((ROOT / "constraints.txt").read_text())
    assert all(re.fullmatch(r"==[\d.]+\.\*", str(pin.specifier)) for pin in found.values())
    return {name: str(pin.specifier)[2:].replace("*", "0") for name, pin in found.items()}


def test_pinned_versions_lie_in_the_ranges_of_setup_cfg():
    ranges, pins = required(), pinned()
    assert {"torch", "torchaudio", "torchvision", "transformers"} <= pins.keys() <= ranges.keys()
    for name, version in pins.items():
        assert ranges[name].specifier.contains(version), f"{name} {version}"


def test_ranges_allow_the_versions_that_were_tried():
    """torch 2.15 fails at the import of torchaudio 2.11, its last release."""
    tried = {"torch": "2.14.1", "torchvision": "0.29.1", "torchaudio": "2.11.0", "transformers": "5.24.0"}
    assert all(required()[name].specifier.contains(version) for name, version in tried.items())
    assert not required()["torch"].specifier.contains("2.15.0")


def test_make_installs_the_pinned_versions():
    rule = re.search(r"^\.venv/installed:(.*)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    assert "constraints.txt" in rule[1].split()  # a change of it installs again
    assert re.search(r"pip install .*--constraint constraints\.txt .*--editable", rule[2])
