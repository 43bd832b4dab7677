"""Test the stage `report`: write its files from synthetic results."""

import dataclasses
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click import Context
from metrics_files import replace_in_metrics, write_metrics
from PIL import Image
from shipped import PARAMS
from small import model
from stored_corpus import write_test_split

import sclip.report
from sclip import paths
from sclip.cli import main
from sclip.config import load_params
from sclip.corpora.manifest import write_manifest
from sclip.errors import UserError
from sclip.evaluation.evaluate import evaluate
from sclip.evaluation.metrics_file import read_metrics
from sclip.files import locked
from sclip.report.run import write_report
from sclip.report.utterances import weights_path

SETTINGS, PRESET = load_params(PARAMS, ["run.seeds=[0, 1, 2]"]), "scenes"
CAPTIONS = ["a dog", 'a "red" <script>alert(1)</script> & more', "two children"]
SECONDS = 0.8


@pytest.fixture(autouse=True)
def corpus(tmp_path, monkeypatch):
    """Write three recordings with pictures to an empty working directory."""
    monkeypatch.chdir(tmp_path)
    manifest = paths.manifest(PRESET)
    manifest.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(len(CAPTIONS)):
        soundfile.write(manifest.parent / f"{i}.wav", rng.normal(size=int(16000 * SECONDS)) / 10, 16000)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(manifest.parent / f"{i}.png")
    write_manifest(manifest, [row(i) for i in range(len(CAPTIONS))])


def row(i: int) -> dict:
    files = {"audio": f"{i}.wav", "image": f"{i}.png"}
    about = {"image_id": f"p{i}", "text": CAPTIONS[i], "speaker": f"speaker {i}", "words": [["a", 0, 0.3]]}
    return {"id": f"u{i}", "split": "test", **files, **about}


def estimate(value: float) -> dict:
    return {"value": value, "low": value - 5, "high": value + 5}


def scores(value: float) -> dict:
    return {"R@1": estimate(value / 4), "R@5": estimate(value / 2), "R@10": estimate(value)}


def add_run(arch: str, seed: int = 0, cif: bool = False, wordless: bool = False, **recalls: float) -> Path:
    """Write the results of one run. `recalls` are R@10 by branch; `wordless` leaves captions no content words."""
    folder = paths.results_folder(PRESET, arch, seed)
    curve = folder / "curves/plots/metrics/train/loss/total.tsv"
    curve.parent.mkdir(parents=True)
    curve.write_text("step\ttotal\n20\t3.5\n40\t2.5\n")
    examples = {"branch": next(iter(recalls)), "frame_seconds": 0.02, "examples": [example(i, cif) for i in range(3)]}
    keywords = ["dog", "</script>"] if "cascaded" in recalls else []
    examples["utterances"] = [utterance(i, keywords) for i in range(3)]
    words = keyword_study(wordless) if "cascaded" in recalls else {}
    metrics = run_metrics(recalls, cif)
    metrics["about"] |= {"preset": PRESET, "arch": arch, "seed": seed}
    write_metrics(folder / "metrics.json", metrics)
    for name, data in (("examples", examples), ("words", words)):
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def run_metrics(recalls: dict[str, float], cif: bool) -> dict:
    chance = {"R@1": 1, "R@5": 5, "R@10": 9.9}
    speech = {branch: scores(value) for branch, value in recalls.items()}
    metrics = {
        "about": {
            "encoders": {"speech": "hubert", "clip": "vit"},
            "encoder_hashes": {"speech": "hash of hubert", "clip": "hash of vit"},
            "test_data": "hash of the utterances",
            "states": "hidden states stored in fp16",
            "stop_words": "English stop words",
            **{"sclip": "1", "torch": "2", "device": "cpu", "bootstrap": {"resamples": 1000, "seed": 0}},
        },
        "counts": {"utterances": 3, "pictures": 3, "captions": 3, "distinct_captions": 3},
        "layers": {"0": 0.25, "1": 0.75},
        **{key: {**speech, "chance": chance} for key in ("speech_to_image", "image_to_speech", "speech_to_text")},
        **{key: {"clip": scores(80.0), "chance": chance} for key in ("text_to_image", "image_to_text")},
    }
    if "cascaded" in recalls:
        usage = {"duplicates": estimate(10.0), "distinct_tokens": 17, "per_utterance": estimate(2.5)}
        accuracy = {"hit_rate": estimate(30.0), "all": {"f1": estimate(20.0)}, "content": {"f1": estimate(15.0)}}
        metrics["keywords"] = {"model": usage | accuracy, "commonest": usage, "commonest_content": usage}
        located = {"located": estimate(60.0), "overlap": estimate(35.0), "chance": estimate(12.0)}
        located |= {"in_order": estimate(15.0)}
        metrics["localization"] = {"all": located, "content": located}
    if cif:
        methods = ("cif", "cif_shifted", "even", "even_shifted", "random")
        scored = {name: {"f1": estimate(40.0), "r_value": estimate(-3.0)} for name in methods}
        metrics["boundaries"] = {"20ms": scored, "50ms": scored}
    return metrics


def keyword_study(wordless: bool) -> dict:
    slots = [{"slots": k, "hit_rate": estimate(30.0 + k), "any_hit": estimate(40.0)} for k in range(1, 4)]
    if wordless:
        return {"slots": slots, "words": [], "by_frequency": []}
    words = [("dog", 40, 30, True), ("cat", 20, 1, True), ("the", 90, 80, False), ("rare", 2, 2, True)]
    listed = [dict(zip(("word", "spoken", "found", "content"), word, strict=True)) for word in words]
    bands = [
        {"from": 2, "below": 5, "words": 1, "found": 100.0},
        {"from": 10, "below": None, "words": 2, "found": 51.7},
    ]
    return {"slots": slots, "words": listed, "by_frequency": bands}


def example(i: int, cif: bool) -> dict:
    folder = paths.manifest(PRESET).parent
    files = {"audio": str(folder / f"{i}.wav"), "image": str(folder / f"{i}.png")}
    entry = {**row(i), **files, "rank": 1, "retrieved": [{"image_id": f"p{i}", "image": files["image"], "score": 0.5}]}
    if cif:
        pieces = [{"text": "dog", "score": 0.5}, {"text": "</script>", "score": 0.4}]
        entry |= {"keywords": [{"span": [0.0, 0.4], "pieces": pieces}], "alpha": [0.1] * 39, "fired": [0.4]}
    return entry


def utterance(i: int, keywords: list[str]) -> dict:
    fields = ("id", "audio", "image", "image_id", "text", "speaker", "rank")
    return {key: example(i, False)[key] for key in fields} | {"keywords": keywords}


def data_of(page: str, name: str):
    """Return the data that the page's script reads."""
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', page)[1])


def report(preset: str = PRESET) -> str:
    write_report(SETTINGS, preset)
    return (paths.report_folder(preset) / "table.md").read_text(encoding="utf-8")


def cells(page: str, label: str, title: str = "Retrieval") -> list[str]:
    """Return the cells of a row in the table with this title."""
    table = page.split(f"## {title}\n")[1].split("## ")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_one_seed_gives_intervals():
    add_run("parallel", parallel=40.0)
    table = report()
    assert cells(table, "parallel")[:3] == ["10.0 [5.0, 15.0]", "20.0 [15.0, 25.0]", "40.0 [35.0, 45.0]"]
    topline = cells(table, "CLIP with written captions")
    assert (topline[2], topline[6]) == ("80.0 [75.0, 85.0]", "–")
    assert cells(table, "chance")[2] == "9.9"
    assert "Not run: cascaded, cascaded-cif, hybrid, hybrid-cif." in table
    assert "## Keywords" not in table
    assert "## Word boundaries" not in table
    assert "## Keyword localisation" not in table


def test_word_recall_is_omitted_without_content_words():
    add_run("cascaded", wordless=True, cascaded=20.0)
    assert "## Word recall" not in report()


def test_tables_of_hit_rate_and_word_recall():
    add_run("parallel", parallel=40.0)
    add_run("cascaded", cascaded=20.0)
    table = report()
    assert cells(table, "cascaded", "Hit rate of the first keywords") == [
        "31.0 [26.0, 36.0]", "32.0 [27.0, 37.0]", "33.0 [28.0, 38.0]",
    ]  # fmt: skip
    assert "| 1 word in 2–4 captions | 2 words in 10 or more captions |" in table
    assert cells(table, "cascaded", "Word recall") == ["100.0", "51.7"]
    assert "Words with the highest recall, cascaded: dog (75 % of 40), cat (5 % of 20)." in table
    assert "Words with the lowest recall, cascaded: cat (5 % of 20), dog (75 % of 40)." in table
    plotted = json.loads((paths.report_folder(PRESET) / "plots/slots.json").read_text())
    assert [row["hit rate"] for row in plotted] == [31.0, 32.0, 33.0]


def test_results_of_other_seeds_are_named_and_left_out(caplog):
    caplog.set_level("INFO")
    add_run("parallel", 0, parallel=40.0)
    add_run("parallel", 7, parallel=80.0)
    add_run("mine", 0, parallel=80.0)
    assert cells(report(), "parallel")[2] == "40.0 [35.0, 45.0]"
    assert caplog.text.endswith("not in the report, because `run` in params.yaml does not name them: "
                                "mine/seed-0, parallel/seed-7\n")  # fmt: skip


def test_seeds_are_averaged_and_a_hybrid_has_one_row_per_branch():
    for seed, recall in enumerate((40.0, 50.0, 60.0)):
        add_run("hybrid-cif", seed, cif=True, parallel=recall, cascaded=recall / 2)
    add_run("parallel", parallel=55.0)
    table = report()
    assert cells(table, "hybrid-cif/parallel")[2] == "50.0 ± 10.0"
    assert cells(table, "hybrid-cif/cascaded")[2] == "25.0 ± 5.0"
    assert cells(table, "parallel")[2] == "55.0 [50.0, 60.0]"
    assert cells(table, "hybrid-cif", "Keywords")[0] == "30.0 ± 0.0"
    assert cells(table, "most frequent tokens", "Keywords") == ["–"] * 4 + ["10.0 ± 0.0", "17.0 ± 0.0", "2.5 ± 0.0"]
    assert cells(table, "evenly spaced", "Word boundaries")[1] == "−3.0 ± 0.0"
    summary = json.loads((paths.report_folder(PRESET) / "summary.json").read_text())
    assert summary == {
        "R@10/best": 55.0,
        "R@10/topline": 80.0,
        "best/topline": 68.75,
        "R@10/chance": 9.9,
        "R@10/parallel": 55.0,
        "R@10/hybrid-cif/parallel": 50.0,
        "R@10/hybrid-cif/cascaded": 25.0,
    }
    losses = json.loads((paths.report_folder(PRESET) / "plots/loss.json").read_text())
    assert {(row["run"], row["seed"]) for row in losses} == {("parallel", 0), *(("hybrid-cif", s) for s in range(3))}


@pytest.mark.parametrize(("seeds", "note"), [(1, False), (2, True)])
def test_mean_and_deviation_are_explained_where_there_are_some(seeds, note):
    for seed in range(seeds):
        add_run("parallel", seed, parallel=40.0)
    assert ("With ±: mean and standard deviation over seeds (number of seeds: parallel: 2)." in report()) == note


def test_the_highest_weight_of_cif_fills_the_box():
    assert weights_path([0.25, 0.5], 0.5) == "M0 100V50H200.0V0H400.0"
    assert weights_path([0.0], 1.0) == "M0 100V100H400.0"
    assert weights_path([], 0.5) == ""


def test_page_is_self_contained_and_escapes_its_texts():
    add_run("cascaded-cif", cif=True, cascaded=40.0)
    add_run("parallel", parallel=50.0)
    first = [path.read_bytes() for path in write_report(SETTINGS, PRESET)]
    assert [path.read_bytes() for path in write_report(SETTINGS, PRESET)] == first
    page = (paths.report_folder(PRESET) / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(", page)
    links = set(re.findall(r'(?:src|href)="([^",]*)', page))
    assert {link for link in links if not link.startswith("#")} == {"data:", "data:audio/flac;base64"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(re.findall(r' id="([\w-]+)"', page))
    assert "<script>alert" not in page
    assert page.count("</script>") == 4  # the pictures, their small copies, the utterances and the code
    pictures = data_of(page, "pictures")
    assert pictures.keys() == set(re.findall(r'data-picture="(\w+)"', page)) == {"p0", "p1", "p2"}


def test_page_lists_the_utterances_with_the_output_of_each_architecture():
    add_run("cascaded-cif", cif=True, cascaded=40.0)
    examples = add_run("parallel", parallel=50.0) / "examples.json"
    examples.write_text(examples.read_text().replace('"rank": 1, "keywords"', '"rank": 3, "keywords"'))
    report()
    page = (paths.report_folder(PRESET) / "report.html").read_text(encoding="utf-8")
    listed = data_of(page, "utterances")
    assert [utterance["text"] for utterance in listed] == CAPTIONS
    assert listed[1] == {
        "id": "u1",
        "text": CAPTIONS[1],
        "speaker": "speaker 1",
        "picture": "p1",
        "audio": "data/scenes/1.wav",
        "example": 2,
        "outputs": {
            "parallel": {"rank": 3, "keywords": []},
            "cascaded-cif": {"rank": 1, "keywords": ["dog", "</script>"]},
        },
    }
    assert data_of(page, "thumbnails").keys() == {"p0", "p1", "p2"}
    assert 'id="example-2"' in page


def test_page_shows_the_commands_of_each_model():
    add_run("cascaded", cascaded=40.0)
    add_run("parallel", parallel=50.0)
    report()
    page = (paths.report_folder(PRESET) / "report.html").read_text(encoding="utf-8")
    commands = re.findall(r"<code[^>]*>(.*?)</code>", page)
    assert commands == [
        "sclip index data/scenes --model models/scenes/parallel/seed-0 --out pictures.index",
        "sclip search pictures.index data/scenes/0.wav",
        "sclip demo --model models/scenes/parallel/seed-0 --images data/scenes",
        "sclip index data/scenes --model models/scenes/cascaded/seed-0 --out pictures.index",
        "sclip search pictures.index data/scenes/0.wav",
        "sclip keywords data/scenes/0.wav --model models/scenes/cascaded/seed-0",
        "sclip demo --model models/scenes/cascaded/seed-0 --images data/scenes",
    ]
    for _, name, *arguments in map(shlex.split, commands):
        command = main.get_command(Context(main), name)
        command.make_context(name, arguments)  # raises UsageError for options that do not exist


def test_every_control_and_table_of_the_page_has_a_name():
    add_run("cascaded-cif", cif=True, cascaded=40.0)
    add_run("parallel", parallel=50.0)
    report()
    page = (paths.report_folder(PRESET) / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'(?:aria-labelledby|for)="([^"]+)"', page):
        assert name in ids
    for tag in re.findall(r"<(?:table|section|nav|audio|svg|article|form)\b[^>]*>", page):
        assert "aria-label" in tag, tag
    for control in re.findall(r"<(?:input|select)\b[^>]*>", page):
        identity = re.search(r' id="([^"]+)"', control)
        assert 'type="radio"' in control or f'for="{identity[1]}"' in page, control
    assert all(" alt=" in image for image in re.findall(r"<img\b[^>]*>", page))
    assert all("scope=" in header for header in re.findall(r"<th\b[^>]*>", page))
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def luminance(colour: str) -> float:
    """Return the relative luminance that WCAG defines."""
    digits = colour.strip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_of_the_page_have_enough_contrast(scheme):
    style = (Path(sclip.report.__file__).parent / "colours.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+);", light if scheme == "light" else dark))
    texts = ["ink", "muted", *(f"c{i}" for i in range(8))]
    for name, least in [*((name, 4.5) for name in texts), ("field", 3)]:  # WCAG 2.2 AA
        for background in ("paper", "panel"):
            lighter, darker = sorted((luminance(colours[name]), luminance(colours[background])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= least, (name, background)


def test_report_reads_what_evaluate_writes():
    rows = [row(i) for i in range(len(CAPTIONS))]
    dataset = write_test_split(paths.manifest(PRESET).parent, rows, frames=range(39, 40))
    for arch in ("hybrid", "hybrid-cif"):
        out = paths.results_folder(PRESET, arch, 0)
        evaluate(model(arch), dataset, "cpu", out, about={"preset": PRESET, "seed": 0})
    table = report()
    assert cells(table, "hybrid/cascaded")[2].startswith("100.0")
    assert len(cells(table, "hybrid-cif", "Keywords")) == 7
    assert len(cells(table, "at random", "Word boundaries")) == 4
    assert all(cell.endswith("]") for cell in cells(table, "hybrid-cif", "Keyword localisation"))
    assert not (paths.report_folder(PRESET) / "report.html.unfinished").exists()


@pytest.mark.parametrize("copy", ["parallel/seed-1", "hybrid/seed-0"])
def test_a_copied_results_folder_is_not_another_run(copy):
    folder = add_run("parallel", parallel=50.0)
    shutil.copytree(folder, folder.parents[1] / copy)
    arch, _, seed = copy.partition("/seed-")
    message = (
        f"{copy}/metrics.json: expected the results of preset scenes, arch {arch}, seed {seed}, found those of preset "
        f"scenes, arch parallel, seed 0; delete this folder or move it back, or run `sclip evaluate --preset scenes "
        f"--arch {arch} --seed {seed}` to replace them"
    )
    with pytest.raises(UserError, match=message):
        report()


def test_missing_files_are_reported_with_the_command_that_writes_them():
    message = (
        r"no metrics.json of the architectures and seeds that `run` in params.yaml names \(parallel, .*; 0, 1, 2\); "
        "run `sclip evaluate --preset scenes --arch parallel`"
    )
    with pytest.raises(UserError, match=message):
        report()
    folder = add_run("cascaded", seed=2, cascaded=40.0)
    (folder / "examples.json").unlink()
    message = r"examples.json: no such file; run `sclip evaluate .* --arch cascaded --seed 2`"
    with pytest.raises(UserError, match=message):
        report()


def test_a_second_report_of_a_preset_is_refused_while_the_first_writes():
    add_run("parallel", parallel=50.0)
    with (
        locked(paths.report_folder(PRESET)),
        pytest.raises(UserError, match=r"results/scenes: another command is writing there; wait until it has ended"),
    ):
        report()
    report()


def test_results_of_an_architecture_that_the_recipe_lacks_are_no_results():
    add_run("parallel", parallel=50.0)
    others = {arch: one for arch, one in SETTINGS.experiments[PRESET].items() if arch != "parallel"}
    with pytest.raises(
        UserError, match=r"no metrics.json of the architectures and seeds that `run` in params.yaml names"
    ):
        write_report(dataclasses.replace(SETTINGS, experiments={PRESET: others}), PRESET)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"40\t2,5", r"line 3: expected a step, a tab and a number, found '40\\t2,5'"),
        (b"40", "line 3: expected a step, a tab and a number, found '40'"),
        (b"40\tnan", r"line 3: expected a step, a tab and a number, found '40\\tnan'"),
        (b"40\t2.\xff", "not UTF-8"),
    ],
)
def test_damaged_curve_is_reported_with_its_line(line, message):
    curve = add_run("parallel", parallel=50.0) / "curves/plots/metrics/train/loss/total.tsv"
    curve.write_bytes(b"step\ttotal\n20\t3.5\n" + line + b"\n")
    with pytest.raises(UserError, match=rf"total\.tsv: {message}"):
        report()


def test_random_encoders_are_marked():
    folder = add_run("parallel", parallel=50.0)
    assert "Not a result" not in report()
    metrics = folder / "metrics.json"
    replace_in_metrics(metrics, '"vit"', '"vit (random weights, seed 0)"')
    assert "Not a result of trained encoders: vit (random weights, seed 0)." in report()
    assert "vit (random weights, seed 0)" in (paths.report_folder(PRESET) / "report.html").read_text()


DIFFERENT_CONDITIONS = [
    ('"pictures": 3', '"pictures": 4', "pictures"),
    ('"pictures": 3', '"pictures": 3, "transcripts": 5', "transcripts"),
    ('"clip": "vit"', '"clip": "vit-l"', "encoders"),
    ('"clip": "vit"}', '"clip": "vit"}, "transcripts": "tiny-whisper"', "speech recogniser"),
    ("stored in fp16", "stored in fp32", "hidden states"),
    ("English stop words", "none: language not given", "stop words"),
    ("hash of vit", "another hash", "weights of the encoders"),
    ("hash of the utterances", "another hash", "test data"),
]


@pytest.mark.parametrize(("key", "other", "condition"), DIFFERENT_CONDITIONS)
def test_runs_that_were_evaluated_differently_are_refused(key, other, condition):
    add_run("parallel", parallel=50.0)
    metrics = add_run("hybrid", parallel=50.0, cascaded=40.0) / "metrics.json"
    replace_in_metrics(metrics, key, other)
    message = rf"hybrid, seed 0, was evaluated with other {condition} than parallel, seed 0; run `sclip evaluate"
    with pytest.raises(UserError, match=message):
        report()


def test_report_names_the_features_and_stop_words():
    add_run("cascaded", cascaded=20.0)
    table = report()
    page = (paths.report_folder(PRESET) / "report.html").read_text(encoding="utf-8")
    for text in (table, page):
        assert "Speech features: hidden states stored in fp16." in text
        assert text.count("Content words: all words except English stop words and punctuation.") == 2  # in two tables
        assert "text; metrics that need text" not in text
        assert "count once" not in text


def test_report_counts_distinct_texts_and_rows_without_text():
    metrics = add_run("cascaded", cascaded=20.0) / "metrics.json"
    replace_in_metrics(metrics, "English stop words", "none: language not given")
    replace_in_metrics(metrics, '"captions": 3, "distinct_captions": 3', '"captions": 2, "distinct_captions": 1')
    table = report()
    assert table.count("2 of 3 utterances have text; metrics that need text are measured on these.") == 2
    assert table.count("Repeated texts count once; distinct texts among the 2 captions: 1.") == 1
    assert "Content words: all words, without punctuation (stop words: none: language not given)." in table


def test_page_shows_the_settings_that_the_models_recorded():
    """Since a training, params.yaml may have changed."""
    for arch, seed, settings in (("parallel", 0, "7 steps"), ("parallel", 1, "9 steps"), ("hybrid", 0, "7 steps")):
        file = add_run(arch, seed, parallel=20.0) / "metrics.json"
        metrics = read_metrics(file)
        metrics["about"]["training"] = f"{settings} of 3 utterances"
        write_metrics(file, metrics)
    add_run("cascaded", cascaded=20.0)
    mixed = "parallel, seed 0: 7 steps of 3 utterances. parallel, seed 1: 9 steps of 3 utterances."
    assert f"Mean and deviation mix seeds that were trained in different ways. {mixed}" in report()
    page = Path(f"results/{PRESET}/report.html").read_text()
    training = re.sub(r"<.*?>", "", page.split("<dt>Training</dt>")[1].split("</div>")[0])
    lines = [line.strip() for line in training.splitlines() if line.strip()]
    assert lines[:6] == [
        "7 steps of 3 utterances",
        "parallel: seed 0",
        "hybrid: seed 0",
        "9 steps of 3 utterances",
        "parallel: seed 1",
        "settings not recorded",
    ]


def test_report_says_that_seeds_are_of_different_architectures():
    """As after `sclip train --seed 1 -S recipes.…head.keywords.slots=4`, which docs/results.md recommends."""
    for seed, slots in enumerate((8, 4, None)):
        file = add_run("cascaded", seed, cascaded=20.0) / "metrics.json"
        metrics = read_metrics(file)
        if slots:
            head, objective = {"keywords": {"slots": slots, "dropout": 0.1}}, {"margin": 0.0}
            metrics["about"]["architecture"] = {"head": head, "objective": objective}
        write_metrics(file, metrics)
    lines = [
        "cascaded, seed 0: settings not recorded, head.keywords.slots 8",
        "cascaded, seed 1: settings not recorded, head.keywords.slots 4",
        "cascaded, seed 2: settings not recorded.",
    ]
    assert f"Mean and deviation mix seeds that were trained in different ways. {'. '.join(lines)}" in report()


def test_report_says_which_recalls_are_certain():
    metrics = add_run("parallel", parallel=20.0) / "metrics.json"
    certain = "The test split has 3 pictures, so speech → image R@5 and R@10 is 100 % for every model."
    assert report().count(certain) == 1
    replace_in_metrics(metrics, '"pictures": 3', '"pictures": 11')
    assert "for every model" not in report()


def test_row_names_never_break_inside_words():
    """Refuse `overflow-wrap: anywhere`: with it, a browser may shrink a column to the width of one letter."""
    style = (Path(sclip.report.__file__).parent / "page.css").read_text()
    rules = re.findall(r"([^{}]*)\{([^{}]*)\}", style)
    cells = [rule for selector, rule in rules if re.search(r"\bt[hd]\b", selector)]
    assert cells
    assert not [rule for rule in cells if re.search(r"overflow-wrap: *anywhere|word-break: *break-(all|word)", rule)]


def add_speakers(folder: Path, names: list[str], recall: float) -> None:
    group = {"utterances": 2, "parallel": {"R@1": recall / 2, "R@10": recall}}
    groups = {"speaker": {"count": 130, "groups": [{"name": name, **group} for name in names]}}
    write_metrics(folder / "metrics.json", read_metrics(folder / "metrics.json") | {"groups": groups})


def test_report_shows_recalls_by_speaker_if_the_corpus_names_several():
    names = ["anna", "x|<b>\x1b[2J", *(f"voice {i}" for i in range(40))]
    for seed, recall in ((0, 20.0), (1, 40.0)):
        add_speakers(add_run("parallel", seed, parallel=50.0), names, recall)
    table = report()
    page = (paths.report_folder(PRESET) / "report.html").read_text(encoding="utf-8")
    assert "## By speaker" in table
    (line,) = [line for line in table.splitlines() if line.startswith("| anna ")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["anna", "2", "15.0 ± 7.1", "30.0 ± 14.1"]
    assert "| x\\|<b>\\x1b[2J | 2 |" in table
    assert "x|&lt;b&gt;\\x1b[2J" in page
    assert "\x1b" not in table + page
    assert "The 20 speakers with most utterances, of 130." in table
    assert sum(line.startswith("| voice ") for line in table.splitlines()) == 18


def test_report_has_no_table_of_speakers_without_several_speakers():
    add_run("parallel", parallel=50.0)
    assert "By speaker" not in report()
