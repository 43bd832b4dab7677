"""The stage, from a store, vectors and a small model to metrics.json and examples.json."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import ARCHITECTURES, CAPTIONS, model

from sclip.corpora.manifest import write_manifest
from sclip.evaluation import hear as hearing
from sclip.evaluation.evaluate import evaluate
from sclip.evaluation.hear import hear
from sclip.features.store import fingerprint_of, write_index, write_shard
from sclip.features.vectors import write_vectors
from sclip.training.data import Dataset

UTTERANCES, PICTURES = 14, 5
SPEECH = {"encoder": "small", "revision": None, "states": 3, "width": 32, "precision": "fp16", "frame_seconds": 0.02}


def corpus(folder: Path, words: bool = True) -> Dataset:
    """Hidden states at random, three captions, up to three utterances of a picture."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(UTTERANCES):
        text = CAPTIONS[i % 3]
        row = {"id": f"u{i}", "split": "test", "audio": f"u{i}.wav", "image": f"p{i % PICTURES}.png"}
        row |= {"image_id": f"p{i % PICTURES}", "text": text}
        if words:
            row["words"] = [[word, 0.2 * k, 0.2 * (k + 1)] for k, word in enumerate(text.split())]
        (folder / row["audio"]).touch()
        (folder / row["image"]).touch()
        rows.append(row)
    write_manifest(folder / "manifest.jsonl", rows)
    lengths = torch.randint(60, 90, (UTTERANCES,), generator=generator).tolist()
    states = {f"u{i}": torch.randn(n, 3, 32, generator=generator).half() for i, n in enumerate(lengths)}
    write_index(folder, SPEECH, [write_shard(folder / "0.safetensors", SPEECH, states, {})])
    images, texts = (F.normalize(torch.randn(n, 20, generator=generator), dim=-1) for n in (PICTURES, UTTERANCES))
    index = {
        "clip": {"name": "small", "revision": None},
        "fingerprint": fingerprint_of("clip"),
        "skipped": {},
        "notes": {},
    }
    (folder / "vectors").mkdir()
    write_vectors(folder / "vectors", index, ([f"p{i}" for i in range(PICTURES)], images), (list(states), texts))
    return Dataset.open(folder / "manifest.jsonl", folder, folder / "vectors", "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


def leaves(table, path: str = ""):
    if isinstance(table, dict):
        for key, value in table.items():
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, table


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_metrics_and_examples(arch, dataset, tmp_path, monkeypatch):
    tested = model(arch)
    metrics = evaluate(tested, dataset, "cpu", tmp_path / "a", about={"preset": "tiny", "seed": 3})
    assert json.loads((tmp_path / "a/metrics.json").read_text()) == metrics
    assert metrics["about"]["preset"] == "tiny"
    assert metrics["about"]["encoders"].keys() == {"speech", "clip"}
    assert metrics["counts"] == {"utterances": UTTERANCES, "pictures": PICTURES, "captions": UTTERANCES}
    assert all(isinstance(value, str) or math.isfinite(value) for _, value in leaves(metrics))

    head = ARCHITECTURES[arch].head
    branches = {"parallel"} if head.utterance else set()
    branches |= {"cascaded"} if head.keywords else set()
    for direction in ("speech_to_image", "image_to_speech", "speech_to_text", "text_to_speech"):
        assert metrics[direction].keys() == {"chance"} | branches
    assert metrics["text_to_image"].keys() == metrics["image_to_text"].keys() == {"clip", "chance"}
    assert metrics["speech_to_image"]["chance"]["R@1"] == 20
    assert ("keywords" in metrics) == (head.keywords is not None)
    assert ("boundaries" in metrics) == bool(head.keywords and head.keywords.cif)
    if head.keywords and head.keywords.slots:
        assert list(metrics["keywords"]["model"]["hit_rate_of_slot"]) == [str(k) for k in range(8)]
        assert metrics["keywords"]["commonest"]["distinct_tokens"] == 8

    # The same again, and whatever the batches.
    monkeypatch.setattr(hearing, "BATCH_FRAMES", 100)
    evaluate(tested, dataset, "cpu", tmp_path / "b", about={"preset": "tiny", "seed": 3})
    again = json.loads((tmp_path / "b/metrics.json").read_text())
    assert dict(leaves(again)) == pytest.approx(dict(leaves(metrics)), abs=1e-3)

    shown = json.loads((tmp_path / "a/examples.json").read_text())
    assert shown["branch"] in branches
    assert len(shown["examples"]) == 12
    for example in shown["examples"]:
        row = next(row for row in dataset.rows if row.id == example["id"])
        assert example["audio"] == str(row.audio)
        assert example["text"] == row.text
        images = [found["image_id"] for found in example["retrieved"]]
        assert images.index(row.image_id) + 1 == example["rank"]
        assert ("keywords" in example) == (head.keywords is not None)
        if "alpha" in example:
            assert len(example["alpha"]) == dataset.store.lengths[dataset.store.row(row.id)]
            assert len(example["keywords"]) - len(example["fired"]) in (0, 1)
            for slot, time in zip(example["keywords"], example["fired"], strict=False):
                assert slot["span"][1] == pytest.approx(time)


def test_what_is_heard_is_what_the_model_says(dataset):
    """Rows stay with their utterances, however they were batched."""
    tested = model("hybrid-cif")
    heard = hear(tested, dataset)
    for i in range(UTTERANCES):
        states = dataset.read(torch.tensor([i]))
        output = tested.head(type(states)(states.values.float(), states.lengths), tested.text_tower)
        torch.testing.assert_close(heard.vectors["cascaded"][i], F.normalize(output.sentence[0], dim=-1))
        slots = int(output.keywords.embeddings.lengths)
        assert int(heard.keywords.lengths[i]) == slots
        assert heard.keywords.rows[i, :slots].tolist() == output.keywords.rows[0].tolist()
        ends = (output.cif.firing.fired[0].nonzero()[:, 0] + 1) * 0.02
        torch.testing.assert_close(heard.firings[i, : len(ends)], ends.double())
        assert heard.firings[i, len(ends) :].isinf().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(dataset, tmp_path):
    here, there = hear(model("hybrid-cif"), dataset), hear(model("hybrid-cif").to("cuda"), dataset)
    for branch, vectors in here.vectors.items():
        torch.testing.assert_close(there.vectors[branch], vectors, rtol=1e-3, atol=1e-4)
    assert torch.equal(there.keywords.rows, here.keywords.rows)
    assert torch.equal(there.firings, here.firings)
    assert evaluate(model("hybrid-cif"), dataset, "cuda", tmp_path)["about"]["device"] != "cpu"


def test_a_collapsed_head_gets_what_the_commonest_tokens_get(dataset, tmp_path):
    tested = model("cascaded")
    wanted = tested.head.keywords.quantize.table[3:11]  # the first rows that are not blocked
    with torch.no_grad():
        tested.head.keywords.norm.norm.weight.zero_()
        tested.head.keywords.norm.norm.bias.copy_(wanted.flatten())
    metrics = evaluate(tested, dataset, "cpu", tmp_path)
    assert metrics["keywords"]["model"] == metrics["keywords"]["commonest"]
    assert metrics["keywords"]["model"]["distinct_tokens"] == 8
    # All vectors alike: pictures are ranked as they come.
    assert metrics["speech_to_image"]["cascaded"]["R@1"]["value"] == pytest.approx(100 * 3 / UTTERANCES, abs=1e-3)


def test_a_perfect_head(dataset, tmp_path, monkeypatch):
    """Utterances that are their pictures: everything is found at once, without doubt."""
    tested = model("parallel")
    perfect = hearing.Heard({"parallel": dataset.images[dataset.image_index]}, None, None)
    monkeypatch.setattr("sclip.evaluation.evaluate.hear", lambda *_: perfect)
    metrics = evaluate(tested, dataset, "cpu", tmp_path)
    for direction in ("speech_to_image", "image_to_speech"):
        assert metrics[direction]["parallel"]["R@1"] == {"value": 100, "low": 100, "high": 100}
        assert metrics[direction]["parallel"]["mean_rank"]["value"] == 1


def test_without_captions_and_words(tmp_path):
    """What needs them is left out."""
    plain = corpus(tmp_path, words=False)
    rows = [type(row)(**{**vars(row), "text": None}) for row in plain.rows]
    plain = Dataset(**{**vars(plain), "rows": rows, "captions": None})
    metrics = evaluate(model("cascaded-cif"), plain, "cpu", tmp_path / "out")
    assert "speech_to_text" not in metrics
    assert "text_to_image" not in metrics
    assert "boundaries" not in metrics
    assert metrics["keywords"]["model"].keys() == {"per_utterance", "duplicates", "distinct_tokens"}


def test_some_captions_are_none_and_that_is_said(tmp_path, capsys):
    whole = corpus(tmp_path, words=False)
    rows = [type(row)(**{**vars(row), "text": row.text if i else None}) for i, row in enumerate(whole.rows)]
    metrics = evaluate(model("parallel"), Dataset(**{**vars(whole), "rows": rows, "captions": None}), "cpu", tmp_path)
    assert metrics["counts"]["captions"] == 0
    assert f"1 of {UTTERANCES} rows have no text: nothing is measured against text" in capsys.readouterr().err
