"""Compare two evaluated models: by hand on a few numbers, against a loop, and through the command line."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from project import run_sclip
from small import CAPTIONS, model
from stored_corpus import write_test_split

from sclip.errors import UserError
from sclip.evaluation.bootstrap import RESAMPLES, Bootstrap
from sclip.evaluation.evaluate import Annotations, evaluate
from sclip.evaluation.metrics_file import read_metrics
from sclip.evaluation.outcomes import Outcomes
from sclip.files import file_digest
from sclip.index_file import write_index_file
from sclip.report.comparison import EvaluatedModel, Figure, compare, compare_figures, compare_models, p_value
from sclip.tensors import read_tensors_and_metadata, save_tensors, write_tensors

UTTERANCES, PICTURES = 14, 5
ENGLISH = Annotations(language="en", synonyms=[["dog", "fence"]])


def compared(first: Figure, second: Figure, pictures: int):
    return compare_figures("figure", None, first, second, Bootstrap(pictures, seed=0))


def test_p_by_hand():
    nan = float("nan")
    for differences, p in (
        ([1.0, 2.0, 3.0, -1.0], 0.5),  # one of four is below 0, and twice that
        ([-1.0, -2.0, -3.0, 1.0], 0.5),
        ([1.0, 2.0, 0.0, -1.0], 1.0),  # 0 is on both sides: two of four
        ([1.0, 2.0, 3.0, 4.0], 0.25),  # none is below 0: one of the number of resamples
        ([0.0, 0.0, 0.0, 0.0], 1.0),
        ([nan, 1.0, 1.0, -1.0, nan], 2 / 3),
        ([nan, nan], 1.0),
        ([1e-15, 1e-15, 1e-15, 0.0], 1.0),  # rounding is no difference
    ):
        assert p_value(torch.tensor(differences)) == pytest.approx(p), differences


def test_identical_models_do_not_differ():
    figure = Figure(torch.rand(40, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 2)
    found = compared(figure, figure, 20)
    assert found.difference == {"value": 0, "low": 0, "high": 0}
    assert found.p == 1
    assert found.first == found.second


def test_a_constant_difference_is_found_exactly():
    values, pictures = torch.rand(40, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 2
    found = compared(Figure(values, pictures), Figure(values - 0.25, pictures), 20)
    assert found.difference == {"value": -0.25, "low": -0.25, "high": -0.25}
    assert found.p == 1 / RESAMPLES


def test_a_small_improvement_on_the_same_pictures_is_found_although_single_intervals_overlap():
    generator = torch.Generator().manual_seed(0)
    difficulty, noise = 30 * torch.randn(2, 200, generator=generator)
    pictures = torch.arange(200)
    first, second = Figure(50 + difficulty, pictures), Figure(51 + difficulty + noise / 30, pictures)
    found = compared(first, second, 200)
    assert found.second["low"] < found.first["value"] < found.second["value"] < found.first["high"]
    assert 0.5 < found.difference["low"] < found.difference["high"] < 1.5
    assert found.p == 1 / RESAMPLES
    # The same values of the second model, on other pictures than those of the first.
    shuffled = compared(first, Figure(second.values.flip(0), pictures), 200)
    assert shuffled.second["value"] == pytest.approx(found.second["value"], abs=1e-3)
    assert shuffled.difference["low"] < 0 < shuffled.difference["high"]
    assert shuffled.p > 0.1


def test_resamples_equal_a_loop_that_repeats_the_rows_of_the_drawn_pictures():
    generator = torch.Generator().manual_seed(1)
    bootstrap = Bootstrap(7, seed=0)
    pictures = torch.arange(30) % 7
    values = torch.randint(50, (2, 30), generator=generator)
    counted = torch.rand(2, 30, generator=generator) < 0.7
    found = compare_figures("", None, *map(Figure, values, [pictures] * 2, counted), bootstrap)
    differences = []
    for weights in bootstrap.weights.long():
        means = [
            v[c].repeat_interleave(weights[pictures[c]]).double().mean() for v, c in zip(values, counted, strict=True)
        ]
        differences.append(means[1] - means[0])
    differences = torch.stack(differences)
    low, high = differences.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert (found.difference["low"], found.difference["high"]) == pytest.approx((low, high), abs=1e-4)
    sides = [(differences <= 0).double().mean(), (differences >= 0).double().mean()]
    assert found.p == pytest.approx(2 * float(min(sides)))
    assert 0.01 < found.p < 1


def test_models_that_are_equally_good_rarely_differ():
    """Draw two models with the same expectation 200 times: p is below 0.05 in about one of twenty."""
    generator = torch.Generator().manual_seed(0)
    bootstrap, pictures = Bootstrap(60, seed=0), torch.arange(60)
    ps = []
    for one, other in torch.randn(200, 2, 60, generator=generator):
        ps.append(compare_figures("", None, Figure(one, pictures), Figure(other, pictures), bootstrap).p)
    assert 2 <= sum(p < 0.05 for p in ps) <= 22
    assert 80 <= sum(p < 0.5 for p in ps) <= 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def write_corpus(folder: Path, captions=CAPTIONS, order=range(UTTERANCES), words: bool = True):
    """Write a test split in which a picture has up to three utterances, and one has no text."""
    rows = [{"id": f"u{i}", "image_id": f"p{i % PICTURES}", "text": captions[i % 3] if i else None} for i in order]
    for row in rows:
        row["split"] = "test"
        if row["text"] and words:
            row["words"] = [[word, 0.2 * k, 0.2 * (k + 1)] for k, word in enumerate(row["text"].split())]
    return write_test_split(folder, rows, range(60, 90), compute="bf16")


ARCHS = ("parallel", "cascaded", "cascaded-cif", "hybrid", "hybrid-cif")


@pytest.fixture(scope="module")
def evaluated(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    for arch in ARCHS:
        evaluate(model(arch), corpus, "cpu", folder / arch, about={"preset": "tiny"}, annotations=ENGLISH)
    return folder


@pytest.fixture
def results(evaluated, tmp_path, monkeypatch):
    """The results of five models in the working directory."""
    shutil.copytree(evaluated, tmp_path / "results")
    monkeypatch.chdir(tmp_path / "results")


def key_of(name: str) -> tuple[str, ...]:
    """Return the place in metrics.json of a figure with this name; BRANCH stands for the branch."""
    part, figure = name.split(": ") if ": " in name else name.rsplit(" R@" if "R@" in name else " mean", 1)
    if part == "keywords":
        matches = {"all tokens": "all", "content words": "content", "synonyms as one": "content, synonyms as one"}
        return {
            "hit rate": ("keywords", "model", "hit_rate"),
            "located, content words": ("localization", "content", "located"),
            **{f"F1, {text}": ("keywords", "model", key, "f1") for text, key in matches.items()},
        }[figure]
    return part.replace(" → ", "_to_"), "BRANCH", f"R@{figure}" if figure.isdigit() else "mean_rank"


def entry(metrics, key: tuple[str, ...], branch: str | None):
    for part in key:
        metrics = metrics[branch if part == "BRANCH" else part]
    return metrics


@pytest.mark.parametrize("pair", [("cascaded", "cascaded-cif"), ("hybrid", "hybrid-cif"), ("parallel", "cascaded")])
def test_values_and_intervals_are_those_of_the_metrics(pair, results):
    found = compare(*map(Path, pair))
    metrics = [read_metrics(Path(name, "metrics.json")) for name in pair]
    for figure in found.figures:
        branches = figure.branches or (None, None)
        for estimate, written, branch in zip((figure.first, figure.second), metrics, branches, strict=True):
            assert estimate == entry(written, key_of(figure.name), branch), figure.name
    names = [(figure.name, figure.branches) for figure in found.figures]
    assert len(set(names)) == len(names)
    pairs = {"hybrid": [("parallel",) * 2, ("cascaded",) * 2], "cascaded": [("cascaded",) * 2]}
    retrieval = [
        (f"{direction} {figure}", branches)
        for branches in pairs.get(pair[0], [("parallel", "cascaded")])
        for direction in ("speech → image", "image → speech", "speech → text", "text → speech")
        for figure in ("R@1", "R@5", "R@10", "mean rank")
    ]
    keywords = ["hit rate", "F1, all tokens", "F1, content words", "F1, synonyms as one", "located, content words"]
    assert names == retrieval + [(f"keywords: {name}", None) for name in keywords if pair[0] != "parallel"]
    assert found.left_out == {}
    assert any(figure.difference["value"] != 0 for figure in found.figures)


def test_the_command_prints_a_table_and_json(results):
    lines = run_sclip("compare", "cascaded", "cascaded-cif").splitlines()
    assert lines[0].split() == ["branch", "first", "second", "second", "-", "first", "p"]
    data = json.loads(run_sclip("compare", "cascaded", "cascaded-cif", "--json"))
    assert (data["first"], data["second"], data["resamples"], data["left_out"]) == (
        "cascaded",
        "cascaded-cif",
        1000,
        {},
    )
    assert len(lines) == 1 + len(data["figures"])
    for line, figure in zip(lines[1:], data["figures"], strict=True):
        first, second = figure["first"]["value"], figure["second"]["value"]
        assert figure["difference"]["value"] == pytest.approx(second - first, abs=2e-4)
        assert figure["difference"]["low"] <= figure["difference"]["value"] <= figure["difference"]["high"]
        places = 2 if "rank" in figure["name"] else 1
        assert line.startswith(figure["name"]) and line.endswith(f"{figure['p']:.3f}")
        assert f"  {first:.{places}f}  " in line and f"  {second:.{places}f}  " in line


def test_swapped_models_have_swapped_differences(results):
    one, other = (compare(*map(Path, pair)).figures for pair in (("hybrid", "hybrid-cif"), ("hybrid-cif", "hybrid")))
    for figure, swapped in zip(one, other, strict=True):
        assert (figure.first, figure.second, figure.p) == (swapped.second, swapped.first, swapped.p)
        there, back = figure.difference, swapped.difference
        assert (there["value"], there["low"], there["high"]) == (-back["value"], -back["high"], -back["low"])


def test_branches_that_are_asked_for(results):
    def retrieval(*arguments: str):
        return json.loads(run_sclip("compare", *arguments, "--json"))["figures"]

    figures = retrieval("parallel", "hybrid", "--branches", "parallel", "cascaded")
    assert {tuple(figure["branches"]) for figure in figures} == {("parallel", "cascaded")}
    assert len(figures) == 16
    # The two branches of one model.
    inside = retrieval("hybrid", "hybrid", "--branches", "parallel", "cascaded")
    assert [figure["second"] for figure in inside] == [figure["second"] for figure in figures]
    assert [figure["first"] for figure in inside] != [figure["first"] for figure in figures]
    output = run_sclip("compare", "parallel", "hybrid", "--branches", "cascaded", "parallel", status=1)
    assert output == "Error: parallel: no branch cascaded; it has parallel\n"


@pytest.mark.parametrize("second", ["hybrid", "../results/hybrid", "link"])
def test_the_same_results_twice_are_refused(results, second):
    Path("link").symlink_to("hybrid")
    for options in ((), ("--branches", "cascaded", "cascaded")):
        output = run_sclip("compare", "hybrid", second, *options, status=1)
        assert output == "Error: hybrid: given twice; expected the results of two models, or two --branches of one\n"


def test_other_test_utterances_are_refused(results, tmp_path):
    texts = [f"{text} today" if i == 0 else text for i, text in enumerate(CAPTIONS)]  # those of four utterances
    others = {
        "texts": ({"captions": texts}, 4, 4),
        "fewer": ({"order": range(UTTERANCES - 2)}, 2, 0),
        "order": ({"order": reversed(range(UTTERANCES))}, 0, 0),
    }
    for name, (changes, first, second) in others.items():
        dataset = write_corpus(tmp_path / "other" / name, **changes)
        evaluate(model("cascaded"), dataset, "cpu", Path("other"), about={"preset": "mine"}, annotations=ENGLISH)
        output = run_sclip("compare", "cascaded", "other", status=1)
        what = (
            f"{first} of the 14 utterances of the first (preset tiny) are not among those of the second, and {second} "
            f"of the {len(dataset)} of the second (preset mine) are not among those of the first"
        )
        expected = "in another order" if name == "order" else what
        assert f"cascaded and other: evaluated on different test utterances: {expected}; compare models" in output


def test_folders_without_results_are_refused(results):
    Path("empty").mkdir()
    for name in ("empty", "missing", "cascaded/metrics.json"):
        output = run_sclip("compare", "cascaded", name, status=1)
        assert f"Error: {name}: no results folder, since it has no metrics.json; expected" in output
    assert "that `sclip evaluate` writes, such as cascaded\n" in run_sclip("compare", ".", "hybrid", status=1)


def test_damaged_outcomes_are_refused(results):
    path = Path("cascaded/outcomes.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    output = run_sclip("compare", "hybrid", "cascaded", status=1)
    assert "cascaded/outcomes.safetensors: its SHA-256 is not the one in metrics.json" in output
    path.unlink()
    assert "cascaded/outcomes.safetensors: no such file" in run_sclip("compare", "hybrid", "cascaded", status=1)


WRONG = {
    "no utterances": {"utterances": None},
    "utterances of a wrong type": {"utterances": torch.zeros(UTTERANCES)},
    "a single number": {"utterances": torch.tensor(5)},
    "too few utterances": {"utterances": torch.arange(PICTURES - 1)},
    "no branch": {"speech_to_image/cascaded": None},
    "no pictures": {"speech_to_image/pictures": None},
    "a picture that does not exist": {"image_to_speech/pictures": torch.arange(1, PICTURES + 1).int()},
    "a negative picture": {"image_to_speech/pictures": torch.arange(-1, PICTURES - 1).int()},
    "ranks of a wrong type": {"speech_to_image/cascaded": torch.ones(UTTERANCES)},
    "too few ranks": {"speech_to_image/cascaded": torch.ones(UTTERANCES - 1).int()},
    "counts without columns": {"keywords/all": torch.ones(UTTERANCES - 1).int()},
    "counts with two columns": {"keywords/content": torch.ones(UTTERANCES - 1, 2).int()},
    "no hits": {"keywords/hits": None},
    "no located keywords": {"localization/content": None},
}


@pytest.mark.parametrize("metadata", [{}, {"sclip": "[1]"}, {"sclip": "{"}])
def test_outcomes_without_their_metadata_are_refused(metadata, tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"ranks": torch.ones(2)}, metadata)
    with pytest.raises(UserError, match=r"a\.safetensors: its metadata 'sclip' is missing or damaged"):
        read_tensors_and_metadata(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_types_and_shapes_with_a_right_digest_are_refused(kind, results):
    path = Path("cascaded/outcomes.safetensors")
    tensors, metadata = read_tensors_and_metadata(path)
    changed = {name: tensor.clone() for name, tensor in (tensors | WRONG[kind]).items() if tensor is not None}
    write_tensors(path, changed, metadata)
    metrics = json.loads(Path("cascaded/metrics.json").read_text())
    metrics["files"]["outcomes.safetensors"] = file_digest(path)
    del metrics["digest"]
    write_index_file(Path("cascaded/metrics.json"), metrics)
    output = run_sclip("compare", "cascaded", "hybrid", status=1)
    assert "cascaded/outcomes.safetensors: not what `sclip evaluate` writes; run `sclip evaluate` again" in output


def test_a_newer_format_is_refused(tmp_path):
    write_tensors(tmp_path / "a", {}, {"format": "sclip outcomes 2"})
    with pytest.raises(UserError, match=r"expected 'sclip outcomes 1', found 'sclip outcomes 2'"):
        Outcomes.read(tmp_path / "a")


def test_captions_that_were_counted_in_different_ways_are_not_compared(results, corpus):
    """Without a language no word is a stop word. All tokens are the same ones, so these are compared."""
    evaluate(model("cascaded"), corpus, "cpu", Path("other"))
    lines = run_sclip("compare", "cascaded", "other").splitlines()
    why = "not compared, because the two evaluations counted the captions in different ways"
    assert {line for line in lines if "not compared" in line} == {
        f"keywords: F1, content words: {why}",
        f"keywords: located, content words: {why}",
        "keywords: F1, synonyms as one: not compared, because only one of the two has it",
    }
    names = [figure.name for figure in compare(Path("cascaded"), Path("other")).figures]
    assert [name for name in names if name.startswith("keywords")] == [
        "keywords: hit rate",
        "keywords: F1, all tokens",
    ]


def test_a_corpus_without_text_has_directions_of_pictures_alone(results, tmp_path):
    dataset = write_corpus(tmp_path / "wordless", captions=[None] * 3)
    for arch in ("cascaded", "hybrid-cif"):
        evaluate(model(arch), dataset, "cpu", Path("wordless") / arch)
    figures = compare(Path("wordless/cascaded"), Path("wordless/hybrid-cif")).figures
    assert {figure.name.rpartition(" ")[0] for figure in figures} == {
        *("speech → image", "image → speech", "speech → image mean", "image → speech mean")
    }


def test_a_figure_that_is_undefined_for_one_model_is_not_compared(results):
    """No keyword of this model is a word of its caption, so nothing can be located."""
    model_of = EvaluatedModel.read(Path("cascaded"))
    located = model_of.outcomes.groups["localization"]
    nothing = {name: column if name == "pictures" else 0 * column for name, column in located.items()}
    outcomes = dataclasses.replace(model_of.outcomes, groups=model_of.outcomes.groups | {"localization": nothing})
    found = compare_models(model_of, dataclasses.replace(model_of, outcomes=outcomes))
    assert found.left_out == {"keywords: located, content words": "no utterance counts for one of the two"}
