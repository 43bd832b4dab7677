"""The installed wheel has all that a new project needs, and its stages run there without the source tree."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SHIPPED = ["models/scenes-cif", "models/scenes-hybrid-cif", "models/scenes-parallel"]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore")
FOLDERS = ("pipeline", "models/mini-hubert", "models/mini-clip", *SHIPPED, ".dvc/plots")
# The shipped model, and all stages on a dozen pictures, in one process, since the imports take longer than the work.
STAGES = """
import os
from pathlib import Path
import sclip
from sclip.cli import main

assert Path(sclip.__file__).is_relative_to(VENV), sclip.__file__
assert [sclip.load(folder).name for folder in SHIPPED] == ["cascaded-cif", "hybrid-cif", "parallel"]
main(["init", "project"], standalone_mode=False)
os.chdir("project")
small = [
    "presets.scenes.corpus.pictures={train: 12, dev: 4, test: 6}",
    "presets.scenes.corpus.voices={train: 2, dev: 1, test: 1}",
    "presets.scenes.features.components=null",
    "presets.scenes.training={steps: 4, warmup_steps: 1, batch: 6, dev_every: 2}",
    "run.presets=[scenes]",
    "run.architectures=[parallel]",
    "run.seeds=[0]",
]
options = [word for one in small for word in ("-S", one)]
for command in (
    ["make-corpus", "scenes"],
    ["extract-features"],
    ["embed-clip"],
    ["train", "--arch", "parallel"],
    ["evaluate", "--arch", "parallel"],
    ["report"],
):
    main([*command, *options], standalone_mode=False)
main(["table", "--paper"], standalone_mode=False)
main(["fingerprint-code"], standalone_mode=False)
"""


def make_wheel(folder: Path) -> Path:
    """Build a wheel of a copy of the source tree, as `pip wheel .` does, without a network."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    (source / "results").mkdir()
    shutil.copy(ROOT / "results/paper.yaml", source / "results")
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, source / ".dvc")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """A fresh environment with the wheel, which takes the dependencies from the one that runs the tests."""
    if Version(version("setuptools")) < Version("77"):
        pytest.skip("needs setuptools 77 to build a wheel; pip install '.[dev]' has it")
    folder = tmp_path_factory.mktemp("wheel")
    wheel, venv = make_wheel(folder), folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python3*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, env=environment())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def environment() -> dict[str, str]:
    """Return the environment without what would lead to the source tree."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(venv: Path, *command: str, cwd: Path) -> str:
    command = (str(venv / "bin" / command[0]), *command[1:])
    done = subprocess.run(command, cwd=cwd, env=environment(), check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def test_the_shipped_model_loads_anywhere_and_the_stages_run_in_a_new_folder(venv, tmp_path):
    project = tmp_path / "project"
    run(venv, "python", "-c", f"VENV, SHIPPED = {str(venv)!r}, {SHIPPED}\n{STAGES}", cwd=tmp_path)
    metrics = json.loads((project / "results/scenes/runs/parallel/seed-0/metrics.json").read_text())
    assert metrics["counts"]["pictures"] == 6
    assert (project / "results/scenes/report.html").is_file()
    assert (project / "code.json").is_file()


def test_the_command_lists_the_models_that_ship(venv, tmp_path):
    rows = json.loads(run(venv, "sclip", "list", "models", "--json", cwd=tmp_path))
    assert [row["model"] for row in rows] == SHIPPED


def test_the_wheel_requires_what_setup_cfg_says(venv):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (metadata,) = venv.glob("lib/python3*/site-packages/sclip-*.dist-info/METADATA")
    extras = {
        line.removeprefix("Provides-Extra: ") for line in metadata.read_text().splitlines() if "Provides-Extra" in line
    }
    assert extras == set(setup["options.extras_require"])
