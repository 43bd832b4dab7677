"""Test recalls by speaker and by language against counts by hand."""

import json
from pathlib import Path

import pytest
import torch
from small import model
from stored_corpus import write_test_split

from sclip.corpora.rows import Row
from sclip.evaluation import groups
from sclip.evaluation.evaluate import evaluate
from sclip.evaluation.groups import group_scores


def rows(speakers, languages=None) -> list[Row]:
    languages = languages or [None] * len(speakers)
    return [
        Row(f"u{i}", "test", Path("a"), Path("b"), "p", speaker=speaker, language=language)
        for i, (speaker, language) in enumerate(zip(speakers, languages, strict=True))
    ]


def test_each_group_has_its_share_of_good_ranks():
    ranks = {"parallel": torch.tensor([1, 2, 11, 1, 10, 300]), "cascaded": torch.tensor([1, 1, 1, 50, 50, 1])}
    found = group_scores(rows(["b", "b", "b", "a", "a", None], ["en", "en", "en", "en", "en", "de"]), ranks)
    assert found["speaker"] == {
        "count": 2,
        "groups": [
            {
                "name": "b",
                "utterances": 3,
                "parallel": {"R@1": pytest.approx(100 / 3), "R@10": pytest.approx(200 / 3)},
                "cascaded": {"R@1": 100, "R@10": 100},
            },
            {"name": "a", "utterances": 2, "parallel": {"R@1": 50, "R@10": 100}, "cascaded": {"R@1": 0, "R@10": 0}},
        ],
    }
    assert [group["name"] for group in found["language"]["groups"]] == ["en", "de"]


def test_a_column_with_one_group_or_none_has_no_table():
    ranks = {"parallel": torch.tensor([1, 2])}
    assert group_scores(rows(["a", "a"]), ranks) == {}
    assert group_scores(rows([None, "a"], ["en", "en"]), ranks) == {}
    assert group_scores(rows([None, None]), ranks) == {}


def test_only_the_largest_groups_are_listed(monkeypatch):
    monkeypatch.setattr(groups, "MOST_GROUPS", 3)
    names = ["c", "a", "b", "d", "d", "e", "e", "e"]
    table = group_scores(rows(names), {"parallel": torch.arange(8) + 1})["speaker"]
    assert table["count"] == 5
    assert [(group["name"], group["utterances"]) for group in table["groups"]] == [("e", 3), ("d", 2), ("a", 1)]


def test_the_groups_of_an_evaluation_make_up_its_whole(tmp_path):
    """The mean over speakers, weighted by utterances, is the recall of the whole split."""
    table = [
        {
            "id": f"u{i}",
            "split": "test",
            "image_id": f"p{i % 9}",
            "text": "a dog",
            "speaker": "anna" if i % 3 else "bert",
            "language": "en",
        }
        for i in range(30)
    ]
    dataset = write_test_split(tmp_path / "corpus", table, range(20, 40), compute="bf16")
    tested = model("hybrid")
    metrics = evaluate(tested, dataset, "cpu", tmp_path / "a")
    assert evaluate(tested, dataset, "cpu", tmp_path / "b") == metrics
    assert json.loads((tmp_path / "a/metrics.json").read_text())["groups"] == metrics["groups"]
    assert metrics["groups"].keys() == {"speaker"}
    speakers = metrics["groups"]["speaker"]["groups"]
    assert [(group["name"], group["utterances"]) for group in speakers] == [("anna", 20), ("bert", 10)]
    for branch in ("parallel", "cascaded"):
        for recall in ("R@1", "R@10"):
            whole = metrics["speech_to_image"][branch][recall]["value"]
            mean = sum(group["utterances"] * group[branch][recall] for group in speakers) / 30
            assert mean == pytest.approx(whole, abs=1e-3)
