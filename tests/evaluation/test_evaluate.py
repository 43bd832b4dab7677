"""Test the stage `evaluate` with a small model, from a feature store and vectors to its JSON files."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import ARCHITECTURES, CAPTIONS, model
from stored_corpus import write_test_split

import sclip
from sclip.errors import UserError
from sclip.evaluation import examples, inference
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.directions import distinct_texts
from sclip.evaluation.evaluate import Annotations, _rounded, evaluate
from sclip.evaluation.inference import infer
from sclip.evaluation.metrics_file import check_other_files, read_metrics
from sclip.evaluation.retrieval import first_ranks
from sclip.evaluation.scores import scores
from sclip.features.dataset import Dataset
from sclip.features.store import frame_bytes
from sclip.paths import EXAMPLES, METRICS, WORDS

UTTERANCES, PICTURES = 14, 5
TEXTS = [CAPTIONS[i % 3] for i in range(UTTERANCES)]
# One text belongs to two pictures, and one picture has two texts.
SHARED = [("dog", "dog", "snow", "fence", "beach" if i < 5 else "sand")[i % PICTURES] for i in range(UTTERANCES)]


def corpus(folder: Path, words: bool = True, texts: Sequence[str | None] = tuple(TEXTS)) -> Dataset:
    """Write a corpus with random hidden states and the captions `texts`; a picture has up to three utterances."""
    rows = [
        {"id": f"u{i}", "split": "test", "image_id": f"p{i % PICTURES}", "text": text} for i, text in enumerate(texts)
    ]
    if words:
        for row in rows:
            row["words"] = [[word, 0.2 * k, 0.2 * (k + 1)] for k, word in enumerate(row["text"].split())]
    return write_test_split(folder, rows, range(60, 90), compute="bf16")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


def leaves(table, path: str = ""):
    if isinstance(table, dict):
        for key, value in table.items():
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, table


def measured(metrics):
    """Yield the paths and values of metrics, without the settings of the head, which may be lists or None."""
    return ((path, value) for path, value in leaves(metrics) if "/architecture/" not in path)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_metrics_and_examples_are_complete_and_independent_of_batches(arch, dataset, tmp_path, monkeypatch):
    tested = model(arch)
    metrics = evaluate(tested, dataset, "cpu", tmp_path / "a", about={"preset": "tiny", "seed": 3})
    assert read_metrics(tmp_path / "a/metrics.json").items() >= metrics.items()
    assert metrics["about"]["preset"] == "tiny"
    assert metrics["about"]["encoders"].keys() == {"speech", "clip"}
    counts = {"utterances": UTTERANCES, "pictures": PICTURES, "captions": UTTERANCES, "distinct_captions": 3}
    assert metrics["counts"] == counts
    assert metrics["about"]["states"] == "hidden states stored in fp16, computed in bf16"
    assert metrics["about"]["architecture"] == json.loads(json.dumps(dataclasses.asdict(tested.architecture)))
    assert all(isinstance(value, str) or math.isfinite(value) for _, value in measured(metrics))

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
        assert list(metrics["keywords"]["model"]["hit_rate_of_slot"]) == [str(k) for k in range(head.keywords.slots)]
        assert metrics["keywords"]["commonest"]["distinct_tokens"] == head.keywords.slots

    # Other batches give the same metrics.
    frames = dataset.store.lengths.max()
    monkeypatch.setattr(inference, "BATCH_BYTES", 3 * int(frames) * frame_bytes(dataset.store.features))
    assert max(map(len, inference._all_batches(tested, dataset))) < len(dataset)
    monkeypatch.setattr(inference, "BATCH_FRAMES", {"cpu": 100})
    evaluate(tested, dataset, "cpu", tmp_path / "b", about={"preset": "tiny", "seed": 3})
    other_batches = read_metrics(tmp_path / "b/metrics.json")
    found = {key: other_batches[key] for key in metrics}
    assert dict(measured(found)) == pytest.approx(dict(measured(metrics)), abs=1e-3)

    shown = json.loads((tmp_path / "a/examples.json").read_text())
    assert shown["branch"] in branches
    assert len(shown["examples"]) == 12
    for example in shown["examples"]:
        row = next(row for row in dataset.rows if row.id == example["id"])
        assert example["audio"] == str(row.audio)
        assert example["text"] == row.text
        images = [retrieved["image_id"] for retrieved in example["retrieved"]]
        assert images.index(row.image_id) + 1 == example["rank"]
        assert ("keywords" in example) == (head.keywords is not None)
        if "alpha" in example:
            assert len(example["alpha"]) == dataset.store.lengths[dataset.store.ids.index(row.id)]
            assert len(example["keywords"]) - len(example["fired"]) in (0, 1)
            for slot, time in zip(example["keywords"], example["fired"], strict=False):
                assert slot["span"][1] == pytest.approx(time)

    listed = {utterance["id"]: utterance for utterance in shown["utterances"]}
    assert list(listed) == [row.id for row in dataset.rows]  # all of them, in order, as they are few
    for example in shown["examples"]:
        utterance = listed[example["id"]]
        assert utterance["rank"] == example["rank"]
        words = [slot["pieces"][0]["text"] for slot in example.get("keywords", [])]
        assert utterance["keywords"] == list(dict.fromkeys(words))


def test_arrays_have_room_for_the_keywords_that_the_head_can_find(dataset):
    """A model from elsewhere may say that CIF finds any number. CLIP's text tower limits it."""
    small = model("cascaded-cif")
    keywords = small.architecture.head.keywords
    cif = dataclasses.replace(keywords.cif, max_slots=2**40)
    head = dataclasses.replace(small.architecture.head, keywords=dataclasses.replace(keywords, cif=cif))
    architecture = dataclasses.replace(small.architecture, head=head)
    built = sclip.SpeechCLIP("cascaded-cif", architecture, small.speech, small.clip, small.vocabulary)
    assert infer(built, dataset).firings.shape[1] == small.text_tower.most_keywords


def test_utterances_of_the_report_are_a_sample_of_a_large_split(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "MAX_UTTERANCES", 13)
    ids = []
    for arch in ("parallel", "hybrid"):
        evaluate(model(arch), dataset, "cpu", tmp_path / arch)
        shown = json.loads((tmp_path / arch / "examples.json").read_text())
        ids.append([utterance["id"] for utterance in shown["utterances"]])
        assert {example["id"] for example in shown["examples"]} < set(ids[-1])
    assert ids[0] == ids[1]
    assert len(ids[0]) == 13 < len(dataset)


def test_predictions_are_the_head_s_output_for_each_utterance(dataset):
    """Compare batched inference with the head's output for single utterances."""
    tested = model("hybrid-cif")
    predictions = infer(tested, dataset)
    for i in range(UTTERANCES):
        states = dataset.read(torch.tensor([i]))
        output = tested.head(type(states)(states.values.float(), states.lengths), tested.text_tower)
        torch.testing.assert_close(predictions.vectors["cascaded"][i], F.normalize(output.sentence[0], dim=-1))
        slots = int(output.keywords.embeddings.lengths)
        assert int(predictions.keywords.lengths[i]) == slots
        assert predictions.keywords.rows[i, :slots].tolist() == output.keywords.rows[0].tolist()
        ends = (output.cif.firing.fired[0].nonzero()[:, 0] + 1) * 0.02
        torch.testing.assert_close(predictions.firings[i, : len(ends)], ends.double())
        assert predictions.firings[i, len(ends) :].isinf().all()


@pytest.mark.gpu
def test_gpu_predictions_are_close_to_cpu(dataset, tmp_path):
    on_cpu, on_gpu = infer(model("hybrid-cif"), dataset), infer(model("hybrid-cif").to("cuda"), dataset)
    for branch, vectors in on_cpu.vectors.items():
        torch.testing.assert_close(on_gpu.vectors[branch], vectors, rtol=1e-3, atol=1e-4)
    assert torch.equal(on_gpu.keywords.rows, on_cpu.keywords.rows)
    assert torch.equal(on_gpu.firings, on_cpu.firings)
    assert evaluate(model("hybrid-cif"), dataset, "cuda", tmp_path)["about"]["device"] != "cpu"


def test_collapsed_head_scores_like_the_most_common_tokens(dataset, tmp_path):
    tested = model("cascaded")
    most_common = tested.head.keywords.quantize.table[3:11]  # the first rows that are not blocked
    with torch.no_grad():
        tested.head.keywords.norm.norm.weight.zero_()
        tested.head.keywords.norm.norm.bias.copy_(most_common.flatten())
    metrics = evaluate(tested, dataset, "cpu", tmp_path)
    assert metrics["keywords"]["model"] == metrics["keywords"]["commonest"]
    assert metrics["keywords"]["model"]["distinct_tokens"] == 8
    # All vectors are equal, so the pictures keep their order.
    assert metrics["speech_to_image"]["cascaded"]["R@1"]["value"] == pytest.approx(100 * 3 / UTTERANCES, abs=1e-3)


def test_utterances_with_more_keywords_than_max_slots_are_counted(dataset, tmp_path, caplog):
    tested = model("cascaded-cif")
    torch.nn.init.constant_(tested.head.cif.score.bias, 9.0)  # nearly every frame fires
    frames = dataset.frames.tolist()
    assert min(frames) < 75 < max(frames)
    truncated = sum(count > 76 for count in frames)
    assert evaluate(tested, dataset, "cpu", tmp_path)["keywords"]["truncated"] == truncated
    message = (
        f"utterances with more keywords than max_slots: {truncated} of {UTTERANCES}; their last keywords are left out"
    )
    assert message in caplog.text


def test_perfect_vectors_give_perfect_recalls(dataset, tmp_path, monkeypatch):
    """Give each utterance the vector of its picture."""
    tested = model("parallel")
    perfect = inference.Predictions({"parallel": dataset.images[dataset.image_index]}, None, None, None, 0)
    monkeypatch.setattr("sclip.evaluation.evaluate.infer", lambda *_: perfect)
    metrics = evaluate(tested, dataset, "cpu", tmp_path)
    for direction in ("speech_to_image", "image_to_speech"):
        assert metrics[direction]["parallel"]["R@1"] == {"value": 100, "low": 100, "high": 100}
        assert metrics[direction]["parallel"]["mean_rank"]["value"] == 1


def test_metrics_that_need_captions_or_words_are_left_out_without_them(tmp_path):
    without_text = corpus(tmp_path, words=False, texts=[None] * UTTERANCES)
    metrics = evaluate(model("cascaded-cif"), without_text, "cpu", tmp_path / "out")
    assert "speech_to_text" not in metrics
    assert "text_to_image" not in metrics
    assert "boundaries" not in metrics
    assert metrics["keywords"]["model"].keys() == {"per_utterance", "duplicates", "distinct_tokens"}


def expected_recall(queries, candidates, correct) -> float:
    """Return R@1 in %, computed with argmax, for unit vectors (Q, J) and (C, J) and correct answers (Q, C).

    Queries without a correct answer are left out.
    """
    best = (queries @ candidates.T).argmax(1)
    hit = correct[torch.arange(len(queries)), best].double()
    return round(100 * float(hit[correct.any(1)].mean()), 4)


def by_text(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the vectors (C, J) of the distinct texts, and which pictures have them (I, C)."""
    rows = [dataset.rows[i] for i in dataset.captioned.tolist()]
    texts = list(dict.fromkeys(row.text for row in rows))
    first = [next(i for i, row in enumerate(rows) if row.text == text) for text in texts]
    has = torch.zeros(len(dataset.images), len(texts), dtype=torch.bool)
    for picture, row in zip(dataset.image_index[dataset.captioned].tolist(), rows, strict=True):
        has[picture, texts.index(row.text)] = True
    return dataset.captions[first], has


@pytest.mark.parametrize("missing", [(), (0, 3, 8, 13)])
def test_distinct_texts_are_ranked_once_and_rows_without_text_are_left_out(missing, tmp_path):
    """A text is correct for all its pictures. With `missing` rows, picture 3 has no text."""
    texts = [None if i in missing else text for i, text in enumerate(SHARED)]
    data, tested = corpus(tmp_path, words=False, texts=texts), model("parallel")
    metrics = evaluate(tested, data, "cpu", tmp_path / "out")
    captions, has = by_text(data)
    speech, owners = infer(tested, data).vectors["parallel"][data.captioned], data.image_index[data.captioned]
    assert metrics["counts"]["captions"] == UTTERANCES - len(missing) == len(speech)
    assert metrics["counts"]["distinct_captions"] == len(captions) == len(set(texts) - {None})
    for direction, branch, queries, candidates, correct in (
        ("speech_to_text", "parallel", speech, captions, has[owners]),
        ("text_to_speech", "parallel", captions, speech, has[owners].T),
        ("text_to_image", "clip", captions, data.images, has.T),
        ("image_to_text", "clip", data.images, captions, has),
    ):
        chance = (correct.double().mean(1))[correct.any(1)].mean()
        assert metrics[direction]["chance"]["R@1"] == pytest.approx(100 * float(chance), abs=1e-3), direction
        assert metrics[direction][branch]["R@1"]["value"] == expected_recall(queries, candidates, correct), direction


def test_texts_that_differ_in_capitals_or_spaces_alone_are_one_text(tmp_path):
    written = ("A dog", "a dog", " a  dog ", "a cat")
    side = distinct_texts(corpus(tmp_path, words=False, texts=[written[i % 4] for i in range(UTTERANCES)]))
    assert len(side.vectors) == 2


def test_text_of_several_pictures_is_resampled_with_the_first(tmp_path):
    side = distinct_texts(corpus(tmp_path, words=False, texts=SHARED))
    assert side.rows.tolist() == [0, 0, 1, 2, 3, 4]
    assert side.pictures.tolist() == [0, 1, 2, 3, 4, 4]
    assert side.first_pictures.tolist() == [0, 2, 3, 4, 4]


def test_distinct_captions_are_ranked_like_rows(tmp_path):
    """Compare with ranks that are computed from the rows, each of which has one picture."""
    data, tested = corpus(tmp_path, words=False, texts=[f"text {i}" for i in range(UTTERANCES)]), model("parallel")
    metrics = evaluate(tested, data, "cpu", tmp_path / "out")
    bootstrap, speech = Bootstrap(PICTURES, 0), infer(tested, data).vectors["parallel"]
    for one, ids, to_text, from_text in (
        (speech, data.image_index, "speech_to_text", "text_to_speech"),
        (data.images, torch.arange(PICTURES), "image_to_text", "text_to_image"),
    ):
        branch = "parallel" if to_text == "speech_to_text" else "clip"
        ranks = first_ranks(one, ids, data.captions, data.image_index)
        for direction, expected, pictures in ((to_text, ranks[0], ids), (from_text, ranks[1], data.image_index)):
            assert metrics[direction][branch] == _rounded(scores(expected, pictures, bootstrap))


def test_rows_without_text_and_few_pictures_give_one_warning_each(tmp_path, caplog):
    data = corpus(tmp_path, words=False, texts=[None, *TEXTS[1:]])
    metrics = evaluate(model("cascaded"), data, "cpu", tmp_path / "out")
    assert {metrics["speech_to_image"]["cascaded"][f"R@{k}"]["low"] for k in (5, 10)} == {100}
    assert metrics["counts"]["captions"] == UTTERANCES - 1
    assert "R@10" in metrics["speech_to_text"]["cascaded"]
    assert caplog.messages == [
        "pictures in split test: 5; with so few, speech → image R@5 and R@10 is 100 % for every model",
        "rows without text: 1 of 14; metrics that need text use the others",
    ]


def test_stop_words_are_those_of_the_language(dataset, tmp_path):
    tested = model("cascaded")
    english = evaluate(tested, dataset, "cpu", tmp_path / "en", annotations=Annotations(language="en"))
    unknown = evaluate(tested, dataset, "cpu", tmp_path / "none")
    assert english["about"]["stop_words"] == "English stop words"
    assert unknown["about"]["stop_words"] == "none: language not given"
    assert unknown["keywords"]["model"]["content"] == unknown["keywords"]["model"]["all"]  # no caption has punctuation
    assert english["keywords"]["model"]["content"] != english["keywords"]["model"]["all"]
    content = [
        {row["word"] for row in json.loads((tmp_path / name / "words.json").read_text())["words"] if row["content"]}
        for name in ("en", "none")
    ]
    assert content[1] - content[0] == {"a", "the", "along", "over", "in"}


@pytest.mark.parametrize(("content", "found"), [("{}", "None"), ("[]", "None"), ('{"format": "x"}', "'x'")])
def test_metrics_of_another_form_are_refused(content, found, tmp_path):
    (tmp_path / METRICS).write_text(content)
    message = f"metrics.json: format: expected 'sclip metrics 2', found {found}; run `sclip evaluate` again"
    with pytest.raises(UserError, match=message):
        read_metrics(tmp_path / METRICS)


@pytest.mark.parametrize("name", [METRICS, EXAMPLES, WORDS])
def test_a_damaged_file_of_results_is_found(name, dataset, tmp_path):
    evaluate(model("hybrid"), dataset, "cpu", tmp_path)
    path = tmp_path / name
    text = path.read_text()
    digit = next(i for i, letter in enumerate(text) if letter.isdigit() and i > len(text) // 3)
    path.write_text(text[:digit] + str(9 - int(text[digit])) + text[digit + 1 :])
    with pytest.raises(UserError, match=rf"{name}: (damaged|its SHA-256)"):
        check_other_files(tmp_path, read_metrics(tmp_path / METRICS))
