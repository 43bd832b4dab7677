"""MTEB's own evaluator gives the numbers of this project's evaluation."""

import json

import pytest
import soundfile
import torch
from click.testing import CliRunner
from PIL import Image

import sclip
from sclip.cli import main
from sclip.config import ScenesConfig, Splits
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import read_manifest
from sclip.errors import Problems, UserError
from sclip.evaluation.retrieval import first_ranks
from sclip.interop.mteb import MtebModel, open_for_mteb

mteb = pytest.importorskip("mteb", reason="needs pip install '.[mteb]'")
datasets = pytest.importorskip("datasets")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

MODEL = "models/scenes-hybrid-cif"
PICTURES, CAPTIONS = 300, 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The test split of a small corpus of scenes, with two utterances for each picture.

    Of utterances with the same keywords, only the first one is kept: MTEB orders equal scores in another way.
    """
    manifest = tmp_path_factory.mktemp("scenes") / "manifest.jsonl"
    config = ScenesConfig("scenes", 5, Splits(1, 1, PICTURES), Splits(1, 1, CAPTIONS), voices=Splits(1, 1, 2), nouns=60)
    make_corpus(config, manifest, Problems())
    found = [row for row in read_manifest(manifest, Problems()) if row.split == "test"]
    assert len(found) == PICTURES * CAPTIONS
    vectors = sclip.load(MODEL).encode_speech([row.audio for row in found], branch="cascaded")
    earlier_is_equal = (vectors @ vectors.T > 1 - 1e-5).tril(-1).any(1)
    return [row for row, equal in zip(found, earlier_is_equal.tolist(), strict=True) if not equal]


def audio_of(row) -> dict:
    samples, rate = soundfile.read(row.audio, dtype="float32")
    return {"array": samples, "sampling_rate": rate}


def local_task(rows, category: str):
    """A task in the layout of SpokenCOCOA2IRetrieval (a2i) or SpokenCOCOI2ARetrieval (i2a)."""
    pictures = {row.image_id: Image.open(row.image).convert("RGB") for row in rows}
    utterances = datasets.Dataset.from_list([{"id": row.id, "audio": audio_of(row)} for row in rows])
    images = datasets.Dataset.from_list([{"id": name, "image": picture} for name, picture in pictures.items()])
    pairs: dict[str, dict[str, int]] = {}
    for row in rows:
        query, document = (row.id, row.image_id) if category == "a2i" else (row.image_id, row.id)
        pairs.setdefault(query, {})[document] = 1
    queries, corpus = (utterances, images) if category == "a2i" else (images, utterances)

    class Scenes(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Scenes{category.upper()}Retrieval",
            description="Scenes",
            reference=None,
            dataset={"path": "local/scenes", "revision": "1"},
            type="Any2AnyRetrieval",
            category=category,
            modalities=["audio", "image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            sample_creation=None,
            bibtex_citation=None,
        )

        def load_data(self, **_):
            split = {"queries": queries, "corpus": corpus, "relevant_docs": pairs, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Scenes()


@pytest.fixture(scope="module", params=["parallel", "cascaded"])
def ours(request, rows):
    """The ranks of this project's evaluation for each direction, and the branch."""
    model = sclip.load(MODEL)
    files = {row.image_id: row.image for row in rows}
    images = model.encode_image(list(files.values()))
    speech = model.encode_speech([row.audio for row in rows], branch=request.param)
    ids = torch.tensor([list(files).index(row.image_id) for row in rows])
    ranks = first_ranks(speech, ids, images, torch.arange(len(files)))
    return dict(zip(("a2i", "i2a"), ranks, strict=True)), request.param


@pytest.mark.parametrize("category", ["a2i", "i2a"])
def test_hit_rates_are_this_projects_recalls_to_the_digit(rows, ours, category):
    ranks, branch = ours
    task, model = local_task(rows, category), open_for_mteb(MODEL, branch=branch)
    result = mteb.evaluate(model, task, cache=None, encode_kwargs={"batch_size": 8}, co2_tracker=False)
    (scores,) = result.task_results[0].scores["test"]
    for k in (1, 5, 10):
        recall = round(float((ranks[category] <= k).double().mean()), 5)  # MTEB rounds to five places
        assert scores[f"hit_rate_at_{k}"] == recall
    assert 0.1 < scores["hit_rate_at_1"] < scores["hit_rate_at_10"]  # neither chance nor everything


def test_the_command_prints_and_keeps_mtebs_scores(rows, monkeypatch, tmp_path):
    task = local_task(rows, "a2i")
    monkeypatch.setattr("sclip.interop.mteb._check_decoder", lambda tasks: None)  # these recordings are decoded
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [task] if tasks == ["A", "B"] else pytest.fail(str(tasks)))
    command = ["benchmark", "mteb", "--model", MODEL, "--out", str(tmp_path), "A", "B"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["tasks"]
    assert row["task"] == "ScenesA2IRetrieval"
    assert row["metric"] == "ndcg_at_10"
    assert row["main_score"] == row["scores"]["ndcg_at_10"] > 0.2
    assert list(tmp_path.rglob("ScenesA2IRetrieval.json"))
    shown = CliRunner().invoke(main, command)
    assert f"{100 * row['scores']['hit_rate_at_10']:.2f}" in shown.stdout


def test_a_mistyped_task_is_one_line():
    result = CliRunner().invoke(main, ["benchmark", "mteb", "--model", MODEL, "SpokenCOCOA2IRetrieva"])
    assert result.exit_code == 1
    assert "Did you mean: 'SpokenCOCOA2IRetrieval'" in result.stderr
    assert result.output.count("\n") == 1


def test_a_task_whose_recordings_cannot_be_decoded_is_refused_before_the_download(monkeypatch):
    def fail(*_):
        raise RuntimeError("Could not load libtorchcodec. Likely causes: 1. FFmpeg is not\ninstalled")

    monkeypatch.setattr(datasets.Audio, "decode_example", fail)
    result = CliRunner().invoke(main, ["benchmark", "mteb", "--model", MODEL, "SpokenCOCOA2IRetrieval"])
    assert result.exit_code == 1
    assert "SpokenCOCOA2IRetrieval: the recordings cannot be decoded (Could not load libtorchcodec); i" in result.stderr
    assert result.output.count("\n") == 1


def test_a_model_declares_what_it_was_trained_on():
    model = sclip.load(MODEL)
    assert MtebModel(model, "sclip/x").mteb_model_meta.training_datasets == set()
    model.origin = {"trained on": "flickr8k"}
    meta = MtebModel(model, "sclip/x").mteb_model_meta
    assert meta.training_datasets == {"FlickrAudioToImageRetrieval", "FlickrImageToAudioRetrieval"}
    assert all(mteb.get_task(name) for name in meta.training_datasets)
    assert meta.languages == ["eng-Latn"]
    for corpus in ("spokencoco", "speech-coco"):
        model.origin = {"trained on": corpus}
        assert all(mteb.get_task(name) for name in MtebModel(model, "sclip/x").mteb_model_meta.training_datasets)
    model.origin = {}
    assert MtebModel(model, "sclip/x").mteb_model_meta.training_datasets is None


def test_recordings_of_different_rates_and_texts_are_encoded(rows):
    model = open_for_mteb(MODEL)
    audio = audio_of(rows[0])
    halved = {"array": audio["array"][::2], "sampling_rate": audio["sampling_rate"] // 2}
    task = local_task(rows, "a2i").metadata
    query = mteb.types.PromptType.query
    given = {"task_metadata": task, "hf_split": "test", "hf_subset": "default", "prompt_type": query}
    vectors = model.encode([{"audio": [audio, halved]}, {"audio": [audio]}], **given)
    assert vectors.shape == (3, 128)
    assert float(vectors[0] @ vectors[1]) > 0.5
    assert torch.allclose(vectors[0], vectors[2], atol=1e-5)
    texts = model.encode(
        [{"text": ["a dog"]}], **{**given, "task_metadata": task.model_copy(update={"category": "t2i"})}
    )
    assert torch.allclose(texts, model.model.encode_text(["a dog"]))
    with pytest.raises(UserError, match="ScenesA2IRetrieval: a model of sclip encodes one of"):
        model.encode([], **{**given, "task_metadata": task.model_copy(update={"category": "at2i"})})
