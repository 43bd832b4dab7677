"""Corpora from published and from users' files: miniature copies, with and without faults."""

import csv
import json

import pytest
from miniature import PICTURES, flickr8k, jpg, spokencoco, wav

from sclip.config import Columns, Flickr8kConfig, ManifestConfig, SpokenCocoConfig, TableConfig
from sclip.corpora.check import check_corpus
from sclip.corpora.listing import find_split, split_by_hash
from sclip.corpora.make import SHARED_PICTURES, make_corpus, read_listing
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.corpora.rows import check_rows
from sclip.corpora.table import NO_SPLIT
from sclip.errors import Problems, UserError
from sclip.parsing import parse


@pytest.mark.parametrize("captions", ["Flickr8k.token.txt", "captions.txt"])
def test_flickr8k_has_its_recordings_captions_and_speakers(captions, tmp_path):
    flickr8k(tmp_path / "f", captions)
    assert make_corpus(Flickr8kConfig("flickr8k", str(tmp_path / "f")), tmp_path / "manifest.jsonl", Problems()) == 65
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").open()]
    row = next(row for row in rows if row["id"] == "dev1_abc_3")
    assert (row["split"], row["image_id"], row["speaker"]) == ("dev", "dev1_abc", "1")
    assert row["audio"].endswith("flickr_audio/wavs/dev1_abc_3.wav")
    if captions == "captions.txt":  # an empty last line is accepted
        complete = (tmp_path / "f" / captions).read_text()
        (tmp_path / "f" / captions).write_text(complete + "\n")
        assert len(read_listing(Flickr8kConfig("flickr8k", str(tmp_path / "f")), Problems()).rows) == 65
        (tmp_path / "f" / captions).write_text(complete + "dev1_abc.jpg\n")
        with pytest.raises(UserError, match=r"captions\.txt line \d+: expected a picture and a caption"):
            read_listing(Flickr8kConfig("flickr8k", str(tmp_path / "f")), Problems())
    assert row["text"].endswith("it says" if captions == "captions.txt" else " .")
    texts = {row["text"] for row in rows if row["image_id"] == "dev1_abc"}
    assert len(texts) == 5  # each recording has its own caption


def test_faults_of_flickr8k_are_found_and_their_rows_left_out(tmp_path):
    flickr8k(tmp_path, odd=True)
    check = check_corpus(Flickr8kConfig("flickr8k", str(tmp_path)), tmp_path)
    assert check.notes == {
        "pictures in no split": ["alone_abc.jpg"],
        "recordings of a picture in no split": [f"train5_abc_{k}.wav" for k in range(5)],
        "groups of recordings with the same content": ["train2_abc_0, train2_abc_1"],
    }
    assert check.faults.pop("counts that differ from the published ones")
    assert check.faults == {
        "captions without a recording": ["train0_abc.jpg#3"],
        "recordings without a caption": ["nobody_0.wav"],
        "pictures in two splits": ["train5_abc.jpg (train, test)"],
        "rows that cannot be used": [
            f"wav2capt.txt line 5 (train1_abc_0): audio {tmp_path}/flickr_audio/wavs/train1_abc_0.wav: no such file"
        ],
        "files that cannot be used": check.faults["files that cannot be used"],
    }
    assert "train2_abc_2" in check.faults["files that cannot be used"][0]
    assert check.splits["train"].utterances == 30 - 5 - 2
    assert check.splits["dev"].seconds == pytest.approx([0.4] * 15)


def test_files_of_flickr8k_without_a_row_are_listed_in_order(tmp_path):
    flickr8k(tmp_path)
    names = [f"{letter}_0" for letter in "abcdefgh"]
    for name in reversed(names):
        wav(tmp_path / f"flickr_audio/wavs/{name}.wav")
        jpg(tmp_path / f"Images/{name}.jpg")
    with (tmp_path / "Flickr8k.token.txt").open("a") as file:
        file.writelines(f"{name}.jpg#0\ta dog\n" for name in reversed(names))
    left_out = read_listing(Flickr8kConfig("flickr8k", str(tmp_path)), Problems()).left_out
    assert left_out == {
        "captions without a recording": [f"{name}.jpg#0" for name in names],
        "recordings without a caption": [f"{name}.wav" for name in names],
        "pictures in no split": [f"{name}.jpg" for name in names],
    }


def test_each_fault_is_found_once_and_named_by_its_file(tmp_path):
    """Two recordings are empty, one picture is in two splits under two names, and one file is not a picture."""
    rows = []
    for i, split in enumerate(["train", "train", "dev", "test"]):
        wav(tmp_path / f"{i}.wav")
        jpg(tmp_path / f"{i}.jpg")
        files = {"audio": f"{i}.wav", "image": f"{i}.jpg", "image_id": f"p{i}"}
        rows.append({"id": f"u{i}", "split": split, "text": f"a dog {i}", **files})
    for i in (0, 1):
        (tmp_path / f"{i}.wav").write_bytes(b"")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "0.jpg").read_bytes())
    (tmp_path / "3.jpg").write_text("not a picture")
    write_manifest(tmp_path / "manifest.jsonl", rows)
    check = check_corpus(ManifestConfig("manifest", str(tmp_path / "manifest.jsonl")), tmp_path)
    assert check.notes == {}
    assert check.faults == {
        "files that cannot be used": [
            "manifest row 1 (u0): audio 0.wav: is empty (0 bytes)",
            "manifest row 2 (u1): audio 1.wav: is empty (0 bytes)",
            "manifest row 4 (u3): image 3.jpg: cannot be read: not a picture in a supported format "
            "(BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)",
        ],
        "pictures in two splits": ["0.jpg (train), 2.jpg (dev)"],
    }


def test_a_small_copy_of_a_corpus_has_no_fault_except_its_counts(tmp_path):
    flickr8k(tmp_path)
    check = check_corpus(Flickr8kConfig("flickr8k", str(tmp_path)), tmp_path)
    assert check.faults.keys() == {"counts that differ from the published ones"}
    assert "train: expected 6,000 pictures, found 6" in check.faults["counts that differ from the published ones"]


def test_spokencoco_has_the_pictures_of_both_kinds_of_split(tmp_path):
    spokencoco(tmp_path)
    karpathy = read_listing(SpokenCocoConfig("spokencoco", str(tmp_path), "karpathy"), Problems())
    assert [sum(row.data["split"] == split for row in karpathy.rows) for split in PICTURES] == [18, 9, 12]
    own = read_listing(SpokenCocoConfig("spokencoco", str(tmp_path), "own"), Problems())
    pictures = {split: {row.data["image"] for row in own.rows if row.data["split"] == split} for split in PICTURES}
    assert len(pictures["train"]) == 6 + 3
    assert len(pictures["dev"]) + len(pictures["test"]) == 4 + 9
    assert pictures["dev"]
    assert not pictures["dev"] & pictures["test"]


def test_faults_of_spokencoco_are_found(tmp_path):
    spokencoco(tmp_path, odd=True)
    check = check_corpus(SpokenCocoConfig("spokencoco", str(tmp_path), "karpathy"), tmp_path)
    del check.faults["counts that differ from the published ones"]
    assert {what.split(", so")[0]: len(which) for what, which in check.faults.items()} == {
        "alignments that are not of the caption": 1,
        "alignments that cannot be read": 1,
        "pictures without a recording": 1,
        "pictures in two splits": 1,
        "rows that cannot be used": 2,  # a missing recording and a repeated id
        "files that cannot be used": 1,  # a picture that cannot be decoded
    }
    own = tmp_path / "SpokenCOCO/SpokenCOCO_val.json"
    own.write_text('{"data": [{"image": "a.jpg", "captions": [{}]}]}')
    with pytest.raises(UserError, match=r"SpokenCOCO_val.json data\[0\]: expected an image and captions"):
        read_listing(SpokenCocoConfig("spokencoco", str(tmp_path), "own"), Problems())
    own.unlink()
    own.mkdir()
    with pytest.raises(IsADirectoryError, match="SpokenCOCO_val"):  # the command prints it as one line
        read_listing(SpokenCocoConfig("spokencoco", str(tmp_path), "own"), Problems())


RECORDS = [
    {"clip": "a.wav", "photo": "a.png", "caption": "Ein Hund, zwei Katzen", "part": "validation", "who": "Eva"},
    {"clip": "b.wav", "photo": "b.png", "caption": "", "part": "train", "who": ""},
    {"clip": "", "photo": "b.png", "caption": "nichts", "part": "train", "who": ""},
]


def write_table(path):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, RECORDS[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(RECORDS)


def test_a_table_may_name_the_language_of_each_row(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo,spoken\na.wav,a.png,de\nb.wav,b.png,\n")
    columns = Columns(audio="clip", image="photo", language="spoken")
    listing = read_listing(TableConfig("table", str(path), columns), Problems())
    write_manifest(tmp_path / "manifest.jsonl", [row.data for row in listing.rows])
    rows = read_manifest(tmp_path / "manifest.jsonl", Problems())
    assert [row.language for row in rows] == ["de", None]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_of_table_gives_the_same_rows(suffix, tmp_path):
    path = tmp_path / f"mine.{suffix}"
    write_table(path)
    columns = Columns(audio="clip", image="photo", text="caption", split="part", speaker="who")
    problems = Problems(skip=True)
    listing = read_listing(TableConfig("table", str(path), columns, {"validation": "dev"}), problems)
    first, second = (row.data for row in listing.rows)
    assert first == {
        "id": "a.wav",
        "split": "dev",
        "audio": f"{tmp_path}/a.wav",
        "image": f"{tmp_path}/a.png",
        "image_id": "a.png",
        "text": "Ein Hund, zwei Katzen",
        "speaker": "Eva",
    }
    assert (second["text"], second["speaker"], second["split"]) == (None, None, "train")
    third = {".jsonl": "line 3", ".parquet": "row 3"}.get(path.suffix, "line 4")  # line 1 is the header
    assert problems.skipped == {
        f"{path.name} {third}": "column 'clip' is empty; every row needs a recording and a picture"
    }


def test_cells_of_spaces_are_empty(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo,caption,who,times\na.wav,a.png, ,  ,\u3000\n  ,b.png,b,b,\nc.wav, ,c,c,\n")
    columns = Columns(audio="clip", image="photo", text="caption", speaker="who", words="times")
    problems = Problems(skip=True)
    (row,) = read_listing(TableConfig("table", str(path), columns), problems).rows
    assert (row.data["id"], row.data["text"], row.data["speaker"]) == ("a.wav", None, None)
    reason = "is empty; every row needs a recording and a picture"
    assert problems.skipped == {
        "mine.csv line 3": f"column 'clip' {reason}",
        "mine.csv line 4": f"column 'photo' {reason}",
    }


def test_spaces_around_a_cell_are_no_part_of_a_name(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo\na.wav , a.png\n")
    (row,) = read_listing(TableConfig("table", str(path), Columns(audio="clip", image="photo")), Problems()).rows
    assert (row.data["audio"], row.data["image"]) == (f"{tmp_path}/a.wav", f"{tmp_path}/a.png")


def test_quotation_marks_are_ordinary_characters_in_tsv(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text(
        'clip\tphoto\tcaption\na.wav\ta.png\t"Hello" he said\nb.wav\tb.png\t"Hello there\nc.wav\tc.png\tno\n'
    )
    columns = Columns(audio="clip", image="photo", text="caption")
    rows = read_listing(TableConfig("table", str(path), columns), Problems()).rows
    assert [row.data["text"] for row in rows] == ['"Hello" he said', '"Hello there', "no"]


def test_a_corpus_without_a_usable_row_is_refused_with_the_first_reasons(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo\na.wav,a.png\nb.wav,b.png\n")
    with pytest.raises(
        UserError, match=r"no utterance can be used:\n  mine.csv line 2 \(a.wav\): audio .*: no such file\n"
    ):
        config = TableConfig("table", str(path), Columns(audio="clip", image="photo"))
        make_corpus(config, tmp_path / "manifest.jsonl", Problems(skip=True))


@pytest.mark.parametrize(
    ("quoted", "message"),
    [
        ({2}, "unexpected end of data"),
        ({2, 4}, "',' expected after '\"'"),  # the second mark ends the cell that the first one began
    ],
)
def test_a_quotation_mark_that_nothing_closes_is_found_at_its_row(quoted, message, tmp_path):
    """Otherwise the rows between two such marks would become one cell."""
    path = tmp_path / "mine.csv"
    captions = [f'"a dog {i}' if i in quoted else f"a dog {i}" for i in range(6)]
    path.write_text("clip,photo,caption\n" + "".join(f"{i}.wav,{i}.png,{text}\n" for i, text in enumerate(captions)))
    config = TableConfig("table", str(path), Columns(audio="clip", image="photo", text="caption"))
    with pytest.raises(UserError, match=f"mine.csv line 4: {message}; check the row's quotation marks: is one missing"):
        read_listing(config, Problems(skip=True))


def test_columns_of_the_same_name_are_refused(tmp_path):
    path = tmp_path / "mine.CSV"
    path.write_text("clip,photo,caption,caption,,\na.wav,a.png,a dog,a cat,,\n")
    with pytest.raises(UserError, match=r"mine\.CSV: 2 columns are named 'caption'; rename all but one"):
        read_listing(TableConfig("table", str(path), Columns("clip", "photo", text="caption")), Problems())
    (draft,) = read_listing(TableConfig("table", str(path), Columns("clip", "photo")), Problems()).rows  # without it
    assert draft.data["id"] == "a.wav"


def test_missing_columns_and_empty_cells_of_a_table_are_named(tmp_path):
    path = tmp_path / "mine.csv"
    write_table(path)
    with pytest.raises(UserError, match="line 2: no column 'foto'; the columns, which the first line names, are clip"):
        read_listing(TableConfig("table", str(path), Columns(audio="clip", image="foto")), Problems())
    with pytest.raises(UserError, match=r"mine.csv line 4: column 'clip' is empty; .* \(--on-error"):
        read_listing(TableConfig("table", str(path), Columns(audio="clip", image="photo")), Problems())


def test_rows_of_a_table_without_splits_get_one(tmp_path):
    path = tmp_path / "mine.csv"
    write_table(path)
    listing = read_listing(TableConfig("table", str(path), Columns(audio="clip", image="photo")), Problems(skip=True))
    assert all(row.data["split"] in PICTURES for row in listing.rows)


def test_a_picture_is_in_one_split_only(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo\n" + "".join(f"{i}.wav,a.png\n" for i in range(30)))
    rows = read_listing(TableConfig("table", str(path), Columns(audio="clip", image="photo")), Problems()).rows
    assert len(rows) == 30
    assert {row.data["split"] for row in rows} == {split_by_hash("a.png")}


def test_rows_with_an_empty_split_and_pictures_in_several_splits_are_noted(tmp_path):
    for name in ("a", "b", "c"):
        wav(tmp_path / f"{name}.wav", 0.5)
    jpg(tmp_path / "dog.jpg")
    jpg(tmp_path / "cat.jpg")
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo,part\na.wav,dog.jpg,train\nb.wav,dog.jpg,test\nc.wav,cat.jpg,\n")
    problems = Problems()
    config = TableConfig("table", str(path), Columns(audio="clip", image="photo", split="part"))
    make_corpus(config, tmp_path / "manifest.jsonl", problems)
    assert problems.notes[SHARED_PICTURES] == ["dog.jpg (test, train)"]
    assert problems.notes[NO_SPLIT] == ["c.wav"]
    problems, config = Problems(), TableConfig("table", str(path), Columns(audio="clip", image="photo"))
    make_corpus(config, tmp_path / "manifest.jsonl", problems)
    assert NO_SPLIT not in problems.notes  # all pictures are divided, because no column says how


def test_usual_names_of_splits_need_no_setting_and_others_get_advice(tmp_path):
    """The names are those that pairs and hub data sets know, too."""
    path, columns = tmp_path / "mine.csv", Columns(audio="clip", image="photo", split="part")
    names = {"Train": "train", "validation": "dev", "valid": "dev", "VAL": "dev", "dev": "dev", "test": "test"}
    assert {name: find_split(name, {}) for name in names} == names
    lines = [f"{name}.wav,a.png,{name}" for name in (*names, "held-out")]
    path.write_text("\n".join(["clip,photo,part", *lines]) + "\n")
    rows = read_listing(TableConfig("table", str(path), columns), Problems()).rows
    assert [row.data["split"] for row in rows] == [*names.values(), "held-out"]
    with pytest.raises(UserError, match=r"found 'held-out'; .* corpus.splits .* splits: {'held-out': test}"):
        check_rows(rows, tmp_path, Problems())
    translated = TableConfig("table", str(path), columns, splits={"Held-Out": "test", "val": "test"})
    splits = [row.data["split"] for row in read_listing(translated, Problems()).rows]
    assert splits == ["train", "dev", "dev", "test", "dev", "test", "test"]


@pytest.mark.parametrize(
    ("row", "found"),
    [("a.wav,a.png,a dog, running", "4; write a cell that has a comma in quotes \\("), ("a.wav,a.png", "2 \\(")],
)
def test_rows_with_too_many_or_too_few_cells_are_named(row, found, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"clip,photo,caption\n{row}\n")
    with pytest.raises(UserError, match=rf"mine\.csv line 2: expected 3 cells, as in the first line, found {found}"):
        read_listing(TableConfig("table", str(path), Columns(audio="clip", image="photo", text="caption")), Problems())


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("clip,photo,caption\n", "only its first line, with the names of columns")],
)
def test_a_table_without_rows_is_refused(content, message, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"mine\.csv: {message}"):
        read_listing(TableConfig("table", str(path), Columns(audio="clip", image="photo", text="caption")), Problems())


def test_faults_of_json_lines_are_named(tmp_path):
    path = tmp_path / "mine.jsonl"
    record = {"clip": "a.wav", "photo": "a.png", "caption": float("nan")}
    path.write_text(json.dumps(record) + "\n" + json.dumps(record | {"caption": ["a dog"]}) + "\n")
    problems = Problems(skip=True)
    (draft,) = read_listing(TableConfig("table", str(path), Columns("clip", "photo", text="caption")), problems).rows
    assert draft.data["text"] is None
    assert problems.skipped == {"mine.jsonl line 2": "expected text in column 'caption', found ['a dog']"}
    path.write_text(json.dumps(record) + "\n" + json.dumps({"clip": "b.wav", "photo": "b.png"}) + "\n")
    with pytest.raises(UserError, match=r"line 2: no column 'caption'; the columns are clip, photo; write null for"):
        read_listing(TableConfig("table", str(path), Columns("clip", "photo", text="caption")), Problems())
    for array in (json.dumps([record], indent=1), json.dumps([record | {"caption": "a dog"}] * 2)):
        path.write_text(array)
        with pytest.raises(UserError, match=r"line 1: not a JSON object: .*; write each object on a line of its own"):
            read_listing(TableConfig("table", str(path), Columns("clip", "photo", text="caption")), Problems())
    for row, message in (("[" * 9999, "nested too deeply"), ("1" * 9999, "a number of more than 4,300 digits")):
        path.write_text(f"{json.dumps(record)}\n{row}\n")
        with pytest.raises(UserError, match=rf"mine.jsonl line 2: not a JSON object: {message}"):
            read_listing(TableConfig("table", str(path), Columns("clip", "photo", text="caption")), Problems())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("mine.xlsx", b"", r"expected one of \.csv, \.tsv"),
        ("latin.csv", "clip,photo\na.wav,Bäume.png\n".encode("latin-1"), "latin.csv: not UTF-8"),
        ("no.parquet", b"clip,photo\n", "no.parquet: not Parquet"),
    ],
)
def test_files_of_other_formats_are_refused(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_listing(TableConfig("table", str(tmp_path / name), Columns(audio="clip", image="photo")), Problems())


def test_a_wrong_target_of_a_split_names_the_setting():
    columns = {"audio": "clip", "image": "photo"}
    config = {"kind": "table", "path": "mine.csv", "columns": columns, "splits": {"validation": "valid"}}
    message = "corpus.splits: validation: expected one of train, dev, test, found 'valid'"
    with pytest.raises(UserError, match=message):
        parse(TableConfig, config, "params.yaml: presets.mine.corpus")


def test_a_repeated_recording_without_an_id_column_gets_advice(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("clip,photo,n\na.wav,a.png,1\nb.wav,b.png,2\na.wav,b.png,3\n")
    problems = Problems(skip=True)
    assert len(read_listing(TableConfig("table", str(path), Columns("clip", "photo")), problems).rows) == 2
    assert problems.skipped == {
        "mine.csv line 4": "the recording a.wav is also in mine.csv line 2; add a column with a unique id for each "
        "row, and name it in columns.id"
    }
    with_ids = TableConfig("table", str(path), Columns("clip", "photo", id="n"))
    assert [row.data["id"] for row in read_listing(with_ids, Problems()).rows] == ["1", "2", "3"]
