"""The topline of speech recognition: CLIP reads transcripts, and every table says that it uses text."""

import pytest
import torch
import torch.nn.functional as F
import yaml
from metrics_files import write_metrics
from small import CAPTIONS, clip_encoder, model
from stored_corpus import write_test_split

from sclip.bench.evaluation import sort_and_loop
from sclip.config import load_params
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import read_manifest
from sclip.errors import Problems, UserError
from sclip.evaluation.evaluate import Annotations, evaluate
from sclip.features.transcripts import Transcripts
from sclip.parsing import parse
from sclip.report.paper import as_csv, as_latex, as_markdown, read_paper
from sclip.report.results import EvaluatedRun, Results
from sclip.report.tables import TOPLINE, results_note, retrieval

PICTURES = 7
TEXTS = ["a dog", "snow", "", "two children", "a red fence", "the beach", "a dog", "jumps over", "play", "runs"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rows = [
        {"id": f"u{i}", "split": "test", "image_id": f"p{i % PICTURES}", "text": CAPTIONS[i % 3]}
        for i in range(len(TEXTS))
    ]
    return write_test_split(tmp_path_factory.mktemp("corpus"), rows, range(30, 40))


def metrics_of(dataset, folder, texts=TEXTS):
    transcripts = Transcripts("tiny-whisper", {f"u{i}": text for i, text in enumerate(texts)})
    return evaluate(model("parallel"), dataset, "cpu", folder, annotations=Annotations(transcripts=transcripts))


def test_transcripts_are_ranked_like_utterances(dataset, tmp_path):
    """Against sorting, with CLIP's vectors of each transcript."""
    metrics = metrics_of(dataset, tmp_path)
    torch.manual_seed(0)
    vectors = F.normalize(clip_encoder().encode_text(TEXTS), dim=-1)
    owners, images = torch.arange(len(TEXTS)) % PICTURES, dataset.images
    for direction, queries, ids, candidates, others in (
        ("transcript_to_image", vectors, owners, images, torch.arange(PICTURES)),
        ("image_to_transcript", images, torch.arange(PICTURES), vectors, owners),
    ):
        found = {k: metrics[direction]["clip"][f"R@{k}"]["value"] for k in (1, 5, 10)}
        expected = sort_and_loop(queries, ids, candidates, others)
        assert found == pytest.approx(expected, abs=1e-3), direction
        assert 0 < found[5] < 100
        assert metrics[direction].keys() == {"clip", "chance"}
    assert metrics["transcript_to_text"].keys() == {"clip", "chance"}
    assert metrics["counts"]["transcripts"] == len(TEXTS)
    assert metrics["about"]["transcripts"] == "tiny-whisper"


def test_without_transcripts_nothing_changes(dataset, tmp_path):
    plain = evaluate(model("parallel"), dataset, "cpu", tmp_path / "a")
    assert not [key for key in (*plain, *plain["counts"], *plain["about"]) if "transcript" in key]
    with_them = metrics_of(dataset, tmp_path / "b")
    assert {key: with_them[key] for key in plain if key not in ("about", "counts")} == {
        key: plain[key] for key in plain if key not in ("about", "counts")
    }


def test_transcripts_of_pictures_without_text_have_no_scores_with_texts(tmp_path):
    texts = {"p0": None, "p1": "a dog", "p2": "two children"}
    rows = [
        {"id": f"u{i}", "split": "test", "image_id": name, **({} if text is None else {"text": text})}
        for i, (name, text) in enumerate(texts.items())
    ]
    metrics = metrics_of(write_test_split(tmp_path / "corpus", rows, range(30, 40)), tmp_path / "out", TEXTS[:1])
    assert {"transcript_to_image", "image_to_transcript", "speech_to_text"} <= metrics.keys()
    assert not {"transcript_to_text", "text_to_transcript"} & metrics.keys()


def test_the_tables_have_a_row_that_is_marked_as_using_text(dataset, tmp_path, monkeypatch):
    metrics = metrics_of(dataset, tmp_path, TEXTS[:8])
    results = Results("p", {"parallel": [EvaluatedRun("parallel", 0, metrics, {}, {}, {})]}, [])
    table = retrieval(results)
    assert [row.label for row in table.rows] == ["parallel", "CLIP with written captions", TOPLINE, "chance"]
    assert "uses text" in TOPLINE
    recall = metrics["transcript_to_image"]["clip"]["R@5"]["value"]
    assert table.rows[2].cells[1].value == recall
    assert "is no speech model: CLIP reads transcripts (tiny-whisper, of 8 of the 10 utterances)" in table.note
    assert results_note(results)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/p/runs/parallel/seed-0"
    folder.mkdir(parents=True)
    of_the_model = {"boundaries": {"20ms": {"cif": {"f1": 12.5}}}}  # no figure of the transcripts
    about = metrics["about"] | {"preset": "p", "seed": 0}
    write_metrics(folder / "metrics.json", metrics | of_the_model | {"about": about})
    columns = {"R@5": "speech_to_image.{branch}.R@5", "back": "image_to_speech.{branch}.R@1"}
    row = {"system": "Parallel", "ours": {"preset": "p", "arch": "parallel", "branch": "parallel"}}
    tables = {
        name: {"title": name, "split": "test", "columns": of, "rows": [row]}
        for name, of in (("retrieval", columns), ("boundaries", {"F1": "boundaries.20ms.cif.f1"}))
    }
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump({"sources": {}, "tables": tables}))
    paper = read_paper(tmp_path / "paper.yaml")
    for form in (as_markdown, as_csv, as_latex):
        assert form(paper, True).count("uses text") == (2 if form is as_csv else 1)
        assert "uses text" not in form(paper, False)
    assert f'retrieval,test,{TOPLINE},"ours, p: tiny-whisper",R@5,{recall:.2f},' in as_csv(paper, True)


def test_a_column_of_a_table_becomes_transcripts(tmp_path):
    for name in ("0.wav", "1.wav", "0.png"):
        (tmp_path / name).touch()
    (tmp_path / "table.csv").write_text("audio,image,asr\n0.wav,0.png,A dog.\n1.wav,0.png,\n")
    corpus = {"kind": "table", "path": str(tmp_path / "table.csv")}
    columns = {"audio": "audio", "image": "image", "transcript": "asr"}
    kind = type(load_params().presets["scenes"]).__annotations__["corpus"]
    config = parse(kind, corpus | {"columns": columns}, "corpus")
    make_corpus(config, tmp_path / "out/manifest.jsonl", Problems())
    rows = list(read_manifest(tmp_path / "out/manifest.jsonl", Problems()))
    assert [row.transcript for row in rows] == ["A dog.", ""]  # an empty one is a recogniser's result
    plain = parse(kind, corpus | {"columns": {"audio": "audio", "image": "image"}}, "corpus")
    make_corpus(plain, tmp_path / "out/manifest.jsonl", Problems())
    assert [row.transcript for row in read_manifest(tmp_path / "out/manifest.jsonl", Problems())] == [None, None]
    missing = parse(kind, corpus | {"columns": columns | {"transcript": "none"}}, "corpus")
    with pytest.raises(UserError, match="no column 'none'"):
        make_corpus(missing, tmp_path / "out/manifest.jsonl", Problems())
