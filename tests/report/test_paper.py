"""Published numbers, and ours beside them."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sclip.cli import main
from sclip.errors import UserError
from sclip.report.paper import as_csv, as_latex, as_markdown, read_paper

PAPER = Path(__file__).parents[2] / "results/paper.yaml"
SMALL = {
    "sources": {"them": "A paper"},
    "tables": {
        "test": {
            "title": "Retrieval",
            "split": "test",
            "columns": {"R@1": "speech_to_image.{branch}.R@1", "R@5": "speech_to_image.{branch}.R@5"},
            "rows": [
                {"system": "Theirs & others", "source": "them", "published": [1.0, None]},
                {
                    "system": "Parallel",
                    "source": "them",
                    "published": [26.7, 57.1],
                    "ours": {"preset": "p", "arch": "parallel", "branch": "parallel"},
                },
            ],
        },
        "dev": {
            "title": "Mean R@10",
            "split": "dev",
            "columns": {"mean R@10": "dev/{branch}"},
            "rows": [
                {
                    "system": "Parallel",
                    "source": "them",
                    "published": [80.0],
                    "ours": {"preset": "p", "arch": "parallel", "branch": "parallel"},
                }
            ],
        },
    },
}


@pytest.fixture
def paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("paper.yaml").write_text(yaml.safe_dump(SMALL))
    return read_paper(Path("paper.yaml"))


def evaluated(name: str, value: float, speech: str = "hubert") -> None:
    folder = Path("results/p/runs/parallel") / name
    (folder / "curves/plots/metrics/dev").mkdir(parents=True)
    entry = {"value": value, "low": value - 2, "high": value + 2}
    metrics = {"about": {"encoders": {"speech": speech}}, "speech_to_image": {"parallel": {"R@1": entry}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "curves/plots/metrics/dev/parallel.tsv").write_text("step\tv\n5\t70\n10\t81\n15\t79\n")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_nothing_of_ours(paper):
    """Cells are empty; with --paper there are no such rows."""
    assert "| Parallel | published (them) | 26.70 | 57.10 |\n|  | ours |  |  |\n" in as_markdown(paper, True)
    assert "ours" not in as_markdown(paper, False)
    assert {row["value"] for row in rows(as_csv(paper, True)) if row["whose"] == "ours"} == {""}


def test_ours_beside_the_published(paper):
    evaluated("seed-0", 28.0)
    found = {
        (row["split"], row["whose"], row["column"]): row
        for row in rows(as_csv(paper, True))
        if row["system"] == "Parallel"
    }
    ours, difference = found["test", "ours", "R@1"], found["test", "difference", "R@1"]
    assert (ours["value"], ours["low"], ours["high"]) == ("28.00", "26.00", "30.00")
    assert (difference["value"], difference["low"], difference["high"]) == ("1.30", "-0.70", "3.30")
    assert found["test", "ours", "R@5"]["value"] == ""  # not measured
    assert found["dev", "ours", "mean R@10"]["value"] == "81.00"  # the best of the curve
    text = as_markdown(paper, True)
    assert "## Retrieval, test split" in text
    assert "## Mean R@10, development split" in text
    assert "|  | ours | 28.00 [26.00, 30.00] |  |" in text
    assert "|  | difference | 1.30 [−0.70, 3.30] |  |" in text


def test_several_seeds_and_the_published_checkpoint(paper):
    for seed, value in enumerate((27.0, 29.0)):
        evaluated(f"seed-{seed}", value)
    evaluated("imported", 26.5)
    text = as_markdown(paper, True)
    assert "|  | ours | 28.00 ± 1.41 |  |" in text
    assert "|  | published checkpoint, measured here | 26.50 [24.50, 28.50] |  |" in text


def test_a_rehearsal_is_not_passed_off_as_a_result(paper):
    evaluated("seed-0", 27.0, speech="hubert (random weights, seed 0)")
    text = as_markdown(paper, True)
    assert "|  | ours, of random encoders | 27.00 [25.00, 29.00] |  |" in text
    assert "|  | ours |" not in text


def test_latex_has_every_cell_and_no_bare_sign(paper):
    text = as_latex(paper, False)
    assert r"Theirs \& others & published & 1.00 &  \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2


@pytest.mark.parametrize("text", ["sources: [", "[" * 2000, "sources: 2024-99-99", "# Bäume".encode("latin-1")])
def test_a_file_that_is_no_yaml_is_named(text, tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"paper\.yaml: ") as error:
        read_paper(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"published": [1.0]}, "tables.test: Theirs & others: expected 2 numbers, found 1"),
        ({"source": "nobody"}, "no source 'nobody'"),
        ({"publishd": [1.0, 2.0]}, "did you mean 'published'"),
        ({"published": [1.0, 10**400]}, "rows[0].published[1]: expected a finite number below 1e308, found 1000"),
    ],
)
def test_mistakes(change, message, tmp_path):
    broken = yaml.safe_load(yaml.safe_dump(SMALL))
    broken["tables"]["test"]["rows"][0] |= change
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(UserError, match=r"paper\.yaml") as error:
        read_paper(tmp_path / "paper.yaml")
    assert message in str(error.value)


def test_the_command_prints_all_that_was_published(monkeypatch):
    monkeypatch.chdir(PAPER.parents[1])
    printed = CliRunner().invoke(main, ["table", "--paper", "--format", "csv"])
    assert printed.exit_code == 0, printed.output
    found = rows(printed.output)
    wanted = [
        n
        for table in yaml.safe_load(PAPER.read_text())["tables"].values()
        for row in table["rows"]
        for n in row["published"]
    ]
    assert [float(row["value"]) for row in found] == wanted
    assert all(row["source"] in ("speechclip", "speechclip_plus") for row in found)
