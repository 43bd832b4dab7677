"""setup.cfg says which versions work, constraints.txt which of them `make` installs, the docs which were tried."""

import configparser
import re
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def requirements(text: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {found.name: found for found in map(Requirement, filter(None, lines))}


def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def required() -> dict[str, Requirement]:
    return requirements(setup()["options"]["install_requires"])


def extra(name: str) -> dict[str, Requirement]:
    return requirements(setup()["options.extras_require"][name])


def pinned() -> dict[str, str]:
    """Return the version of each package in constraints.txt, which must be exact."""
    found = requirements((ROOT / "constraints.txt").read_text())
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in found.values())
    return {canonicalize_name(name): str(pin.specifier)[2:] for name, pin in found.items()}


def add_needed(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> None:
    """Add a package to `found`, and what it needs on this machine if its installed version is the pinned one."""
    if (name, extras) in found:
        return
    found.add((name, extras))
    if name != "sclip" and version(name) != pinned().get(name):
        return
    for one in map(Requirement, requires(name) or []):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            add_needed(canonicalize_name(one.name), frozenset(one.extras), found)


def tried() -> dict[str, tuple[str, str, str]]:
    """Return the versions with which the tests were run: the oldest, the pinned and the newest one of each library."""
    table = (ROOT / "docs/development.md").read_text().partition("\n## Versions\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    return {name: (oldest, pin, newest) for name, oldest, pin, newest in rows}


def test_pinned_versions_lie_in_the_ranges_of_setup_cfg():
    pins = pinned()
    for name, one in (required() | extra("dev")).items():
        assert one.specifier.contains(pins[canonicalize_name(name)]), name


def test_every_package_that_an_installation_needs_is_pinned():
    found = set()
    add_needed("sclip", frozenset({"dev"}), found)
    assert {name for name, _ in found} - {"sclip"} <= pinned().keys()


def test_ranges_start_at_the_oldest_versions_that_were_tried_and_allow_the_newest():
    """The import of torchaudio 2.11.0 fails with torch 2.15, and that of torchaudio 2.11.1 with torch 2.11."""
    ranges = required() | extra("parquet") | extra("faiss")
    versions = tried()
    python = versions.pop("Python")
    exact = {name for name, one in ranges.items() if str(one.specifier).startswith("==")}  # data in a package
    assert versions.keys() == ranges.keys() - exact
    for name, (oldest, pin, newest) in versions.items():
        (start,) = (part.version for part in ranges[name].specifier if part.operator == ">=")
        assert Version(start) == Version(oldest), name
        assert all(ranges[name].specifier.contains(version) for version in (pin, newest)), name
    pins = pinned()
    assert {name: pins[canonicalize_name(name)] for name in versions} == {
        name: pin for name, (_, pin, _) in versions.items()
    }
    assert not ranges["torchaudio"].specifier.contains("2.11.1")
    assert not ranges["torch"].specifier.contains("2.15.0")

    first, last = (version.rpartition(".")[0] for version in (python[0], python[2]))
    assert setup()["options"]["python_requires"] == f">={first}"
    classifiers = re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])
    assert (classifiers[0], classifiers[-1]) == (first, last)


def test_extras_for_development_have_the_same_ranges():
    assert {name: str(one) for name, one in extra("dev").items()}.items() >= {
        name: str(one) for name, one in (extra("parquet") | extra("faiss")).items()
    }.items()


def test_make_installs_the_pinned_versions():
    rule = re.search(r"^\.venv/installed:(.*)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    assert "constraints.txt" in rule[1].split()  # a change of it installs again
    assert re.search(r"pip install .*--constraint constraints\.txt .*--editable", rule[2])
