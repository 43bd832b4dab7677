"""A new project folder has what the stages need, and reruns what an update of the package changes."""

import json
import shutil
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from project import run_sclip
from shipped import PARAMS, RUN
from small import model
from stand_in import dvc, reran, run, write_stand_in

import sclip
from sclip import fingerprints
from sclip.apps.project import init_project
from sclip.cli import main
from sclip.cli.completion import complete_models
from sclip.config import load_params
from sclip.fingerprints import PACKAGE, STAGES, stage_fingerprints
from sclip.paths import STARTER

ROOT = Path(__file__).parents[2]
SHIPPED = ["models/scenes-cif", "models/scenes-hybrid-cif", "models/scenes-parallel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("projects") / "new/project"
    run_sclip("init", str(folder))
    return folder


def test_a_new_folder_has_the_settings_the_numbers_and_the_models_that_ship(folder):
    for name, source in (("params.yaml", "params.yaml"), ("results/paper.yaml", "results/paper.yaml")):
        assert (folder / name).read_bytes() == (ROOT / source).read_bytes()
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert sclip.load(folder / "models/scenes-hybrid-cif").name == "hybrid-cif"
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".dvc", ".dvcignore", ".gitignore", "code.json", "dvc.yaml", "models", "params.yaml", "results"),
    ]


def test_stages_depend_on_the_installed_code_instead_of_source_files(folder):
    stages, original = (yaml.safe_load((place / "dvc.yaml").read_text())["stages"] for place in (folder, ROOT))
    assert list(stages) == ["fingerprint-code", *original]
    for name, stage in original.items():
        assert {"code.json": [name]} in stages[name]["params"]
        assert [param for param in stages[name]["params"] if param != {"code.json": [name]}] == stage["params"]
        assert stages[name].get("deps", []) == [dep for dep in stage["deps"] if not dep.startswith("pipeline/")]
        for key in ("cmd", "matrix", "outs", "metrics", "plots"):
            assert stages[name].get(key) == stage.get(key)


def test_dvc_reruns_what_an_update_of_the_package_changes(folder, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(folder, project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["run"] = RUN | {"architectures": ["parallel", "cascaded"]}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    write_stand_in(project)
    versions = dict.fromkeys(STAGES, "1")
    (project / "installed.json").write_text(json.dumps(versions))
    first = reran(project)
    assert first[0] == "fingerprint-code"
    assert len(first) == 9
    assert reran(project) == ["fingerprint-code"]
    (project / "installed.json").write_text(json.dumps(versions | {"evaluate": "2"}))
    evaluations = [line for line in first if line.startswith("evaluate")]
    again = reran(project)
    assert len(evaluations) == 2
    assert sorted(again) == sorted(["fingerprint-code", *evaluations, "report"])


def test_dvc_commit_takes_what_was_made_by_hand(folder, tmp_path):
    """Without code.json, the first `dvc commit` failed, and every later command of DVC."""
    project = tmp_path / "project"
    shutil.copytree(folder, project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["run"] = RUN | {"architectures": ["parallel"]}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    write_stand_in(project)
    run(project, "bin/sclip", "make-corpus", "scenes")
    for stage in ("extract-features", "embed-clip", "train", "evaluate", "report"):
        run(project, "bin/sclip", stage, "--preset", "scenes", "--arch", "parallel", "--seed", "0")
    dvc(project, "commit", "--force")
    assert "make-corpus" in (project / "dvc.lock").read_text()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("report/page.css", "{", "{ "), ("report/run.py", 'f"# {preset}', 'f"## {preset}')],
)
def test_fingerprints_change_with_the_code_of_their_stage(file, old, new, monkeypatch, tmp_path):
    before = stage_fingerprints()
    assert before.keys() == STAGES.keys()
    shutil.copytree(PACKAGE, tmp_path / "sclip", ignore=shutil.ignore_patterns("__pycache__", "starter"))
    monkeypatch.setattr(fingerprints, "PACKAGE", tmp_path / "sclip")
    monkeypatch.setattr(fingerprints, "_tree", fingerprints._tree.__wrapped__)  # without its cache
    assert stage_fingerprints() == before
    text = (tmp_path / "sclip" / file).read_text()
    assert old in text
    (tmp_path / "sclip" / file).write_text(text.replace(old, new, 1))
    changed = stage_fingerprints()
    assert {name for name in STAGES if changed[name] != before[name]} == {"report"}


def test_fingerprint_code_writes_the_file_of_dvc_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_sclip("fingerprint-code")
    assert json.loads(Path("code.json").read_text()) == stage_fingerprints()


def test_a_project_of_a_read_only_package_can_be_changed(tmp_path, monkeypatch):
    package = shutil.copytree(STARTER, tmp_path / "package")
    for path in (package, *package.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr("sclip.apps.project.STARTER", package)
    init_project(tmp_path / "project")
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "project").rglob("*"))


def test_a_folder_with_something_in_it_is_refused_and_one_of_git_is_not(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    assert "full: is not empty; choose a new or an empty folder" in run_sclip("init", str(tmp_path / "full"), status=1)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert f"Next: cd '{tmp_path}/my project' && dvc repro" in run_sclip("init", str(tmp_path / "my project"))
    (tmp_path / "repo/.git").mkdir(parents=True)
    written = json.loads(run_sclip("init", str(tmp_path / "repo"), "--json"))["written"]
    assert {"params.yaml", "dvc.yaml", "models", "results"} <= set(written)
    assert "no_scm" not in (tmp_path / "repo/.dvc/config").read_text()


def test_without_git_dvc_does_not_look_for_it(folder):
    assert "no_scm = true" in (folder / ".dvc/config").read_text()


def test_lists(tmp_path, monkeypatch):
    shutil.copy(PARAMS, tmp_path)
    monkeypatch.chdir(tmp_path)
    params = load_params()
    rows = json.loads(run_sclip("list", "presets", "--json"))
    assert [row["preset"] for row in rows] == list(params.presets)
    assert [row["preset"] for row in rows if row["runs"]] == list(params.run.presets)
    shown = run_sclip("list", "presets").splitlines()
    assert len(shown) == len(rows) + 1
    assert next(line for line in shown if " scenes " in line).startswith("*")
    rows = {row["arch"]: row for row in json.loads(run_sclip("list", "archs", "--preset", "scenes", "--json"))["archs"]}
    assert rows["cascaded"]["keywords"] == "8 learned slots"
    assert rows["parallel"] == {
        **{"arch": "parallel", "utterance": True, "keywords": None, "attention_heads": 8},
        "losses": {"parallel": 1.0},
    }
    model("parallel").save(tmp_path / "models/mine/parallel/seed-0")
    (tmp_path / "models/notes/config.json").parent.mkdir()
    (tmp_path / "models/notes/config.json").write_text("not JSON")
    (tmp_path / "models/other/config.json").mkdir(parents=True)  # a folder of this name
    models = {row["model"]: row for row in json.loads(run_sclip("list", "models", "--json"))}
    assert models["models/mine/parallel/seed-0"]["arch"] == "parallel"
    assert models["models/scenes-hybrid-cif"]["shipped"]
    assert set(models) == {"models/mine/parallel/seed-0", *SHIPPED}
    completed = [item.value for item in complete_models(click.Context(main), click.Option(["--model"]), "models/")]
    assert set(completed) == {"models/", *models}
    listed = run_sclip("list", "models")
    for name in models:
        assert name in listed
        assert sclip.load(name)  # also the one that ships, in a folder without it


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train --preset flickr8k-b", ["flickr8k-base", "flickr8k-base-sclip"]),
        ("make-corpus scenes-st", ["scenes-study", "scenes-study-published"]),
        ("train --arch cascaded", ["cascaded", "cascaded-cif"]),
        ("evaluate --preset scenes --arch hyb", ["hybrid", "hybrid-cif"]),
        ("evaluate --model models/sc", SHIPPED),
        ("push models/scenes-h", ["models/scenes-hybrid-cif"]),
        ("benchmark mteb --model models/sc", SHIPPED),
        ("train --params none.yaml --preset s", []),
        ("list pr", ["presets"]),
    ],
)
def test_names_are_completed(line, expected, folder, monkeypatch):
    monkeypatch.chdir(folder)  # where nothing was trained
    words = ["sclip", *line.split()]
    env = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_SCLIP_COMPLETE": "bash_complete"}
    result = CliRunner().invoke(main, [], prog_name="sclip", env=env)
    kinds = [item.split(",") for item in result.stdout.splitlines() if item]
    assert [value for kind, value in kinds if kind == "plain"] == expected


@pytest.mark.parametrize("preset", [("--preset", "mine"), ("mine",)])
def test_architectures_are_those_of_the_preset_on_the_line(preset, folder, monkeypatch):
    monkeypatch.chdir(folder)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["recipes"]["own"] = {"one": params["recipes"]["sclip"]["parallel"]}
    params["presets"]["mine"] = params["presets"]["scenes"] | {"recipe": "own", "arch": {}}
    Path("own.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    words = ["sclip", "train", "--params", "own.yaml", *preset, "--arch", ""]
    env = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_SCLIP_COMPLETE": "bash_complete"}
    assert CliRunner().invoke(main, [], prog_name="sclip", env=env).stdout == "plain,one\n"


@pytest.mark.parametrize(
    "line",
    ["keywords data/ex", "search an.index data/ex", "index data/ex", "embed audio data/ex", "segment a.wav data/ex"],
)
def test_names_of_recordings_and_pictures_are_completed_by_the_shell(line):
    words = ["sclip", *line.split()]
    env = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_SCLIP_COMPLETE": "bash_complete"}
    assert CliRunner().invoke(main, [], prog_name="sclip", env=env).stdout == "file,data/ex\n"


def test_every_option_for_a_model_is_completed():
    def options(group):
        for command in group.commands.values():
            if isinstance(command, click.Group):
                yield from options(command)
            else:
                yield from (p for p in command.params if "--model" in p.opts)

    found = list(options(main))
    assert len(found) >= 8
    for option in found:
        names = [item.value for item in option.shell_complete(click.Context(main), "models/scenes-h")]
        assert "models/scenes-hybrid-cif" in names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script(shell):
    result = CliRunner().invoke(main, [], prog_name="sclip", env={"_SCLIP_COMPLETE": f"{shell}_source"})
    assert "_SCLIP_COMPLETE" in result.stdout
