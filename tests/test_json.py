"""With --json, a command prints one JSON document on standard output, and nothing else."""

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from project import run_sclip, write_encoders, write_preset
from shipped import ROOT

from sclip.cli import main
from sclip.cli.output import print_json

# Commands that print no result of their own.
WITHOUT = {"demo", "fingerprint-code"}


def commands(group: click.Group) -> dict[str, click.Command]:
    """Return all commands by their names, those of groups below as well."""
    found = {}
    for name, command in group.commands.items():
        below = commands(command) if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {rest}".strip(): one for rest, one in below.items()}
    return found


@pytest.mark.parametrize("name", sorted(set(commands(main)) - WITHOUT))
def test_every_command_takes_json(name):
    assert any("--json" in parameter.opts for parameter in commands(main)[name].params)


def result_of(*command: str, status: int = 0):
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of all stages on a dozen pictures."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for limit in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
            patch.setattr(f"sclip.features.plan.{limit}", 0.05)
        write_encoders(folder)
        options = write_preset("tiny", "params.yaml")
        (folder / "results").mkdir()
        shutil.copy(ROOT / "results/paper.yaml", folder / "results")
        arch = ("--arch", "cascaded")
        found = {
            "make-corpus": result_of("make-corpus", *options),
            "check-corpus": result_of("check-corpus", *options),
            "plan": result_of("plan", *options),
            "extract-features": result_of("extract-features", *options),
            "verify": result_of("verify", *options),
            "embed-clip": result_of("embed-clip", *options),
            "train": result_of("train", *arch, *options),
            "evaluate": result_of("evaluate", *arch, *options),
            "report": result_of("report", *options),
            "table": result_of("table"),
        }
        found["bad corpus"] = bad_corpus(folder, options)
        shard = next(Path("data/tiny/features").glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        found["damaged"] = result_of("verify", *options, status=1)
        yield folder, found


def bad_corpus(folder: Path, options: tuple[str, ...]):
    """Return what check-corpus says about a corpus with a recording that is not one."""
    row = json.loads((folder / "data/tiny/manifest.jsonl").read_text().splitlines()[0])
    recording = folder / "data/tiny" / row["audio"]
    content = recording.read_bytes()
    recording.write_text("not a recording")
    found = result_of("check-corpus", *options, status=1)
    recording.write_bytes(content)
    return found


def test_stages_say_what_they_wrote(results):
    folder, found = results
    assert found["make-corpus"] == {"manifest": "data/tiny/manifest.jsonl", "utterances": 28, "skipped": {}}
    assert found["extract-features"]["utterances"] == 28
    assert found["extract-features"]["folder"] == "data/tiny/features"
    assert found["embed-clip"]["images"] == 22
    assert found["train"]["folder"] == "models/tiny/cascaded/seed-0"
    assert found["train"]["dev"].keys() == {"cascaded"}
    metrics = json.loads((folder / found["evaluate"]["folder"] / "metrics.json").read_text())
    assert found["evaluate"]["metrics"] == metrics
    assert "results/tiny/report.html" in found["report"]["files"]


def test_checks_give_counts_and_faults(results):
    _, found = results
    assert found["check-corpus"]["splits"]["test"]["utterances"] == 12
    assert found["check-corpus"]["faults"] == {}
    assert list(found["bad corpus"]["faults"]) == ["files that cannot be used"]
    assert found["verify"]["faults"] == []
    assert found["verify"]["checked"] == {"rows": 28, "recordings": 28, "pictures": 22, "shards": 1}
    faults = found["damaged"]["faults"]
    assert faults
    assert all(fault["where"].endswith(".safetensors") and fault["what"] for fault in faults)


def test_a_plan_has_the_numbers_that_its_lines_are_made_of(results):
    plan = results[1]["plan"]
    assert plan["utterances"] == 28
    assert plan["fits"]
    assert plan["state_bytes"]["fp16"] * 2 == plan["state_bytes"]["fp32"]
    assert plan["read_speed"]["fp16"] is None  # without limit, from memory


def test_tables_have_the_published_numbers_with_their_sources(results):
    tables = results[1]["table"]
    rows = [row for table in tables.values() for row in table["rows"]]
    published = [row for row in rows if row["origin"] == "published"]
    assert all(row["source"] for row in published)
    text = run_sclip("table", "--paper", "--format", "csv")
    cells = [cell for row in published for cell in row["cells"].values() if cell is not None]
    assert len(cells) == sum(line.split(",")[5] != "" for line in text.splitlines()[1:] if "published" in line)


def test_names_are_escaped():
    """A name may hold what a terminal obeys, or bytes that are no text."""
    command = click.command()(lambda: print_json({"name": "é\x1b\x7f\udcff"}))
    result = CliRunner().invoke(command)
    assert result.output == '{\n "name": "\\u00e9\\u001b\\u007f\\udcff"\n}\n'


def test_an_error_leaves_standard_output_empty():
    result = CliRunner().invoke(main, ["list", "archs", "--preset", "scene", "--json"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: params.yaml: presets: no 'scene'; did you mean 'scenes'?\n"
