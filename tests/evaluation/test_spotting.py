"""Test keyword spotting by hand, and with labels of a small model's own scores."""

import json

import pytest
import torch
from small import model
from stored_corpus import write_test_split

from sclip.errors import UserError
from sclip.evaluation.evaluate import Annotations, evaluate
from sclip.evaluation.inference import infer, output_of
from sclip.evaluation.spotting import (
    KeywordLabels,
    _slot_scores,
    average_precision,
    chance,
    equal_error_rate,
    figures,
    keyword_spotting,
    precision_at,
)
from sclip.report.results import EvaluatedRun, Results
from sclip.report.tables import spotting

UTTERANCES = 14
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
RELEVANT = torch.tensor([True, False, True, True, False, False, False, True])


def test_figures_of_a_ranking_match_figures_by_hand():
    assert [precision_at(k, SCORES, RELEVANT) for k in (1, 2, 4, 8, 10)] == pytest.approx([1, 0.5, 0.75, 0.5, 0.4])
    # Relevant items have the ranks 1, 3, 4 and 8.
    assert average_precision(SCORES, RELEVANT) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4 + 4 / 8) / 4)
    # Accepted irrelevant and rejected relevant items: (0, 1/4) .. (1/4, 1/4) at the fourth item.
    assert equal_error_rate(SCORES, RELEVANT) == pytest.approx(0.25)
    # With three relevant items, the lines cross between (1/5, 1/3) and (2/5, 1/3): at 1/3.
    assert equal_error_rate(SCORES, torch.tensor([1, 0, 1, 0, 0, 0, 0, 1]).bool()) == pytest.approx(1 / 3)
    perfect = SCORES > 0.55
    assert (average_precision(SCORES, perfect), equal_error_rate(SCORES, perfect)) == (1, 0)
    assert equal_error_rate(SCORES, ~perfect) == 1
    assert equal_error_rate(SCORES, torch.ones(8).bool()) == 0


def test_equal_scores_have_no_order():
    same, relevant = torch.zeros(8), torch.tensor([1, 1, 0, 0, 0, 0, 0, 0]).bool()
    for order in (relevant, relevant.flip(0)):
        assert precision_at(2, same, order) == average_precision(same, order) == 0.25
        assert equal_error_rate(same, order) == 0.5
    # The first, and one of the next three, of which two are relevant.
    scores = torch.tensor([3.0, 2, 2, 2, 1])
    assert precision_at(2, scores, torch.tensor([1, 1, 0, 1, 1]).bool()) == pytest.approx((1 + 2 / 3) / 2)


def test_figures_are_means_over_keywords_with_a_relevant_utterance():
    scores = torch.stack([SCORES, -SCORES, SCORES], 1)
    relevant = torch.stack([RELEVANT, RELEVANT, torch.zeros(8).bool()], 1)
    result = figures(scores, relevant)
    assert {name: result[name]["value"] for name in ("P@10", "P@N", "EER")} == pytest.approx(
        # In reverse order, the relevant utterances have the ranks 1, 5, 6 and 8.
        {"P@10": 40, "P@N": 100 * (3 / 4 + 1 / 4) / 2, "EER": 100 * (1 / 4 + 3 / 4) / 2}
    )
    second = (1 / 1 + 2 / 5 + 3 / 6 + 4 / 8) / 4
    assert result["mAP"]["value"] == pytest.approx(100 * (0.72917 + second) / 2, abs=0.01)
    assert result["mAP"]["low"] == pytest.approx(100 * second)  # an interval over two keywords has the two as its ends
    # All pairs together: eight scores above zero, then eight below.
    precisions = [1, 2 / 3, 3 / 4, 4 / 8, 5 / 9, 6 / 13, 7 / 14, 8 / 16]
    assert result["AP"] == pytest.approx(100 * sum(precisions) / 8)
    assert chance(relevant) == 50


def corpus(folder):
    """Write utterances u0, u1, ... with random hidden states."""
    rows = [{"id": f"u{i}", "split": "test", "image_id": f"p{i}", "text": "a dog"} for i in range(UTTERANCES)]
    return write_test_split(folder, rows, range(60, 90))


def write_labels(folder, lines):
    folder.mkdir(parents=True)
    (folder / "keywords.txt").write_text("dog\nbeach\nsnowboard\n")
    (folder / "semantic_flickraudio_labels.csv").write_text("\n".join(["utt_key,transcription,keywords", *lines, ""]))
    return folder


def test_labels_are_read_in_the_authors_format(tmp_path):
    lines = ['u1_0,"a brown dog runs","dog|beach"', 'u2_3,"the dogs, and a beach","beach"', 'u3_1,"two",""']
    write_labels(tmp_path / "semantic_flickraudio/data", lines)
    labels = KeywordLabels.find(tmp_path)
    assert labels.keywords == ("dog", "beach", "snowboard")
    assert labels.semantic == {"u1_0": {"dog", "beach"}, "u2_3": {"beach"}, "u3_1": frozenset()}
    assert labels.exact == {"u1_0": {"dog"}, "u2_3": {"beach"}, "u3_1": frozenset()}  # dogs is another word
    assert KeywordLabels.find(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('u1,"a dog","cat"', "line 2: 'cat' is not in keywords.txt"),
        ("u1,a dog", "line 2: expected utt_key, transc"),
        ('u1,"' + "a" * 200_000, "line 2: field larger than field limit .* check the row's quotation marks"),
    ],
)
def test_faults_of_labels_are_named(line, message, tmp_path):
    with pytest.raises(UserError, match=message):
        KeywordLabels.read(write_labels(tmp_path / "labels", [line]))


def labels_of(scores: torch.Tensor, keywords: tuple[str, ...]) -> KeywordLabels:
    """Return labels by which the three best utterances of each keyword are relevant: scores (U, Q)."""
    best = scores.topk(3, 0).indices
    found = {f"u{i}": frozenset(k for q, k in enumerate(keywords) if i in best[:, q]) for i in range(len(scores))}
    return KeywordLabels(keywords, found, found)


KEYWORDS = ("dog", "beach", "brown dog", "snowboard")  # the last one's tokens are not in the vocabulary


def test_padding_is_no_keyword_slot(tmp_path):
    """Score utterances of different numbers of slots together and alone. Padded slots would say what no slot says."""
    data, tested = corpus(tmp_path), model("cascaded-cif")
    indices, rows = torch.arange(UTTERANCES), [[row] for row in range(4, len(tested.vocabulary.ids))]
    together = _slot_scores(tested, data, indices, rows)
    alone = torch.cat([_slot_scores(tested, data, indices[i : i + 1], rows) for i in range(UTTERANCES)])
    torch.testing.assert_close(together, alone)
    assert len(set(infer(tested, data).keywords.lengths.tolist())) > 1


def test_the_score_of_several_tokens_is_their_mean_and_without_a_possible_token_the_lowest(tmp_path):
    """Row 0 of the vocabulary is blocked; None stands for a keyword that is not in the vocabulary."""
    data, tested = corpus(tmp_path), model("cascaded-cif")
    one, other, both, blocked, absent = _slot_scores(
        tested, data, torch.arange(UTTERANCES), [[5], [6], [5, 6], [0, 5], None]
    ).T
    torch.testing.assert_close(both, (one + other) / 2)
    assert blocked.tolist() == absent.tolist() == [-1] * UTTERANCES


def test_a_keyword_is_in_the_vocabulary_if_all_its_tokens_are(tmp_path):
    data, tested = corpus(tmp_path), model("cascaded-cif")
    said = {f"u{i}": frozenset({"dog"}) for i in range(UTTERANCES)}
    labels = KeywordLabels(("dog", "dog surfing"), said, said)
    found = keyword_spotting(tested, data, infer(tested, data).vectors, labels)
    assert found["keywords_in_vocabulary"] == 1


@pytest.mark.parametrize("system", ["parallel", "cascaded", "slots"])
def test_labels_of_a_model_s_own_scores_are_found(system, tmp_path):
    """Give each keyword as relevant utterances those that the model's scores, computed here, rank first."""
    data, tested = corpus(tmp_path), model("hybrid-cif")
    predictions = infer(tested, data)
    queries = torch.nn.functional.normalize(tested.clip.encode_text(KEYWORDS), dim=-1)
    scores = {branch: vectors @ queries.T for branch, vectors in predictions.vectors.items()}
    scores["slots"] = torch.zeros(UTTERANCES, len(KEYWORDS))
    for i in range(UTTERANCES):
        output = output_of(tested, data.read(torch.tensor([i])))
        best = output.keywords.cosines[0, : int(output.keywords.embeddings.lengths)].amax(0)
        for q, word in enumerate(tested.clip.token_ids(KEYWORDS)[:3]):
            rows = [list(tested.vocabulary.ids).index(token) for token in word]
            scores["slots"][i, q] = best[rows].mean()
    found = keyword_spotting(tested, data, predictions.vectors, labels_of(scores[system], KEYWORDS))
    assert (found["utterances"], found["keywords"], found["keywords_in_vocabulary"]) == (UTTERANCES, 4, 3)
    expected = 100 if system != "slots" else 100 * (3 + 3 / UTTERANCES) / 4  # one keyword in four is left to chance
    assert found["semantic"][system]["P@N"]["value"] == pytest.approx(expected)
    assert found["exact"] == found["semantic"]
    assert found["semantic"]["chance"]["P@10"] == pytest.approx(100 * 3 / UTTERANCES)
    others = [found["semantic"][other]["P@N"]["value"] for other in scores if other != system]
    assert max(others) < expected


def test_metrics_have_keyword_spotting_of_the_labelled_utterances(tmp_path):
    data = corpus(tmp_path)
    labels = KeywordLabels(("dog", "snow"), {"u1": {"dog"}, "u2": set()}, {"u1": {"dog"}, "u2": {"snow"}})
    metrics = evaluate(model("parallel"), data, "cpu", tmp_path / "out", annotations=Annotations(labels=labels))
    assert json.loads((tmp_path / "out/metrics.json").read_text()).items() >= metrics.items()
    found = metrics["keyword_spotting"]
    assert found["utterances"] == 2
    assert found["semantic"].keys() == {"parallel", "chance"}
    assert found["exact"]["parallel"]["P@10"]["value"] == 10  # one keyword has a relevant utterance, in the first two


@pytest.mark.parametrize("kind", ["exact", "semantic"])
def test_a_kind_of_labels_without_a_relevant_utterance_has_no_figures(kind, tmp_path):
    data, nothing, one = corpus(tmp_path), {"u1": frozenset()}, {"u1": frozenset({"dog"})}
    labels = KeywordLabels(("dog", "snow"), **{"exact": one, "semantic": one, kind: nothing})
    metrics = evaluate(model("parallel"), data, "cpu", tmp_path / "out", annotations=Annotations(labels=labels))
    (other,) = {"exact", "semantic"} - {kind}
    assert metrics["keyword_spotting"].keys() == {"utterances", "keywords", other}
    table = spotting(Results("scenes", {"parallel": [EvaluatedRun("parallel", 0, metrics, {}, {}, {})]}, []))
    assert [row.label for row in table.rows] == ["parallel, parallel"]
    measured = {column.group for column, cell in zip(table.columns, table.rows[0].cells, strict=True) if cell}
    assert measured == {other}


def test_labels_of_other_utterances_have_no_figures(tmp_path):
    data = corpus(tmp_path)
    other = KeywordLabels(("dog",), {"nobody": {"dog"}}, {"nobody": {"dog"}})
    metrics = evaluate(model("parallel"), data, "cpu", tmp_path / "out", annotations=Annotations(labels=other))
    assert metrics["keyword_spotting"] == {}
