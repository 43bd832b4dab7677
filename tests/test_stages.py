"""dvc.yaml reruns what changed and nothing else. The commands are stood in for: they note that they ran, and write
what dvc.yaml says they write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = """#!{python}
import sys
from pathlib import Path

command, *rest = sys.argv[1:]
options = dict(zip(rest[::2], rest[1::2])) if command != "make-corpus" else {{"--preset": rest[0]}}
preset, arch, seed = (options.get(name) for name in ("--preset", "--arch", "--seed"))
runs, out = f"results/{{preset}}/runs/{{arch}}/seed-{{seed}}", f"results/{{preset}}"
files = {{
    "make-corpus": [f"data/{{preset}}/manifest.jsonl"],
    "extract-features": [f"data/{{preset}}/features/index.json"],
    "embed-clip": [f"data/{{preset}}/vectors/index.json"],
    "train": [f"models/{{preset}}/{{arch}}/seed-{{seed}}/config.json", f"{{runs}}/curves/metrics.json"],
    "evaluate": [f"{{runs}}/metrics.json", f"{{runs}}/examples.json", f"{{runs}}/words.json"],
    "report": [f"{{out}}/{{name}}" for name in ("report.html", "table.md", "summary.json")]
    + [f"{{out}}/plots/{{name}}.json" for name in ("recall", "development", "loss", "slots")],
}}
counter = Path("ran.txt")
ran = counter.read_text() if counter.exists() else ""
counter.write_text(ran + " ".join([command, *filter(None, [arch])]) + "\\n")
for number, file in enumerate(files[command]):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(f'{{{{"runs": {{len(ran)}}}}}}')  # other content whenever it runs
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(name, folder)
    shutil.copytree("pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for model in ("mini-hubert", "mini-clip"):
        (folder / "models" / model).mkdir(parents=True)
        (folder / "models" / model / "config.json").touch()
    (folder / "bin").mkdir()
    (folder / "bin/sclip").write_text(STAND_IN.format(python=sys.executable))
    (folder / "bin/sclip").chmod(0o755)
    dvc(folder, "init", "--no-scm", "--quiet")
    shutil.copytree(".dvc/plots", folder / ".dvc/plots")
    return folder


def dvc(folder: Path, *command: str) -> None:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, check=True, env={**os.environ, "PATH": path})


def reran(repository: Path) -> list[str]:
    """What a `dvc repro` runs, the report last."""
    (repository / "ran.txt").unlink(missing_ok=True)
    dvc(repository, "repro", "--quiet")
    ran = repository / "ran.txt"
    return ran.read_text().splitlines() if ran.exists() else []


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_what_changed_runs_again_and_nothing_else(repository):
    first = reran(repository)
    assert len(first) == 14
    assert first[-1] == "report"
    assert reran(repository) == []

    params = repository / "params.yaml"
    edit(params, "training: {learning_rate: 1.0e-3}", "training: {learning_rate: 2.0e-3}")
    assert reran(repository) == ["train cascaded", "evaluate cascaded", "report"]

    edit(params, "hybrid: # Hybrid SpeechCLIP\n    head:", "hybrid: # Hybrid SpeechCLIP, changed\n    head:")
    assert reran(repository) == []

    edit(repository / "pipeline/sclip/evaluation/keywords.py", "NEAREST = 5", "NEAREST = 6")
    assert sorted(reran(repository)) == sorted([*(line for line in first if line.startswith("evaluate")), "report"])

    edit(repository / "pipeline/sclip/report/page.css", "{", "{ ")
    assert reran(repository) == ["report"]

    edit(params, "compute: bf16", "compute: fp32")
    assert set(reran(repository)) == set(first) - {"make-corpus", "embed-clip"}
