"""The manifest: valid rows are read, and errors name invalid ones."""

import json

import pytest

from sclip.config import ManifestConfig
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.errors import Problems, UserError

GOOD = {"id": "a", "split": "train", "audio": "a.wav", "image": "a.png", "image_id": "a"}


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "manifest.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, "expected a split of train, dev, test, found 'training'"),
        ({"text": " "}, "text: empty; remove the key if there is no caption"),
        ({"text": 5}, "row: text: expected text, found 5"),
        ({"image_id": None}, "row: image_id: expected text, found None"),
        ({"caption": "a dog"}, "row: caption: no such key"),
        ({"words": [["a", 0, "x"]]}, "row: words: expected [word, start, end], found ['a', 0, 'x']"),
        ({"words": [["a", 0.5, 0.2]]}, "words: expected times in ascending order"),
        ({"words": [["a", 0, 10**400]]}, "row: words: expected [word, start, end], found ['a', 0, 1000"),
        ({"words": [["a", 0, float("nan")]]}, "row: words: expected [word, start, end], found ['a', 0, nan]"),
        ({"speaker": ["x" * 1000] * 1000}, "row: speaker: expected text, found ['xxx"),
    ],
)
def test_bad_rows_are_named(change, message, manifest):
    write_manifest(manifest, [GOOD, GOOD | {"id": "b"} | change, GOOD | {"id": "c"}])
    with pytest.raises(UserError) as error:
        read_manifest(manifest, Problems())
    assert "manifest row 2 (b): " in str(error.value)
    assert message in str(error.value)
    assert len(str(error.value)) < 400
    problems = Problems(skip=True)
    assert [row.id for row in read_manifest(manifest, problems)] == ["a", "c"]
    assert len(problems.skipped) == 1


def test_lines_that_are_no_row_are_named_and_skipped(manifest):
    manifest.write_text("[1]\n{\n\n" + json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n")
    problems = Problems(skip=True)
    assert [row.where for row in read_manifest(manifest, problems)] == ["manifest row 4"]
    assert list(problems.skipped) == ["manifest row 1", "manifest row 2", "manifest row 5 (a)"]
    with pytest.raises(UserError, match="no such file"):
        read_manifest(manifest.with_name("other.jsonl"), problems)


@pytest.mark.parametrize(("row", "message"), [("[" * 9999, "nested too deeply"), ("1" * 9999, "4,300 digits")])
def test_a_row_that_cannot_be_parsed_is_named(row, message, manifest):
    manifest.write_text(f"{json.dumps(GOOD)}\n{row}\n")
    with pytest.raises(UserError, match=rf"manifest row 2: .*{message}"):
        read_manifest(manifest, Problems())


def test_rows_with_missing_files_are_left_out_of_a_corpus(manifest):
    for name in ("a.wav", "a.png"):
        manifest.with_name(name).touch()
    given = manifest.with_name("given.jsonl")
    write_manifest(given, [GOOD, GOOD | {"id": "b", "audio": "b.wav"}, GOOD | {"id": "c", "image": "c.png"}])
    config = ManifestConfig("manifest", str(given))
    with pytest.raises(UserError, match=r"manifest row 2 \(b\): audio .*/b\.wav: no such file"):
        make_corpus(config, manifest, Problems())
    problems = Problems(skip=True)
    assert make_corpus(config, manifest, problems).utterances == 1
    assert list(problems.skipped) == ["manifest row 2 (b)", "manifest row 3 (c)"]
    assert problems.notes == {"splits without a row; commands that need these splits will fail": ["dev", "test"]}
    (row,) = read_manifest(manifest, Problems())
    manifest.with_name("a.wav").unlink()  # later stages may read only the cache, so the recording may be missing
    assert read_manifest(manifest, Problems()) == [row]
