"""How the package is built: its parts import each other in one direction, and dvc.yaml knows what decides a result."""

import ast
import shutil
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from sclip import fingerprints
from sclip.fingerprints import FEATURES, PACKAGE, STAGES, VECTORS, code_fingerprint, computing_modules


def imported_parts(file: Path) -> set[str]:
    """Return the parts of sclip (packages, or modules of the top level) that a file imports, for whatever purpose."""
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sclip":
            below = node.module.split(".")[1:]
            parts |= {below[0]} if below else {alias.name for alias in node.names}
    return {part for part in parts if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()}


def test_no_two_parts_import_each_other():
    graph: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            graph.setdefault(part, set()).update(imported_parts(file) - {part})
    list(TopologicalSorter(graph).static_order())  # raises CycleError and names the cycle


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_decides_its_result(stage):
    deps = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]["deps"]
    listed = {dep for dep in deps if dep.endswith(".py")}
    expected = {f"pipeline/sclip/{name.replace('.', '/')}.py" for name in computing_modules(STAGES[stage])}
    assert expected <= listed, f"stages.{stage}.deps of dvc.yaml: add these; import those of config/ from sclip.config"
    assert listed <= expected, f"stages.{stage}.deps of dvc.yaml has modules that the stage does not import"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that a test may edit."""
    shutil.copytree(PACKAGE, tmp_path / "sclip", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "PACKAGE", tmp_path / "sclip")
    fingerprints._tree.cache_clear()
    yield tmp_path / "sclip"
    fingerprints._tree.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("encoders/audio.py", "BLOCK = 2**16", "BLOCK = 2**17", True),
        ("encoders/audio.py", "BLOCK = 2**16", "BLOCK = 2**16  # another comment", False),
        ("padded.py", '"""Sequences', '"""Other words for sequences', False),
        ("padded.py", "descending=True", "descending=False", True),  # imported by the encoders
        ("features/extract.py", "MEGABYTE = 1_000_000", "MEGABYTE = 2_000_000", False),  # cuts shards, computes nothing
        ("config/features.py", "shard_megabytes: int = 512", "shard_megabytes: int = 256", False),
        ("encoders/clip.py", "keywords.lengths + 1", "keywords.lengths + 2", False),  # another encoder
    ],
)
def test_features_are_known_by_the_code_that_computes_them(package, file, old, new, changes):
    before = code_fingerprint(FEATURES)
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new, 1))
    fingerprints._tree.cache_clear()
    assert (code_fingerprint(FEATURES) != before) == changes


def test_code_is_known_whatever_version_of_python_reads_it():
    """Versions differ in empty fields of a node, and in empty texts between the parts of an f-string."""
    later, now = (ast.parse('def f(x=""):\n    return f"{x}{x}"') for _ in range(2))
    function = later.body[0]
    function.body[0].value.values.insert(1, ast.Constant(""))
    function.returns, function.decorator_list, function._fields = None, [], (*function._fields, "later")
    function.later = []
    assert fingerprints._dump(later) == fingerprints._dump(now)
    for other in ('def f(x=None):\n    return f"{x}{x}"', 'def f(x=""):\n    return f"{x}{x}",', "def f(x=0): ..."):
        assert fingerprints._dump(ast.parse(other)) != fingerprints._dump(now)


def test_vectors_do_not_depend_on_the_speech_encoder():
    assert "encoders.speech" not in computing_modules(VECTORS)


def test_functions_and_modules_stay_small():
    """A function fits on a screen, and a module that imports half of the package does too much."""
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{file}: {node.name}"
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        count = sum(str(module).split(".")[0] == "sclip" for module in modules)
        assert count <= 15, f"{file} imports {count} modules of sclip, at most 15; move a part into a module of its own"
