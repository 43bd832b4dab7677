"""Run each stage by its command, on a corpus of a dozen pictures."""

import errno
import json
import os
import shutil
from pathlib import Path

import miniature
import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from project import run_sclip, write_encoders, write_preset
from shipped import PARAMS
from small import SPEECH_CONFIG
from transformers import Wav2Vec2Config, Wav2Vec2Model

import sclip
from sclip import paths
from sclip.config import FeaturesConfig
from sclip.corpora.manifest import write_manifest
from sclip.distributed import locked_by_main
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import Problems
from sclip.evaluation.inference import infer
from sclip.evaluation.retrieval import first_ranks, recalls
from sclip.features.dataset import Dataset
from sclip.features.encode import FeatureEncoder
from sclip.features.store import FeatureStore
from sclip.features.vectors import ClipVectors

ARCHITECTURES = ("parallel", "cascaded", "cascaded-cif", "hybrid", "hybrid-cif")
TINY_MANIFEST = {"kind": "manifest", "path": "data/tiny/manifest.jsonl"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Write a folder with small encoders, params.yaml, a corpus, its features and its vectors."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_encoders(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_preset("tiny", "params.yaml")
        for command in (["make-corpus", "tiny"], ["extract-features"], ["embed-clip"]):
            run_sclip(*command)
    return folder


@pytest.fixture
def tiny_project(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    return workspace


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_trains_and_is_evaluated(arch, tiny_project):
    run_sclip("train", "--arch", arch, "--device", "cpu")
    model = sclip.load(f"models/tiny/{arch}/seed-0")
    assert model.name == arch
    assert Path(f"models/tiny/{arch}/seed-0/clip").is_dir()  # what lies in a folder cannot be had elsewhere
    run_sclip("evaluate", "--arch", arch, "--device", "cpu")
    metrics = json.loads(Path(f"results/tiny/runs/{arch}/seed-0/metrics.json").read_text())
    assert metrics["counts"]["pictures"] == 6
    assert metrics["counts"]["utterances"] == 12
    assert metrics["about"]["stop_words"] == "English stop words"
    assert metrics["about"]["training"].startswith("6 steps of 6 utterances, fp32, learning rate 0.001, ")
    found = metrics["speech_to_image"]["parallel" if arch in ("parallel", "hybrid", "hybrid-cif") else "cascaded"]
    assert found["R@1"]["value"] <= found["R@5"]["value"] <= found["R@10"]["value"] == 100  # of six
    assert metrics["speech_to_image"]["chance"]["R@1"] == pytest.approx(100 / 6, abs=0.01)
    assert ("keywords" in metrics) == (arch != "parallel")
    assert ("boundaries" in metrics) == arch.endswith("cif")


def test_a_model_of_another_architecture_or_seed_is_not_evaluated_without_a_word(tiny_project):
    run_sclip("train", "--arch", "parallel", "--device", "cpu")
    trained = Path("models/tiny/parallel/seed-0")
    for copy in ("hybrid/seed-8", "parallel/seed-8"):
        shutil.copytree(trained, Path("models/tiny", copy))
    refused = run_sclip("evaluate", "--arch", "hybrid", "--seed", "8", "--device", "cpu", status=1)
    assert "models/tiny/hybrid/seed-8: expected a model of architecture hybrid, found one of parallel" in refused
    warned = run_sclip("evaluate", "--arch", "parallel", "--seed", "8", "--device", "cpu")
    assert (
        "parallel/seed-8: this model was trained with preset tiny and seed 0; its results count as those of" in warned
    )
    for written in ("models/tiny/hybrid/seed-8", "models/tiny/parallel/seed-8", "results/tiny/runs/parallel/seed-8"):
        shutil.rmtree(written)


def test_report_has_a_table_and_a_page_with_audio(tiny_project):
    run_sclip("train", "--arch", "hybrid-cif", "--device", "cpu")
    run_sclip("evaluate", "--arch", "hybrid-cif", "--device", "cpu")
    run_sclip("report")
    assert "hybrid-cif" in Path("results/tiny/table.md").read_text()
    assert "<audio" in Path("results/tiny/report.html").read_text()


def test_features_have_no_faults_and_are_not_computed_again(tiny_project):
    assert "0 faults" in run_sclip("verify")
    assert "0 shards computed" in run_sclip("extract-features")


def test_plan_predicts_the_size_of_the_features(tiny_project, monkeypatch):
    for seconds in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
        monkeypatch.setattr(f"sclip.features.plan.{seconds}", 0.05)
    told = run_sclip("plan", "tiny", "--device", "cpu")
    assert "28 utterances (all measured), 22 pictures" in told
    assert "as features.precision says in presets.tiny" in told
    kept = sum(path.stat().st_size for path in Path("data/tiny/features").glob("*.safetensors"))
    planned = float(told.split("fp16  ")[1].split(" MB")[0]) * 1e6
    assert planned == pytest.approx(kept, abs=1e5)


def test_a_command_works_in_the_folder_of_params_yaml(tiny_project, tmp_path, monkeypatch):
    """Paths on the command line stay relative to the current folder."""
    run_sclip("train", "--arch", "parallel", "--seed", "3", "--device", "cpu")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copytree(tiny_project / "models/tiny/parallel/seed-3", "mine")
    params = ("--params", os.path.relpath(tiny_project / "params.yaml"))
    assert "28 utterances" in run_sclip("make-corpus", "--preset", "tiny", *params)
    assert "0 shards computed" in run_sclip("extract-features", *params)
    assert "0 faults" in run_sclip("verify", *params)
    run_sclip("train", "--arch", "parallel", "--seed", "4", "--device", "cpu", *params)
    assert (tiny_project / "models/tiny/parallel/seed-4/config.json").is_file()
    assert "results/tiny/runs/parallel/imported" in run_sclip("evaluate", "--model", "mine", "--device", "cpu", *params)
    results = tiny_project / "results/tiny/runs/parallel/imported/metrics.json"
    metrics = json.loads(results.read_text())
    assert metrics["about"]["model"] == str(tmp_path / "elsewhere/mine")
    results.write_text(json.dumps(metrics | {"format": "sclip metrics 1"}))  # of an earlier version
    shutil.copytree("mine", "other")
    refused = run_sclip("evaluate", "--model", "other", "--device", "cpu", *params, status=1)
    assert f"runs/parallel/imported: has the results of {tmp_path}/elsewhere/mine; move this folder to keep" in refused
    run_sclip("evaluate", "--model", "mine", "--device", "cpu", *params)
    assert sorted(path.name for path in Path().iterdir()) == ["mine", "other"]
    shutil.rmtree(tiny_project / "results/tiny/runs/parallel/imported")


def test_a_manifest_can_be_the_corpus(tiny_project):
    chosen = write_preset("own", corpus=TINY_MANIFEST)
    assert "28 utterances" in run_sclip("make-corpus", *chosen)
    for command in ("extract-features", "embed-clip"):
        assert "28 " in run_sclip(command, *chosen)
    write_preset("own", corpus={"kind": "manifest", "path": "data/own/manifest.jsonl"})
    assert "move your manifest to another path" in run_sclip("make-corpus", *chosen, status=1)


def test_stereo_ogg_and_transparent_png_are_converted(tiny_project, monkeypatch):
    """Convert recordings of 44.1 kHz with two channels, and drawings without a background."""
    Path("drawings").mkdir()
    rows = ["audio,image,text,split"]
    for i, split in enumerate(["train"] * 4 + ["dev"] * 2 + ["test"] * 2):
        noise = np.random.default_rng(i).standard_normal((44_100 * (i + 1), 2)) / 10
        soundfile.write(f"drawings/{i}.ogg", noise, 44_100)
        drawing = Image.new("RGBA", (40, 30))
        drawing.paste((0, 20 * i, 0, 255), (10 + i, 5, 30, 25))
        drawing.save(f"drawings/{i}.png")
        rows.append(f"{i}.ogg,{i}.png,a green drawing,{split}")
    Path("drawings/table.csv").write_text("\n".join(rows))
    columns = {name: name for name in ("audio", "image", "text", "split")}
    corpus = {"kind": "table", "path": "drawings/table.csv", "columns": columns}
    chosen = write_preset("drawings", corpus=corpus, features={"compute": "bf16"})
    monkeypatch.setattr("sclip.features.plan.SPEECH_SECONDS", 0.3)
    assert "8 utterances (all measured), 8 pictures" in run_sclip("plan", *chosen)
    checked = run_sclip("check-corpus", *chosen)
    assert "fault" not in checked
    run_sclip("make-corpus", *chosen)
    extracted = run_sclip("extract-features", *chosen)
    for output in (checked, extracted):
        assert output.count("44.1 kHz stereo, mixed down and resampled to 16 kHz") == 1
        assert "note     8 recordings that are mixed down or resampled; the first: " in output
    assert "8 utterances, 0.01 hours" in extracted
    assert "8 pictures" in run_sclip("embed-clip", *chosen)
    images = ClipVectors.open("data/drawings/vectors").images
    assert torch.pdist(images).min() > 1e-3  # no two drawings became the same flat colour


def test_training_without_stored_states_gives_the_same_losses(tiny_project):
    """Compare losses with those of stored states, up to rounding."""
    histories = []
    for preset, features in (("stored", {}), ("online", {"online": True})):
        chosen = write_preset(preset, corpus=TINY_MANIFEST, features={"precision": "fp32", **features})
        run_sclip("make-corpus", *chosen)
        assert "28 utterances" in run_sclip("extract-features", *chosen)
        run_sclip("embed-clip", *chosen)
        run_sclip("train", "--arch", "hybrid-cif", *chosen, "--device", "cpu")
        assert "cascaded: speech to image" in run_sclip("evaluate", "--arch", "hybrid-cif", *chosen, "--device", "cpu")
        history = json.loads(Path(f"models/{preset}/hybrid-cif/seed-0/history.json").read_text())
        histories.append([row["train/loss/total"] for row in history])
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    assert [path.name for path in Path("data/online/features").iterdir()] == ["index.json"]
    assert "0 faults" in run_sclip("verify", *chosen)


CODED = {"corpus": TINY_MANIFEST, "features": {"components": 6, "batch_seconds": 2.0}}


@pytest.fixture(scope="module")
def coded(workspace):
    """Store 8-bit codes of the same corpus, train a model on them, and return the options that choose both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        preset = write_preset("coded", **CODED)
        run_sclip("make-corpus", *preset)
        chosen = (*preset, "--device", "cpu")
        run_sclip("extract-features", *chosen)
        run_sclip("embed-clip", *chosen)
        run_sclip("train", "--arch", "hybrid-cif", *chosen)
    return ("--arch", "hybrid-cif", *chosen)


def test_the_metrics_and_the_card_name_the_hidden_states(tiny_project, coded):
    run_sclip("evaluate", *coded)
    about = json.loads(Path("results/coded/runs/hybrid-cif/seed-0/metrics.json").read_text())["about"]
    states = "8-bit codes along 6 directions of hidden states computed in fp32"
    assert about["states"] == about["training_states"] == states
    assert f"- states in training: {states}" in Path("models/coded/hybrid-cif/seed-0/README.md").read_text()


def test_exact_scores_equal_those_of_encode_speech(tiny_project, coded):
    """Write exact scores to a folder of their own, and compare them with vectors of `encode_speech`."""
    run_sclip("evaluate", *coded)
    stored = Path("results/coded/runs/hybrid-cif/seed-0/metrics.json")
    before = stored.read_bytes()
    assert "results/coded/exact/hybrid-cif/seed-0: cascaded: speech" in run_sclip("evaluate", *coded, "--exact")
    assert stored.read_bytes() == before
    assert {path.name for path in Path("results/coded").iterdir()} == {"runs", "exact"}
    metrics = json.loads(Path("results/coded/exact/hybrid-cif/seed-0/metrics.json").read_text())
    assert metrics["about"]["states"] == "exact hidden states, computed online in fp32"
    model = sclip.load("models/coded/hybrid-cif/seed-0")
    given = paths.manifest("coded"), paths.features_folder("coded"), paths.vectors_folder("coded"), "test"
    data = Dataset.open(*given)
    rows = torch.arange(len(data.images))
    for branch, codes in infer(model, data).vectors.items():
        exact = model.encode_speech([row.audio for row in data.rows], branch=branch)
        assert not bool((F.cosine_similarity(codes, exact) > 1 - 1e-5).all())  # codes are not exact
        for way, ranks in zip(
            ("speech_to_image", "image_to_speech"), first_ranks(exact, data.image_index, data.images, rows), strict=True
        ):
            found = {k: metrics[way][branch][f"R@{k}"]["value"] for k in (1, 5, 10)}
            assert found == pytest.approx(recalls(ranks), abs=1e-4)
            assert metrics[way][branch]["mean_rank"]["value"] == pytest.approx(float(ranks.double().mean()), abs=1e-4)


@pytest.mark.parametrize("seconds", [0.1, 20.0])
def test_exact_vectors_equal_those_of_encode_speech(tiny_project, coded, seconds):
    """Vary `batch_seconds`, which limits how many recordings the encoder takes at once."""
    model = sclip.load("models/coded/hybrid-cif/seed-0")
    config = FeaturesConfig(online=True, precision="fp32", batch_seconds=seconds)
    listener, problems = FeatureEncoder(model.speech, None, config, "cpu"), Problems(skip=True)
    sizes = []
    hook = model.speech.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    data = Dataset.open_exact(paths.manifest("coded"), paths.vectors_folder("coded"), "test", listener, problems)
    vectors = infer(model, data).vectors
    hook.remove()
    assert sum(sizes) == len(data)
    assert max(sizes) * float(data.frames.min()) * 0.02 < seconds or sizes == [1] * len(data)
    for branch, found in vectors.items():
        wanted = model.encode_speech([row.audio for row in data.rows], branch=branch)
        assert bool((F.cosine_similarity(found, wanted) > 1 - 1e-5).all()), branch


def test_exact_scores_need_no_features(tiny_project, coded):
    """Evaluate a model on a corpus that has only CLIP's vectors. A bad recording is named and left out."""
    folder = Path("data/bare")
    rows = [json.loads(line) for line in Path("data/coded/manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "test"]
    Path("bad.wav").write_bytes(b"no audio")
    rows[0]["audio"] = str(Path("bad.wav").resolve())
    folder.mkdir()
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = (*write_preset("bare", **CODED), "--device", "cpu")
    run_sclip("embed-clip", *chosen)
    output = run_sclip("evaluate", "--exact", "--model", "models/coded/hybrid-cif/seed-0", *chosen)
    assert "skipped  1 row: manifest row 1 (test-00000-0): audio bad.wav: cannot be read" in output
    metrics = json.loads(Path("results/bare/exact/hybrid-cif/imported/metrics.json").read_text())
    assert metrics["counts"]["utterances"] == len(rows) - 1
    assert not (folder / "features").exists()


def test_an_override_that_contradicts_the_stored_states_is_refused(tiny_project, coded):
    online = ("-S", "presets.coded.features.online=true", "-S", "presets.coded.features.components=null")
    for command in ("evaluate", "train"):
        output = run_sclip(command, *coded, *online, status=1)
        assert output == (
            "Error: data/coded/features: holds 8-bit codes along 6 directions of hidden states computed in fp32 "
            "(features: online false, components 6), and presets.coded.features asks for online true, components null; "
            "run `sclip extract-features --preset coded -S presets.coded.features.online=true "
            "-S presets.coded.features.components=null` to compute them again, or set these keys back\n"
        )
    assert "computed in fp32" in run_sclip("evaluate", *coded, "-S", "presets.coded.features.compute=bf16", status=1)
    run_sclip("evaluate", *coded, "-S", "presets.coded.features.batch_seconds=5.0")  # decides no state


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "presets.tiny.encoders.speech.name=other",
            "presets.tiny.encoders.speech.name: found 'other', but what",
        ),
        ("presets.tiny.encoders.speech.normalize_waveform=true", "normalize_waveform: found True, but what is stored"),
        ("presets.tiny.encoders.clip.name=RN50/openai", "encoders.clip.name: found 'RN50/openai', but what is stored"),
        (
            "recipes.published.cascaded.head.keywords.slots=3",
            "was trained with another architecture than params.yaml and -S",
        ),
    ],
)
def test_an_override_that_contradicts_the_trained_model_is_refused(tiny_project, override, message):
    if not Path("models/tiny/cascaded/seed-0").exists():
        run_sclip("train", "--arch", "cascaded", "--device", "cpu")
    assert message in run_sclip("evaluate", "--arch", "cascaded", "-S", override, status=1)


@pytest.mark.parametrize("kind", ["flickr8k", "spokencoco"])
def test_published_corpora_run_from_the_manifest_to_the_report(kind, tiny_project):
    getattr(miniature, kind)(Path(kind), odd=True)
    if kind == "flickr8k":
        miniature.ctm(Path(kind), odd=True)
        miniature.keyword_labels(Path(kind))
    corpus = {"kind": kind, "path": kind} | ({"split": "karpathy"} if kind == "spokencoco" else {})
    chosen = write_preset(kind, corpus=corpus, on_error="skip")
    made = run_sclip("make-corpus", *chosen)
    assert {"flickr8k": "1 row skipped", "spokencoco": "2 rows skipped"}[kind] in made
    assert "alignments that are not of the caption" in made
    assert "fault" in run_sclip("check-corpus", *chosen, status=1)
    run_sclip("extract-features", *chosen)
    run_sclip("embed-clip", *chosen)
    run_sclip("train", "--arch", "hybrid-cif", *chosen)
    assert "cascaded: speech to image R@10" in run_sclip("evaluate", "--arch", "hybrid-cif", *chosen)
    metrics = json.loads(Path(f"results/{kind}/runs/hybrid-cif/seed-0/metrics.json").read_text())
    assert metrics["boundaries"]["utterances"] == (20 if kind == "flickr8k" else 8)  # those with word times
    assert metrics["localization"].keys() == {"all", "content"}
    assert metrics.get("keyword_spotting", {}).get("utterances") == (4 if kind == "flickr8k" else None)
    run_sclip("report", *chosen)
    table = Path(f"results/{kind}/table.md").read_text()
    assert "Word boundaries" in table
    assert ("| hybrid-cif, slots | " in table) == (kind == "flickr8k")


@pytest.mark.parametrize("kind", ["places", "speech-coco", "pairs", "hub"])
def test_other_corpora_run_from_their_files_to_the_vectors(kind, tiny_project):
    getattr(miniature, kind.replace("-", "_"))(Path(kind))
    corpus = {"kind": kind, "path": kind} | {
        "places": {"split": "seen"},
        "pairs": {"splits": {"validation": "dev"}},
        "hub": {"columns": {"audio": "audio", "image": "image", "text": "caption", "words": "timed"}},
    }.get(kind, {})
    chosen = write_preset(f"other-{kind}", corpus=corpus)
    run_sclip("check-corpus", *chosen)
    run_sclip("make-corpus", *chosen)
    run_sclip("extract-features", *chosen)
    run_sclip("embed-clip", *chosen)
    rows = Path(f"data/other-{kind}/manifest.jsonl").read_text().splitlines()
    assert len(rows) == {"places": 12, "speech-coco": 12, "pairs": 7, "hub": 8}[kind]
    assert len(FeatureStore.open(Path(f"data/other-{kind}/features")).ids) == len(rows)
    assert all("words" in json.loads(row) for row in rows) == (kind == "speech-coco")


def test_german_captions_and_an_xlsr_encoder_need_no_code(tiny_project):
    """Use a table of German captions and an encoder of XLS-R's layout, with a preset alone."""
    sizes = {**SPEECH_CONFIG, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    SpeechEncoder(Wav2Vec2Model(Wav2Vec2Config(**sizes)), Source("random")).save(Path("xlsr"))
    rows = [json.loads(line) for line in Path("data/tiny/manifest.jsonl").read_text().splitlines()]
    said_of = ["Zwei grüne Äpfel über einem Haus", "ein großer Hund läuft", "drei weiße Vögel"]
    lines = [f"{row['audio']}\t{row['image']}\t{said_of[i % 3]}\t{row['split']}" for i, row in enumerate(rows)]
    Path("data/tiny/deutsch.tsv").write_text("\n".join(["ton\tbild\ttext\tteil", *lines]), encoding="utf-8")
    columns = {"audio": "ton", "image": "bild", "text": "text", "split": "teil"}
    corpus = {"kind": "table", "path": "data/tiny/deutsch.tsv", "columns": columns}
    encoders = {"speech": {"name": "xlsr"}, "clip": {"name": "local-dir:clip"}}
    chosen = write_preset("deutsch", corpus=corpus, encoders=encoders)
    assert "28 utterances" in run_sclip("make-corpus", *chosen)
    run_sclip("extract-features", *chosen)
    run_sclip("embed-clip", *chosen)
    run_sclip("train", "--arch", "hybrid-cif", *chosen)
    assert "cascaded: speech to image R@10" in run_sclip("evaluate", "--arch", "hybrid-cif", *chosen)
    model = sclip.load("models/deutsch/hybrid-cif/seed-0")
    assert model.speech.normalize_waveform  # as such encoders were trained
    words = json.loads(Path("results/deutsch/runs/hybrid-cif/seed-0/words.json").read_text())["words"]
    metrics = json.loads(Path("results/deutsch/runs/hybrid-cif/seed-0/metrics.json").read_text())
    assert metrics["about"]["stop_words"] == "none: language not given"
    assert all(word["content"] for word in words)
    assert {"hund", "vögel", "weiße"} <= {word["word"] for word in words}


def test_an_imported_checkpoint_is_evaluated_and_listed_in_the_table(tiny_project):
    golden = Path(__file__).parent / "golden"
    run_sclip(
        "import", str(golden / "large-parallel.ckpt"), "theirs", "--encoders", str(golden / "large-parallel.json")
    )
    rows = [json.loads(line) for line in Path("data/tiny/manifest.jsonl").read_text().splitlines()]
    for row in rows:  # its CLIP has too few tokens for words
        del row["text"], row["words"]
    Path("data/tiny/wordless.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = {"kind": "manifest", "path": "data/tiny/wordless.jsonl"}
    encoders = {"speech": {"name": "theirs/speech"}, "clip": {"name": "local-dir:theirs/clip"}}
    chosen = write_preset("few", corpus=corpus, encoders=encoders)
    run_sclip("make-corpus", *chosen)
    run_sclip("extract-features", *chosen)
    run_sclip("embed-clip", *chosen)
    assert "runs/parallel/imported: parallel: speech to image R@10" in run_sclip(
        "evaluate", "--model", "theirs", *chosen
    )
    paper = yaml.safe_load((Path(__file__).parents[1] / "results/paper.yaml").read_text())
    table = paper["tables"]["flickr8k"]
    table["rows"] = [table["rows"][-1] | {"ours": {"preset": "few", "arch": "parallel", "branch": "parallel"}}]
    Path("results/paper.yaml").write_text(yaml.safe_dump(paper))
    assert "|  | published checkpoint, measured here | " in run_sclip("table")
    other = run_sclip("evaluate", "--model", "theirs", status=1)
    assert "hidden states were computed by speech (hash" in other
    assert "not by theirs/speech (hash" in other


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("features/*.safetensors", "extract-features"),
        ("features/index.json", "extract-features"),
        ("vectors/images.safetensors", "embed-clip"),
        ("vectors/captions.safetensors", "embed-clip"),
        ("vectors/index.json", "embed-clip"),
    ],
)
def test_training_refuses_damaged_data_until_it_is_computed_again(file, command, tiny_project):
    path = next(Path("data/tiny").glob(file))
    before = path.read_bytes()
    path.write_bytes(before[:-3] + bytes([before[-3] ^ 1]) + before[-2:])
    output = run_sclip("train", "--arch", "parallel", "--seed", "8", status=1)
    assert len(output.splitlines()) == 1
    assert str(path) in output
    assert f"run `sclip {command}` again" in output
    run_sclip(command)
    assert path.read_bytes() == before


def test_two_commands_do_not_write_to_one_folder(tiny_project):
    for folder, command in (
        (paths.features_folder("tiny"), ["extract-features"]),
        (paths.vectors_folder("tiny"), ["embed-clip"]),
        (paths.scratch_folder("tiny", "parallel", 5), ["train", "--arch", "parallel", "--seed", "5"]),
    ):
        with locked_by_main(folder):
            assert f"{folder}: another command is writing there" in run_sclip(*command, status=1)


def test_a_disk_without_locks_is_no_error(tmp_path, monkeypatch):
    def no_locks(handle, how):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked_by_main(tmp_path), locked_by_main(tmp_path):
        pass


def test_a_full_disk_error_names_the_file(tiny_project, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    output = run_sclip("train", "--arch", "parallel", "--seed", "6", status=1)
    assert "models/unfinished/tiny/parallel/seed-6/checkpoint.pt: No space left on device" in output


def test_mistyped_names_and_missing_models_are_explained(tiny_project):
    untrained = run_sclip("evaluate", "--arch", "parallel", "--seed", "77", status=1)
    assert "seed-77: no such folder; `sclip train --preset tiny --arch parallel --seed 77` makes it" in untrained
    assert "no such key; did you mean 'steps'" in run_sclip(
        "train", "--arch", "parallel", "-S", "presets.tiny.training.stepz=3", status=1
    )
    assert "no 'tinny'; did you mean 'tiny'" in run_sclip("extract-features", "--preset", "tinny", status=1)
    assert "did you mean 'cascaded'" in run_sclip("train", "--arch", "cascadet", status=1)


def test_advice_names_a_preset_that_is_not_the_default_one(tmp_path, monkeypatch):
    shutil.copy(PARAMS, tmp_path)
    monkeypatch.chdir(tmp_path)
    missing = "manifest.jsonl: no such file; `sclip make-corpus{}` writes it"
    for command in (["embed-clip"], ["train", "--arch", "parallel"], ["verify"]):
        assert missing.format("") in run_sclip(*command, status=1)
        assert missing.format(" --preset scenes-mfcc") in run_sclip(*command, "--preset", "scenes-mfcc", status=1)
    assert run_sclip("report", "--preset", "scenes-mfcc", status=1).count("--preset") == 1


@pytest.mark.parametrize(("preset", "corpus"), [("flickr8k-base", "flickr8k"), ("spokencoco-large", "spokencoco")])
def test_a_missing_corpus_error_names_the_download(preset, corpus, tmp_path, monkeypatch):
    shutil.copy(PARAMS, tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in ("check-corpus", "make-corpus"):
        assert f"no such file; `sclip fetch {corpus} data/{corpus}` downloads" in run_sclip(command, preset, status=1)
    Path("data", corpus).mkdir(parents=True)  # a download that was stopped
    assert f"`sclip fetch {corpus} data/{corpus}` downloads the corpus" in run_sclip("check-corpus", preset, status=1)


def test_loading_a_folder_of_models_lists_them(tiny_project):
    run_sclip("train", "--arch", "parallel", "--device", "cpu")
    for folder in ("models/tiny/parallel", "models/tiny"):
        with pytest.raises(sclip.UserError, match=f"^{folder}: not a model folder, .* load one of .*parallel/seed-0"):
            sclip.load(folder)


FAULTS = {
    "unreadable": lambda p: p.write_bytes(b"no audio"),
    "empty": lambda p: soundfile.write(p, np.zeros(0), 16_000),
    "silent": lambda p: soundfile.write(p, np.zeros(16_000), 16_000),
    "not finite": lambda p: soundfile.write(p, np.full(16_000, np.nan), 16_000, "FLOAT", format="WAV"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_recordings_are_errors_unless_skipped(fault, tiny_project, monkeypatch):
    bad_corpus(tiny_project, monkeypatch, fault)
    FAULTS[fault](Path("data/tiny/bad.flac"))
    output = run_sclip("extract-features", status=1)
    assert "manifest row 3 (train-00002-0): " in output
    assert "--on-error skip" in output
    output = run_sclip("extract-features", "--on-error", "skip")
    assert "1 row skipped" in output
    assert "0 faults" in run_sclip("verify")


def bad_corpus(tiny_project: Path, monkeypatch, name: str, **changes) -> None:
    """Write the same corpus to another folder with a changed third row. By default its recording is bad.flac."""
    folder = tiny_project / name.replace(" ", "-")
    (folder / "data" / "tiny").mkdir(parents=True)
    for shared in ("speech", "clip", "params.yaml"):
        (folder / shared).symlink_to(tiny_project / shared)
    rows = [json.loads(line) for line in (tiny_project / "data/tiny/manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {key: str((tiny_project / "data/tiny" / row[key]).resolve()) for key in ("audio", "image")}
    rows[2] |= changes or {"audio": "bad.flac"}
    write_manifest(folder / "data/tiny/manifest.jsonl", rows)
    monkeypatch.chdir(folder)


def test_repeated_recordings_do_not_fail_check_corpus(tiny_project, monkeypatch):
    first = json.loads((tiny_project / "data/tiny/manifest.jsonl").read_text().splitlines()[0])
    bad_corpus(
        tiny_project, monkeypatch, "repeated", audio=str((tiny_project / "data/tiny" / first["audio"]).resolve())
    )
    output = run_sclip("check-corpus", "tiny")
    assert "note     groups of recordings with the same content: " in output
    assert "fault" not in output


def test_check_corpus_knows_the_shortest_recording_of_the_encoder(tiny_project, monkeypatch):
    bad_corpus(tiny_project, monkeypatch, "short")
    soundfile.write("data/tiny/bad.flac", np.random.default_rng(0).standard_normal(500) / 10, 16_000)
    assert "fault" not in run_sclip("check-corpus", "tiny")  # by an encoder like HuBERT
    output = run_sclip("check-corpus", "tiny", "-S", "presets.tiny.encoders.speech.name=mfcc", status=1)
    message = (
        "bad.flac: too short: 0.0312 s, 500 samples at 16 kHz; expected at least 0.035 s, 560 samples, for one frame"
    )
    assert message in output


ROWS = {
    "unknown split": ({"split": "tests"}, "expected a split of train, dev, test, found 'tests'"),
    "repeated id": ({"id": "train-00000-0"}, "repeats the id of manifest row 1"),
    "misspelt key": ({"texts": "a dog"}, "texts: no such key; did you mean 'text'?"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_bad_rows_are_errors_unless_skipped(fault, tiny_project, monkeypatch):
    changes, message = ROWS[fault]
    bad_corpus(tiny_project, monkeypatch, fault, **changes)
    for command in ("extract-features", "embed-clip"):
        output = run_sclip(command, status=1)
        assert "manifest row 3" in output
        assert message in output
        assert "1 row skipped" in run_sclip(command, "--on-error", "skip")


def test_each_stage_names_the_missing_files_that_it_opens(tiny_project, monkeypatch):
    bad_corpus(tiny_project, monkeypatch, "gone", audio="gone.flac", image="gone.png")
    for command, missing in (("extract-features", "audio gone.flac"), ("embed-clip", "image gone.png")):
        assert f"manifest row 3 (train-00002-0): {missing}: no such file" in run_sclip(command, status=1)
        assert "1 row skipped" in run_sclip(command, "--on-error", "skip")
    assert "0 faults" in run_sclip("verify")


@pytest.mark.parametrize(("fault", "changes"), [("no picture", {"image": "bad.png"}), ("no words", {"text": "&nbsp;"})])
def test_bad_pictures_and_captions_are_errors_unless_skipped(fault, changes, tiny_project, monkeypatch):
    bad_corpus(tiny_project, monkeypatch, fault, **changes)
    Path("data/tiny/bad.png").write_bytes(b"no picture")
    assert "manifest row 3 (train-00002-0): " in run_sclip("embed-clip", status=1)
    assert "1 row skipped" in run_sclip("embed-clip", "--on-error", "skip")
