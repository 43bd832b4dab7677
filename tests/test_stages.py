"""dvc.yaml reruns what changed and nothing else. The commands are stood in for: they note that they ran, and write
what dvc.yaml says they write."""

import difflib
import json
import re
import shutil
from pathlib import Path

import pytest
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides
from shipped import PARAMS
from stand_in import dvc, reran, run, write_stand_in

from sclip.config import load_params


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A commit with the project's own DVC files, where nothing has run yet."""
    folder = tmp_path_factory.mktemp("stages")
    for name in ("dvc.yaml", "dvc.lock", PARAMS, ".dvcignore"):
        shutil.copy(name, folder)
    shutil.copytree(".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    shutil.copytree("pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for model in ("mini-hubert", "mini-clip"):
        (folder / "models" / model).mkdir(parents=True)
        (folder / "models" / model / "config.json").touch()
    write_stand_in(folder)
    (folder / ".gitignore").write_text(Path(".gitignore").read_text() + "ran.txt\n")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture(scope="module")
def first_run(repository):
    """The commands that the first `dvc repro` runs."""
    return reran(repository)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_git_status_after_a_run_shows_dvc_lock_alone_as_readme_says(repository, first_run):
    assert run(repository, "git", "status", "--porcelain").splitlines() == [" M dvc.lock"]
    assert re.search(r"`git status`[^.]*`dvc\.lock`", Path("README.md").read_text())


def test_the_summary_is_the_only_metric(repository, first_run):
    (shown,) = json.loads(dvc(repository, "metrics", "show", "--json")).values()
    assert list(shown["data"]) == ["results/scenes/summary.json"]


README_PRESET = re.search(r"```yaml\n  mine:(.*?)```", Path("README.md").read_text(), re.DOTALL)[1]
README_PRESET = f"  of-readme:{README_PRESET}"


@pytest.mark.parametrize(
    ("override", "removed", "added"),
    [
        ("presets.scenes.training.steps=450", [], []),  # as it is
        (
            "presets.scenes-published.training.learning_rate=5e-4",
            ["    training: {learning_rate: 1.0e-3}"],
            ["    training: {learning_rate: 0.0005}"],
        ),
        ("presets.scenes.training.steps=100", ["      steps: 450"], ["      steps: 100"]),
        ("run.seeds=[0,1]", [], ["  - 1"]),
        (
            "presets.scenes.corpus.captions.train=2",
            ["      captions: {train: 1, dev: 1, test: 1} # for each picture, each spoken once"],
            ["      captions: {train: 2, dev: 1, test: 1} # for each picture, each spoken once"],
        ),
        ("presets.of-readme.training.steps=100", ["      steps: 2000"], ["      steps: 100"]),
    ],
)
def test_dvc_changes_no_other_line_of_params(override, removed, added, tmp_path):
    """`dvc exp run -S` loads params.yaml, README's own preset in it, and writes it again."""
    before = PARAMS.read_text().replace("\npresets:\n", f"\npresets:\n{README_PRESET}\n", 1)
    assert README_PRESET in before
    (tmp_path / "params.yaml").write_text(before)
    apply_overrides(tmp_path / "params.yaml", [override])
    after = (tmp_path / "params.yaml").read_text()
    changes = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0))[2:]
    for sign, lines in (("-", removed), ("+", added)):
        found = [line for line in changes if line.startswith(sign)]
        assert len(found) == len(lines)
        assert all(line.startswith(sign + start) for line, start in zip(found, lines, strict=True))


def test_dvc_overrides_an_inherited_setting_only_with_a_plus_sign(tmp_path):
    shutil.copy(PARAMS, tmp_path)
    key = "presets.scenes-mfcc.training.steps"
    with pytest.raises(InvalidArgumentError):
        apply_overrides(tmp_path / "params.yaml", [f"{key}=77"])
    apply_overrides(tmp_path / "params.yaml", [f"+{key}=77"])
    changed, before = load_params(tmp_path / "params.yaml"), load_params(PARAMS)
    assert changed.preset("scenes-mfcc").training.steps == 77
    assert changed.preset("scenes") == before.preset("scenes")


def test_what_changed_runs_again_and_nothing_else(repository, first_run, tmp_path):
    repository = shutil.copytree(repository, tmp_path / "copy", symlinks=True)
    assert len(first_run) == 14
    assert first_run[-1] == "report"
    assert reran(repository) == []

    params = repository / "params.yaml"
    edit(params, "training: {batch: 128, steps: 500}", "training: {batch: 128, steps: 400}")
    assert reran(repository) == ["train hybrid-cif", "evaluate hybrid-cif", "report"]

    edit(params, "hybrid: # Hybrid SpeechCLIP\n      head:", "hybrid: # Hybrid SpeechCLIP, changed\n      head:")
    assert reran(repository) == []

    edit(repository / "pipeline/sclip/evaluation/keywords.py", "NEAREST = 5", "NEAREST = 6")
    assert sorted(reran(repository)) == sorted([*(line for line in first_run if line.startswith("evaluate")), "report"])

    edit(repository / "pipeline/sclip/report/page.css", "{", "{ ")
    assert reran(repository) == ["report"]

    edit(params, "components: 288\n      compute: bf16", "components: 288\n      compute: fp32")
    assert set(reran(repository)) == set(first_run) - {"make-corpus", "embed-clip"}
