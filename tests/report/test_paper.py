"""Test the papers' tables, with and without our results."""

import csv
import io
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from metrics_files import write_metrics

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


def write_results(name: str, value: float, speech: str = "hubert", arch: str = "parallel", data: str = "a") -> None:
    folder = Path("results/p/runs/parallel") / name
    (folder / "curves/plots/metrics/dev").mkdir(parents=True)
    entry = {"value": value, "low": value - 2, "high": value + 2}
    seed = int(name.removeprefix("seed-")) if name != "imported" else None
    encoders = {"encoders": {"speech": speech}, "encoder_hashes": {}}
    conditions = {**encoders, "states": "", "stop_words": "", "test_data": data}
    about = {"preset": "p", "arch": arch, **({} if seed is None else {"seed": seed}), **conditions}
    metrics = {"about": about, "counts": {}, "speech_to_image": {"parallel": {"R@1": entry}}}
    write_metrics(folder / "metrics.json", metrics)
    (folder / "curves/plots/metrics/dev/parallel.tsv").write_text("step\tv\n5\t70\n10\t81\n15\t79\n")


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_cells_without_results_are_empty(paper):
    assert "| Parallel | published (them) | 26.70 | 57.10 |\n|  | ours |  |  |\n" in as_markdown(paper, True)
    assert "ours" not in as_markdown(paper, False)
    assert {row["value"] for row in csv_rows(as_csv(paper, True)) if row["origin"] == "ours"} == {""}


def test_our_results_and_differences_follow_the_published_row(paper):
    write_results("seed-0", 28.0)
    entries = {
        (row["split"], row["origin"], row["column"]): row
        for row in csv_rows(as_csv(paper, True))
        if row["system"] == "Parallel"
    }
    ours, difference = entries["test", "ours", "R@1"], entries["test", "difference", "R@1"]
    assert (ours["value"], ours["low"], ours["high"]) == ("28.00", "26.00", "30.00")
    assert (difference["value"], difference["low"], difference["high"]) == ("1.30", "-0.70", "3.30")
    assert entries["test", "ours", "R@5"]["value"] == ""  # not measured
    assert entries["dev", "ours", "mean R@10"]["value"] == "81.00"  # the best value of the curve
    text = as_markdown(paper, True)
    assert "## Retrieval, test split" in text
    assert "## Mean R@10, development split" in text
    assert "|  | ours | 28.00 [26.00, 30.00] |  |" in text
    assert "|  | difference | 1.30 [−0.70, 3.30] |  |" in text


def test_seeds_are_averaged_and_the_imported_checkpoint_has_its_own_row(paper):
    for seed, value in enumerate((27.0, 29.0)):
        write_results(f"seed-{seed}", value)
    write_results("imported", 26.5)
    text = as_markdown(paper, True)
    assert "|  | ours | 28.00 ± 1.41 |  |" in text
    assert "|  | published checkpoint, measured here | 26.50 [24.50, 28.50] |  |" in text


def test_seeds_with_other_test_data_are_not_averaged(paper):
    write_results("seed-0", 27.0)
    write_results("seed-1", 29.0, data="b")
    with pytest.raises(UserError, match=r"parallel, seed 1, was evaluated with other test data than seed 0; run"):
        as_markdown(paper, True)


def test_results_of_another_architecture_in_the_folder_are_refused(paper):
    write_results("seed-0", 27.0, arch="cascaded")
    with pytest.raises(UserError, match=r"expected the results of preset p, arch parallel, seed 0, found those of"):
        as_markdown(paper, True)


def test_a_folder_that_a_killed_command_left_is_no_seed(paper):
    write_results("seed-1", 30.0)
    Path("results/p/runs/parallel/seed-1").rename("results/p/runs/parallel/seed-1.tmp")
    write_results("seed-0", 28.0)
    assert "|  | ours | 28.00 [26.00, 30.00] |  |" in as_markdown(paper, True)


def test_results_of_random_encoders_are_marked(paper):
    write_results("seed-0", 27.0, speech="hubert (random weights, seed 0)")
    text = as_markdown(paper, True)
    assert "|  | ours, with random encoder weights | 27.00 [25.00, 29.00] |  |" in text
    assert "|  | ours |" not in text


def test_a_folder_without_the_published_numbers_is_no_project(tmp_path):
    with pytest.raises(UserError, match=r"paper.yaml: no such file; start in a project folder, or make one"):
        read_paper(tmp_path / "paper.yaml")


def test_a_system_without_published_numbers_has_a_row_of_ours_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = yaml.safe_load(yaml.safe_dump(SMALL))
    del data["tables"]["test"]["rows"][1]["published"], data["tables"]["test"]["rows"][1]["source"]
    Path("paper.yaml").write_text(yaml.safe_dump(data))
    read = read_paper(Path("paper.yaml"))
    write_results("seed-0", 28.0)
    rows = "| Theirs & others | published (them) | 1.00 |  |\n| Parallel | ours | 28.00 [26.00, 30.00] |  |\n\n"
    assert rows in as_markdown(read, True)
    assert "| Parallel | ours" not in as_markdown(read, False)
    assert r"Parallel & ours & 28.00 [26.00, 30.00] &" in as_latex(read, True)


def test_latex_is_complete_and_escaped(paper):
    text = as_latex(paper, False)
    assert r"Theirs \& others & published & 1.00 &  \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2


def test_every_sign_of_latex_is_escaped(tmp_path):
    data = yaml.safe_load(yaml.safe_dump(SMALL))
    data["tables"]["test"]["rows"][0]["system"] = r"a_1 #2 $3 {4} 5~6 7^8 \9 10%"
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(data))
    written = r"a\_1 \#2 \$3 \{4\} 5\textasciitilde{}6 7\textasciicircum{}8 \textbackslash{}9 10\%"
    assert f"\n{written} & published" in as_latex(read_paper(tmp_path / "paper.yaml"), False)


@pytest.mark.parametrize("text", ["sources: [", "[" * 2000, "sources: 2024-99-99", "# Bäume".encode("latin-1")])
def test_invalid_yaml_is_reported_with_its_file(text, tmp_path):
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
        ({"source": None}, "Theirs & others: has published numbers and no `source`; name a key of `sources`"),
        ({"publishd": [1.0, 2.0]}, "did you mean 'published'"),
        (
            {"ours": {"preset": "p", "arch": "parallel", "branch": "paralel"}},
            "rows[0].ours.branch: expected one of parallel, cascaded, slots, found 'paralel'",
        ),
        ({"published": [1.0, 10**400]}, "rows[0].published[1]: expected a finite number below 1e308, found 1000"),
    ],
)
def test_invalid_paper_is_refused(change, message, tmp_path):
    broken = yaml.safe_load(yaml.safe_dump(SMALL))
    broken["tables"]["test"]["rows"][0] |= change
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(UserError, match=r"paper\.yaml") as error:
        read_paper(tmp_path / "paper.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("speech_to_imag.{branch}.R@1", "columns.R@1: no 'speech_to_imag'; did you mean 'speech_to_image'?"),
        ("speech_to_image.{brunch}.R@1", "columns.R@1: no 'brunch'; did you mean 'branch'?"),
    ],
)
def test_a_column_that_no_model_can_have_is_refused(key, message, tmp_path):
    broken = yaml.safe_load(yaml.safe_dump(SMALL))
    broken["tables"]["test"]["columns"]["R@1"] = key
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(UserError, match=re.escape(message)):
        read_paper(tmp_path / "paper.yaml")


def test_a_column_that_names_a_table_of_the_metrics_is_refused(paper):
    paper.tables["test"].columns["R@1"] = "speech_to_image.{branch}"
    write_results("seed-0", 28.0)
    message = "the column speech_to_image.parallel of the papers' tables: expected a figure, found a table; add one of"
    with pytest.raises(UserError, match=re.escape(message)):
        as_markdown(paper, True)


def test_command_prints_every_published_number(monkeypatch):
    monkeypatch.chdir(PAPER.parents[1])
    printed = CliRunner().invoke(main, ["table", "--paper", "--format", "csv"])
    assert printed.exit_code == 0, printed.output
    printed_rows = csv_rows(printed.output)
    published = [
        n
        for table in yaml.safe_load(PAPER.read_text())["tables"].values()
        for row in table["rows"]
        for n in row.get("published", [])
    ]
    assert [float(row["value"]) for row in printed_rows] == published
    assert {row["source"] for row in printed_rows} == yaml.safe_load(PAPER.read_text())["sources"].keys()
