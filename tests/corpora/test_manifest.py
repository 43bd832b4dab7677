import json

import pytest

from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.errors import Problems, UserError

GOOD = {"id": "a", "split": "train", "audio": "a.wav", "image": "a.png", "image_id": "a"}


@pytest.fixture
def manifest(tmp_path):
    for name in ("a.wav", "a.png"):
        (tmp_path / name).touch()
    return tmp_path / "manifest.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, "expected a split of train, dev, test, found 'training'"),
        ({"audio": "b.wav"}, "b.wav: no such file"),
        ({"image": "b.png"}, "b.png: no such file"),
        ({"text": " "}, "text: empty"),
        ({"text": 5}, "row: text: expected text, found 5"),
        ({"image_id": None}, "row: image_id: expected text, found None"),
        ({"caption": "a dog"}, "row: caption: no such key"),
        ({"words": [["a", 0, "x"]]}, "row: words: expected [word, start, end], found ['a', 0, 'x']"),
        ({"words": [["a", 0.5, 0.2]]}, "words: their times do not ascend"),
    ],
)
def test_bad_rows_are_named(change, message, manifest):
    write_manifest(manifest, [GOOD, GOOD | {"id": "b"} | change, GOOD | {"id": "c"}])
    with pytest.raises(UserError) as error:
        read_manifest(manifest, Problems())
    assert "manifest row 2 (b): " in str(error.value)
    assert message in str(error.value)
    problems = Problems(skip=True)
    assert [row.id for row in read_manifest(manifest, problems)] == ["a", "c"]
    assert len(problems.skipped) == 1


def test_what_is_no_row(manifest):
    manifest.write_text("[1]\n{\n\n" + json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n")
    problems = Problems(skip=True)
    assert [row.line for row in read_manifest(manifest, problems)] == [4]
    assert list(problems.skipped) == ["manifest row 1", "manifest row 2", "manifest row 5 (a)"]
    with pytest.raises(UserError, match="no such file"):
        read_manifest(manifest.with_name("other.jsonl"), problems)
