"""A stand-in for the command line, which notes what DVC runs and writes what dvc.yaml says that the stage writes."""

import os
import subprocess
import sys
from pathlib import Path

# A shell starts Python, because the kernel reads no path with a space behind #!.
STAND_IN = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from pathlib import Path

command, *rest = sys.argv[1:]
options = {{"--preset": rest[0]}} if command == "make-corpus" else dict(zip(rest[::2], rest[1::2]))
preset, arch, seed = (options.get(name) for name in ("--preset", "--arch", "--seed"))
runs, out = f"results/{{preset}}/runs/{{arch}}/seed-{{seed}}", f"results/{{preset}}"
files = {{
    "fingerprint-code": ["code.json"],
    "make-corpus": [f"data/{{preset}}/manifest.{{suffix}}" for suffix in ("jsonl", "digest.json")],
    "extract-features": [f"data/{{preset}}/features/index.json"],
    "embed-clip": [f"data/{{preset}}/vectors/index.json"],
    "train": [f"models/{{preset}}/{{arch}}/seed-{{seed}}/config.json", f"{{runs}}/curves/metrics.json"],
    "evaluate": [
        f"{{runs}}/{{name}}" for name in ("metrics.json", "examples.json", "words.json", "outcomes.safetensors")
    ],
    "report": [f"{{out}}/{{name}}" for name in ("report.html", "table.md", "summary.json")]
    + [f"{{out}}/plots/{{name}}.json" for name in ("recall", "development", "loss", "slots")],
}}
counter = Path("ran.txt")
ran = counter.read_text() if counter.exists() else ""
counter.write_text(ran + " ".join([command, *filter(None, [arch])]) + "\\n")
for number, file in enumerate(files[command]):
    if file == "code.json":
        Path(file).write_text(Path("installed.json").read_text())  # the code that the test has installed
        continue
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(f'{{{{"runs": {{len(ran)}}}}}}')  # other content whenever it runs
"""


def write_stand_in(folder: Path) -> None:
    (folder / "bin").mkdir()
    (folder / "bin/sclip").write_text(STAND_IN.format(python=sys.executable))
    (folder / "bin/sclip").chmod(0o755)


def run(folder: Path, *command: str) -> str:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    env = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=folder, check=True, env=env, stdout=subprocess.PIPE, text=True).stdout


def dvc(folder: Path, *command: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *command)


def reran(repository: Path) -> list[str]:
    """Return what a `dvc repro` runs, the report last."""
    (repository / "ran.txt").unlink(missing_ok=True)
    dvc(repository, "repro", "--quiet")
    ran = repository / "ran.txt"
    return ran.read_text().splitlines() if ran.exists() else []
