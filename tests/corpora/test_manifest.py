"""The manifest: valid rows are read, and errors name invalid ones."""

import json
import random
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sclip.config import ManifestConfig
from sclip.corpora import manifest as manifests
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import digest_file, read_manifest, write_manifest
from sclip.corpora.rows import Draft, check_rows
from sclip.errors import Problems, UserError
from sclip.index_file import write_index_file
from sclip.parsing import parse_json

GOOD = {"id": "a", "split": "train", "audio": "a.wav", "image": "a.png", "image_id": "a"}


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "manifest.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "training"}, "expected a split of train, dev, test, found 'training'"),
        ({"text": " "}, "text: empty; remove the key if there is no caption"),
        ({"text": 5}, "(b): text: expected text, found 5"),
        ({"image_id": None}, "(b): image_id: expected text, found None"),
        ({"caption": "a dog"}, "(b): caption: no such key"),
        ({"words": [["a", 0, "x"]]}, "(b): words: expected [word, start, end], found ['a', 0, 'x']"),
        ({"words": [["a", 0.5, 0.2]]}, "words: expected times in ascending order"),
        ({"words": [["a", 0, 10**400]]}, "(b): words: expected [word, start, end], found ['a', 0, 1000"),
        ({"words": [["a", 0, float("nan")]]}, "(b): words: expected [word, start, end], found ['a', 0, nan]"),
        ({"speaker": ["x" * 1000] * 1000}, "(b): speaker: expected text, found ['xxx"),
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


def test_the_last_of_repeated_keys_counts_whatever_the_first_one_holds(manifest):
    manifest.write_text('{"text": NaN, ' + json.dumps(GOOD | {"text": "a dog"})[1:])
    (row,) = read_manifest(manifest, Problems())
    assert row.text == "a dog"


def test_rows_with_missing_files_are_left_out_of_a_corpus(manifest):
    for name in ("a.wav", "a.png"):
        manifest.with_name(name).touch()
    original = manifest.with_name("given.jsonl")
    write_manifest(original, [GOOD, GOOD | {"id": "b", "audio": "b.wav"}, GOOD | {"id": "c", "image": "c.png"}])
    config = ManifestConfig("manifest", str(original))
    with pytest.raises(UserError, match=r"manifest row 2 \(b\): audio .*/b\.wav: no such file"):
        make_corpus(config, manifest, Problems())
    problems = Problems(skip=True)
    assert make_corpus(config, manifest, problems) == 1
    assert list(problems.skipped) == ["manifest row 2 (b)", "manifest row 3 (c)"]
    assert problems.notes == {
        "splits without a row; `train` needs train and dev, and `evaluate` needs test": ["dev", "test"],
        "splits without a caption; architectures with keywords cannot be trained": ["train"],
    }
    (row,) = read_manifest(manifest, Problems())
    manifest.with_name("a.wav").unlink()  # later stages may read only the cache, so the recording may be missing
    assert list(read_manifest(manifest, Problems())) == [row]


TIME = st.one_of(st.integers(-1, 3), st.floats(-1, 3), st.sampled_from([True, None, "1", 10**9, 1e9 + 1, 10**30]))
WORD = st.one_of(st.just("dog"), st.integers(), st.none())
TRIPLE = st.one_of(st.tuples(WORD, TIME, TIME).map(list), st.sampled_from(["dog", [], ["dog", 1], {"a": 1}, 5]))
VALUE = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["", " ", "train", "\ud83d", "x\u2028y"]))
CHANGES = st.dictionaries(
    st.sampled_from([*GOOD, "text", "speaker", "language", "caption"]), VALUE, max_size=2
) | st.fixed_dictionaries({"words": st.one_of(VALUE, st.lists(TRIPLE, max_size=3))})


def parse_row(line: str, where: str, problems: Problems) -> Draft | None:
    try:
        return Draft(where, parse_json(line))
    except ValueError as error:
        problems.add(where, str(error))
        return None


@given(st.lists(CHANGES, max_size=3))
def test_rows_and_messages_are_those_of_the_parser(changes):
    """The comparisons that accept most rows accept none that the parser refuses, and leave every message to it."""
    rows = [GOOD, *(GOOD | {"id": str(i)} | change for i, change in enumerate(changes))]
    lines = [json.dumps(row) for row in rows]
    expected = Problems(skip=True)
    parsed = [parse_row(line, f"manifest row {i}", expected) for i, line in enumerate(lines, 1)]
    drafts = [draft for draft in parsed if draft is not None]
    with tempfile.TemporaryDirectory() as folder:
        path, found = Path(folder) / "manifest.jsonl", Problems(skip=True)
        path.write_text("\n".join(lines))
        assert list(read_manifest(path, found)) == check_rows(drafts, path.parent, expected)
    assert found.skipped == expected.skipped


def test_a_manifest_is_a_sequence_of_rows_with_views(manifest):
    write_manifest(manifest, [GOOD | {"id": name, "text": f"text {name}"} for name in "abcde"])
    rows = read_manifest(manifest, Problems())
    manifest.unlink()  # the open file still has them
    assert [row.id for row in rows] == list("abcde")
    assert (rows[-1].id, rows[1].where, len(rows)) == ("e", "manifest row 2", 5)
    assert [row.id for row in rows[1::2]] == ["b", "d"]
    assert [row.where for row in rows.select([3, 0])] == ["manifest row 4", "manifest row 1"]
    assert list(rows[3:].values("id", "text", "speaker")) == [("d", "text d", None), ("e", "text e", None)]
    assert rows[0].audio == manifest.with_name("a.wav")
    with pytest.raises(IndexError):
        rows[5]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_any_line_endings_and_a_byte_order_mark_are_read(ending, manifest):
    lines = [json.dumps(GOOD), "", json.dumps(GOOD | {"id": "b", "text": "grüß 猫"}, ensure_ascii=False)]
    manifest.write_bytes(b"\xef\xbb\xbf" + ending.join(lines).encode())
    rows = read_manifest(manifest, Problems())
    assert [(row.where, row.text) for row in rows] == [("manifest row 1", None), ("manifest row 3", "grüß 猫")]
    manifest.write_bytes(json.dumps(GOOD).encode() + b"\n{\xff}")
    with pytest.raises(UserError, match=r"manifest\.jsonl: not UTF-8: row 2: "):
        read_manifest(manifest, Problems(skip=True))


def test_a_damaged_manifest_is_refused_whatever_is_damaged(manifest):
    """Each bit of the manifest counts, also one that leaves a valid row; so does each line that is lost."""
    write_manifest(manifest, [GOOD | {"id": name, "text": "a dog"} for name in "abc"])
    content, choose = manifest.read_bytes(), random.Random(0)
    record = json.loads(digest_file(manifest).read_text())
    assert (manifest.with_name("manifest.digest.json"), record["rows"]) == (digest_file(manifest), 3)
    damages = [content[: content.index(b"\n") + 1], b"", content + b"\n", content.replace(b"dog", b"dig", 1)]
    for _ in range(100):
        flipped = bytearray(content)
        flipped[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        damages.append(bytes(flipped))
    for damaged in damages:
        manifest.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            read_manifest(manifest, Problems(skip=True))
        assert f"{manifest}: its SHA-256 is " in str(error.value)
        assert f", expected {record['sha256'][:12]}… as in manifest.digest.json" in str(error.value)
        assert "run `sclip make-corpus` again, or delete manifest.digest.json to use the file" in str(error.value)
    manifest.write_bytes(content)
    assert len(read_manifest(manifest, Problems())) == 3
    manifest.write_bytes(damages[0])
    digest_file(manifest).unlink()  # as the message says
    assert len(read_manifest(manifest, Problems())) == 1


def test_a_damaged_digest_is_refused(manifest):
    write_manifest(manifest, [GOOD])
    record = digest_file(manifest)
    content = record.read_bytes()
    damages = [content[:length] for length in range(len(content) - 2)]
    damages += [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in range(len(content) - 1)]
    for damaged in damages:
        record.write_bytes(damaged)
        try:
            read_manifest(manifest, Problems())
        except UserError as error:
            assert "manifest.digest.json: " in str(error)
            assert str(error).endswith("run `sclip make-corpus` again")
        else:  # a flipped bit of white space
            assert json.loads(damaged) == json.loads(content)


def test_a_digest_of_a_newer_format_is_refused_with_the_version_that_wrote_it(manifest, monkeypatch):
    write_manifest(manifest, [GOOD])
    with monkeypatch.context() as patched:
        patched.setattr("sclip.index_file.__version__", "9.8.7")
        write_index_file(digest_file(manifest), {"format": "sclip manifest 17"})
    with pytest.raises(UserError, match=r"found 'sclip manifest 17', written by sclip 9\.8\.7, .*; install 9\.8\.7"):
        read_manifest(manifest, Problems())


def test_a_killed_writer_leaves_no_digest_of_another_manifest(manifest, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    for function in ("sclip.files.flush_to_disk", "sclip.corpora.manifest.write_index_file"):
        write_manifest(manifest, [GOOD])
        with monkeypatch.context() as patched:
            patched.setattr(function, kill)
            with pytest.raises(KeyboardInterrupt):
                write_manifest(manifest, [GOOD, GOOD | {"id": "b"}])
        assert not digest_file(manifest).exists()
        assert len(read_manifest(manifest, Problems())) == (1 if "flush" in function else 2)


def test_an_error_while_rows_are_written_leaves_the_older_manifest(manifest):
    write_manifest(manifest, [GOOD])
    before = manifest.read_bytes(), digest_file(manifest).read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_manifest(manifest, (GOOD | {"id": str(1 // (2 - i))} for i in range(3)))
    assert (manifest.read_bytes(), digest_file(manifest).read_bytes()) == before
    assert sorted(path.name for path in manifest.parent.iterdir()) == ["manifest.digest.json", "manifest.jsonl"]


@given(st.lists(CHANGES, max_size=3))
def test_a_digest_changes_neither_the_rows_nor_the_messages(changes):
    """A manifest whose rows were valid when they were written is read without a check, and any other is checked."""
    rows = [GOOD, *(GOOD | {"id": str(i % 2)} | change for i, change in enumerate(changes))]
    with tempfile.TemporaryDirectory() as folder:
        path, problems, expected = Path(folder) / "manifest.jsonl", Problems(skip=True), Problems(skip=True)
        try:
            write_manifest(path, rows)
        except UnicodeEncodeError:  # half of a pair of surrogates
            return
        record = json.loads(digest_file(path).read_text())
        found = read_manifest(path, problems)
        digest_file(path).unlink()
        checked = read_manifest(path, expected)
        assert (list(found), list(found.values("id"))) == (list(checked), list(checked.values("id")))
        assert problems.skipped == expected.skipped
        assert not (record["valid"] and expected.skipped)


def test_rows_that_were_valid_when_written_are_not_decoded_before_they_are_used(manifest, monkeypatch):
    write_manifest(manifest, [GOOD, GOOD | {"id": "b"}])
    monkeypatch.setattr(manifests, "valid_id", lambda _: pytest.fail("a row was checked again"))
    rows = read_manifest(manifest, Problems())
    assert [(row.id, row.where) for row in rows] == [("a", "manifest row 1"), ("b", "manifest row 2")]
    monkeypatch.undo()
    digest = sha256(manifest.read_bytes()).hexdigest()  # as an earlier version wrote it
    write_index_file(digest_file(manifest), {"format": manifests.FORMAT, "rows": 2, "sha256": digest})
    assert list(read_manifest(manifest, Problems())) == list(rows)


def test_a_manifest_of_a_user_is_read_as_it_is(manifest):
    """Other programs have files of the same stem, such as NeMo, whose manifest.json has a row on each line."""
    manifest.write_text(json.dumps(GOOD) + "\n")
    manifest.with_name("manifest.json").write_text('{"audio_filepath": "a.wav"}\n{"audio_filepath": "b.wav"}\n')
    assert [row.id for row in read_manifest(manifest, Problems())] == ["a"]
