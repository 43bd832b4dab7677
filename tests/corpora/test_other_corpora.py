"""Places, SPEECH-COCO, folders of pairs and hub data sets: miniature copies, with and without faults."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import miniature
import numpy as np
import pyarrow
import pytest
import soundfile
from file_examples import write_files
from PIL import Image
from pyarrow import parquet

from sclip.config import Columns, CorpusConfig, HubConfig, PairsConfig, PlacesConfig, SpeechCocoConfig
from sclip.corpora.check import check_corpus
from sclip.corpora.hub import NO_SPLIT, list_hub
from sclip.corpora.listing import split_by_hash
from sclip.corpora.make import find_rows, make_corpus, read_listing
from sclip.encoders.audio import read_audio
from sclip.errors import Problems, UserError
from sclip.parsing import parse


def manifest(config: CorpusConfig, folder: Path) -> dict[str, dict]:
    """Return the rows of a corpus without a fault, by id."""
    problems = Problems()
    make_corpus(config, folder / "manifest.jsonl", problems)
    harmless = {
        "utterances without word times",
        "splits without a row; `train` needs train and dev, and `evaluate` needs test",
    }
    assert problems.notes.keys() <= harmless
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").open()]
    return {row["id"]: row for row in rows}


def faults(config: CorpusConfig, folder: Path) -> dict[str, list[str]]:
    """Return what check-corpus finds, without the second half of long kinds."""
    check = check_corpus(config, folder / "manifest.jsonl")
    return {kind.split(", so")[0]: cases for kind, cases in check.faults.items()}


def count(rows: dict[str, dict]) -> dict[str, int]:
    return {split: sum(row["split"] == split for row in rows.values()) for split in ("train", "dev", "test")}


def test_places_has_seen_and_unseen_speakers(tmp_path):
    miniature.places(tmp_path)
    for split in ("seen", "unseen"):
        rows = manifest(PlacesConfig("places", str(tmp_path), split), tmp_path)
        assert count(rows) == {"train": 4, "dev": 4, "test": 4}
        row = rows[f"test_{split}_2"]
        assert (row["speaker"], row["image_id"]) == ("A2", f"t/test_{split}_place/gsun_2")
        assert row["text"] == miniature.caption(2)[:-2]
        assert row["audio"] == f"{tmp_path}/PlacesAudio_400k_distro/wavs/test_{split}/utterance_2.wav"
    rows = manifest(PlacesConfig("places", str(tmp_path), "original"), tmp_path)
    assert {row["split"] for name, row in rows.items() if name.startswith("val")} <= {"dev", "test"}
    shutil.move(tmp_path / "metadata", tmp_path / "placesaudio_2020_splits")
    shutil.move(tmp_path / "images", tmp_path / "PlacesAudio_400k_distro/images")
    assert len(manifest(PlacesConfig("places", str(tmp_path), "seen"), tmp_path)) == 12


def test_faults_of_places_are_found(tmp_path):
    miniature.places(tmp_path, odd=True)
    config = PlacesConfig("places", str(tmp_path), "seen")
    found = faults(config, tmp_path)
    assert found.keys() == {"pictures in two splits", "rows that cannot be used"}
    assert found["pictures in two splits"] == ["d/dev_seen_place/gsun_0.jpg (dev, test)"]
    recording, picture, repeated = sorted(found["rows that cannot be used"])
    assert "train_2020.json data[0] (train_0): audio " in recording
    assert "train_2020.json data[1] (train_1): image " in picture
    assert "(train_2): repeats the id of train_2020.json data[2]" in repeated
    for content, message in (("[]", r"expected {'data'"), ('{"data": [{"uttid": "a"}]}', r"data\[0\]: expected texts")):
        (tmp_path / "metadata/dev_seen_2020.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_listing(config, Problems())
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(UserError, match=r"/images: no such folder; `sclip fetch places .* pictures` says where"):
        read_listing(config, Problems())
    with pytest.raises(UserError, match=r"train.json: no such file; `sclip fetch places nowhere` downloads"):
        read_listing(PlacesConfig("places", "nowhere", "original"), Problems())


@pytest.mark.parametrize("subfolder", ["", "CORPUS-MSCOCO"])
def test_speech_coco_has_captions_voices_and_word_times(subfolder, tmp_path):
    miniature.speech_coco(tmp_path)
    for part in ("train2014", "val2014") if subfolder else ():
        shutil.move(tmp_path / part, tmp_path / subfolder / part)
    rows = manifest(SpeechCocoConfig("speech-coco", str(tmp_path)), tmp_path)
    assert (len(rows), count(rows)["train"]) == (12, 6)
    row = rows["200_2001_Phil_None_0-9"]
    assert (row["text"], row["speaker"], row["image_id"]) == ("Um, a white dog.", "Phil", "COCO_val2014_000000000200")
    # The pauses before and after "a" end with the next SIL: they begin with the syllable, or with its last phone.
    assert row["words"] == [["um", 0.02, 0.06], ["a", 0.1, 0.13], ["white", 0.15, 0.26], ["dog", 0.26, 0.38]]
    same = [rows[f"200_200{k}_Phil_None_0-9"]["split"] for k in range(2)]
    assert same[0] == same[1] != "train"


def test_faults_of_speech_coco_are_found(tmp_path):
    miniature.speech_coco(tmp_path, odd=True)
    config = SpeechCocoConfig("speech-coco", str(tmp_path))
    found = faults(config, tmp_path)
    assert {kind: len(cases) for kind, cases in found.items()} == {
        "recordings without a JSON file": 3,  # one has none, two have damaged ones
        "alignments that cannot be read": 1,
        "alignments that are not of the caption": 1,
        "rows that cannot be used": 5,
    }
    rows = sorted(found["rows that cannot be used"])
    assert "train2014/json/100_1001_Phil_None_0-9.json (100_1001_Phil_None_0-9): audio " in rows[0]
    assert "train2014/json/101_1010_Phil_None_0-9.json: " in rows[1]
    assert "not JSON" in rows[1]
    assert rows[2].startswith("val2014/json/200_2000_Phil_None_0-9.json: expected imgID, synthesisedCaption, speaker, ")
    assert all("COCO_val2014_000000000202.jpg: no such file" in row for row in rows[3:])
    with pytest.raises(UserError, match="`sclip fetch speech-coco nowhere` downloads"):
        read_listing(SpeechCocoConfig("speech-coco", "nowhere"), Problems())


def test_pairs_have_the_split_of_their_folder(tmp_path):
    miniature.pairs(tmp_path / "mine")
    rows = manifest(PairsConfig("pairs", str(tmp_path / "mine"), {"validation": "dev"}), tmp_path)
    assert count(rows) == {"train": 3, "dev": 2, "test": 2}
    row = rows["validation/speaker1/a"]
    assert row["text"] == miniature.caption(1)
    assert row["words"] == [list(word) for word in miniature.spread(miniature.caption(1))]
    assert "text" not in rows["train/speaker2/a"]
    assert manifest(PairsConfig("pairs", str(tmp_path / "mine")), tmp_path) == rows  # a usual name needs no setting
    # Without a folder of a split, a hash decides.
    (tmp_path / "mine/train").rename(tmp_path / "mine/one")
    (tmp_path / "mine/test").rename(tmp_path / "mine/two")
    (tmp_path / "mine/validation").rename(tmp_path / "mine/three")
    listing = read_listing(PairsConfig("pairs", str(tmp_path / "mine")), Problems())
    assert [row.data["split"] for row in listing.rows] == [split_by_hash(row.data["id"]) for row in listing.rows]
    assert len(listing.rows) == 7
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_listing(PairsConfig("pairs", "nowhere"), Problems())


@pytest.mark.parametrize("recording", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("picture", ["jpg", "jpeg", "png", "webp"])
def test_recordings_and_pictures_of_every_format_are_pairs(recording, picture, tmp_path):
    write_files(f"{tmp_path}/a.{recording}", f"{tmp_path}/a.{picture}")
    (row,) = read_listing(PairsConfig("pairs", str(tmp_path)), Problems()).rows
    assert (row.data["audio"], row.data["image"]) == (f"{tmp_path}/a.{recording}", f"{tmp_path}/a.{picture}")


def test_the_outermost_folder_decides_the_split_of_a_pair_and_its_own_name_does_not(tmp_path):
    for name in ("train/test/a", "train/b", "test"):
        write_files(f"{tmp_path}/{name}.wav", f"{tmp_path}/{name}.png")
    rows = read_listing(PairsConfig("pairs", str(tmp_path)), Problems()).rows
    assert {row.data["id"]: row.data["split"] for row in rows} == {"train/test/a": "train", "train/b": "train"}


def test_faults_of_pairs_are_found(tmp_path):
    miniature.pairs(tmp_path / "mine", odd=True)
    found = faults(PairsConfig("pairs", str(tmp_path / "mine"), {"validation": "dev"}), tmp_path)
    assert found["recordings without a picture"] == ["train/alone.wav"]
    assert found["pictures without a recording"] == ["alone.png"]
    assert found["alignments that are not of the caption"][0].startswith("train/speaker1/a (train/speaker1/a): ")
    assert sorted(line.split(": ", 1)[0] for line in found["rows that cannot be used"]) == [
        "test/speaker0/a (test/speaker0/a)",  # an empty caption
        "test/speaker1/a",
        "train/speaker2/a",
    ]
    text = "\n".join(found["rows that cannot be used"])
    assert "text: empty; remove the key" in text
    assert "not UTF-8" in text
    assert "a.jpg and a.png have the same name; leave one" in text
    outside = "pairs outside the folders train, dev and test, and of those that corpus.splits translates"
    assert found[outside] == ["top"]
    assert len(found) == 5


def test_pairs_of_unusual_files(tmp_path):
    """Each of them was once lost or misread without a word, or ended with a traceback."""
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    for name in ("train/a.b", "train/a.c", "train/quiet", "train/hidden/.git/x", "train/._a.b"):
        miniature.wav(folder / f"{name}.wav")
        miniature.jpg(folder / f"{name}.jpg")
    miniature.wav(elsewhere / "B.WAV")
    miniature.jpg(elsewhere / "B.JPEG")
    (elsewhere / "B.TXT").write_text("a\ndog\n")
    miniature.textgrid(elsewhere / "B.TEXTGRID", {"words": miniature.spread("a dog")}, short=True)
    (folder / "Test").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(elsewhere)  # a loop
    (folder / "train/a.b.txt").write_text("one")
    (folder / "train/a.b.TXT").write_text("two")
    (folder / "train/gone.wav").symlink_to(tmp_path / "nowhere.wav")
    miniature.jpg(folder / "train/gone.jpg")
    (folder / "notes/test").mkdir(parents=True)
    (folder / "notes/test/README.txt").write_text("a folder of this name decides no split of pairs")
    os.mkfifo(folder / "train/pipe.wav")
    for ending in (b"wav", b"jpg"):
        shutil.copy(folder / f"train/quiet.{ending.decode()}", os.fsencode(folder) + b"/train/\xe9." + ending)
    config = PairsConfig("pairs", str(folder))
    problems = Problems(skip=True)
    rows, listing = find_rows(config, tmp_path / "manifest.jsonl", problems)
    assert [(row.id, row.split, row.text) for row in rows] == [
        ("Test/B", "test", "a dog"),
        ("train/a.c", "train", None),
        ("train/quiet", "train", None),
    ]
    assert rows[0].words == (("a", *miniature.spread("a dog")[0][1:]), ("dog", *miniature.spread("a dog")[1][1:]))
    assert listing.notes["text files and TextGrids without a pair"] == ["notes/test/README.txt"]
    reasons = {name: reason.partition(";")[0].replace(str(folder), "mine") for name, reason in problems.skipped.items()}
    assert reasons == {
        "train/a.b": "a.b.TXT and a.b.txt have the same name",
        "train/\udce9": "the name is not UTF-8, which a manifest needs",
        "train/gone (train/gone)": "audio mine/train/gone.wav: no such file",
    }


def test_a_folder_without_pairs_says_what_is_there(tmp_path):
    miniature.wav(tmp_path / "audio/a.wav")
    miniature.jpg(tmp_path / "images/a.jpg")
    with pytest.raises(UserError, match="no pairs: found 1 recording and 1 picture; expected files with the same name"):
        read_listing(PairsConfig("pairs", str(tmp_path)), Problems())


COLUMNS = Columns("audio", "image", text="caption", speaker="who", words="timed")


@pytest.mark.parametrize("path", ["", "/data", "/data/*.parquet"])
def test_hub_data_sets_are_unpacked(path, tmp_path):
    miniature.hub(tmp_path / "set")
    rows = manifest(HubConfig("hub", f"{tmp_path}/set{path}", COLUMNS), tmp_path)
    assert count(rows) == {"train": 4, "dev": 2, "test": 2}
    first, second, third = (rows[f"train-00000-of-00001:{number}"] for number in (1, 2, 3))
    assert (first["text"], first["speaker"]) == (miniature.caption(0), "0")
    assert first["words"] == [list(word) for word in miniature.spread(miniature.caption(0))]
    assert "words" not in second
    assert first["image"] == third["image"]
    assert first["image_id"] == third["image_id"] != second["image_id"]
    written = parquet.read_table(tmp_path / "set/data/train-00000-of-00001.parquet").to_pylist()
    assert Path(first["audio"]).read_bytes() == written[0]["audio"]["bytes"]
    assert Path(first["audio"]).suffix == ".wav"
    assert Path(first["image"]).read_bytes() == written[0]["image"]["bytes"]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "unpacked").rglob("*.*")}
    assert len(files) == 8 + 7
    manifest(HubConfig("hub", f"{tmp_path}/set{path}", COLUMNS), tmp_path)  # writes no file again
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "unpacked").rglob("*.*")} == files


def test_faults_of_hub_data_sets_are_found(tmp_path):
    miniature.hub(tmp_path / "set", odd=True)
    config = HubConfig("hub", str(tmp_path / "set"), COLUMNS)
    found = faults(config, tmp_path)
    assert found.keys() == {
        "rows that cannot be used",
        "files that cannot be used",
        "alignments that are not of the caption",
    }
    damaged, empty, nowhere = sorted(found["rows that cannot be used"])
    name = "train-00000-of-00001.parquet row"
    assert damaged.startswith(f"{name} 1: column 'audio': no recording that soundfile reads: ")
    assert empty == f"{name} 2: column 'audio': expected a file's bytes, or the path of a file, found None"
    assert nowhere == f"{name} 4: column 'audio': no bytes, and {tmp_path}/set/data/nowhere.wav: no such file"
    (picture,) = found["files that cannot be used"]
    assert "test-00000-of-00001.parquet row 1 (test-00000-of-00001:1): image " in picture
    assert not (tmp_path / "manifest.jsonl").exists()
    with pytest.raises(UserError, match=r"row 1: column 'audio': .* \(--on-error skip"):
        make_corpus(config, tmp_path / "manifest.jsonl", Problems())


def test_every_layout_of_a_cell_is_read(tmp_path):
    """Samples, plain bytes, and paths next to the file; the split in a column, ids of a column, two folders."""
    samples = np.linspace(-0.5, 0.5, 4000, dtype=np.float32)
    miniature.wav(tmp_path / "set/one/wavs/a.wav")
    miniature.jpg(tmp_path / "set/one/a.jpg")
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="FLAC")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    rows = {
        "one": {"audio": "wavs/a.wav", "image": "a.jpg", "part": "valid", "name": "x"},
        "two": {
            "audio": {"array": samples.tolist(), "sampling_rate": 16_000, "path": None},
            "image": picture.getvalue(),
            "part": "train",
            "name": "y",
        },
        "three": {"audio": file.getvalue(), "image": picture.getvalue(), "part": "held out", "name": "z"},
    }
    for folder, row in rows.items():
        (tmp_path / "set" / folder).mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "set" / folder / "0.parquet")
    columns = Columns("audio", "image", split="part", id="name")
    config = HubConfig("hub", str(tmp_path / "set"), columns, {"held out": "test"})
    found = {row.data["id"]: row.data for row in list_hub(config, tmp_path / "out", Problems()).rows}
    assert [found[name]["split"] for name in "xyz"] == ["dev", "train", "test"]
    assert found["x"]["audio"] == f"{tmp_path}/set/one/wavs/a.wav"
    assert found["x"]["image"] == f"{tmp_path}/set/one/a.jpg"
    assert read_audio(Path(found["y"]["audio"])) == pytest.approx(samples)
    assert read_audio(Path(found["z"]["audio"])) == pytest.approx(samples, abs=1e-4)
    assert found["y"]["image"] == found["z"]["image"]
    with_folders = HubConfig("hub", str(tmp_path / "set"), Columns("audio", "image"))
    listing = list_hub(with_folders, tmp_path / "out", Problems())
    assert sorted(row.data["id"] for row in listing.rows) == ["one/0:1", "three/0:1", "two/0:1"]


def write_cells(path: Path, *rows: dict) -> None:
    """Write a Parquet file of a recording and a picture, with these cells in each row."""
    files = path.parent / "files"
    files.mkdir(parents=True, exist_ok=True)
    miniature.wav(files / "a.wav")
    miniature.jpg(files / "a.jpg")
    wav, jpg = ({"bytes": (files / name).read_bytes(), "path": name} for name in ("a.wav", "a.jpg"))
    parquet.write_table(pyarrow.Table.from_pylist([{"audio": wav, "image": jpg} | row for row in rows]), path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("home/dev/corpus/part-0.parquet", None),
        ("test-rig/train/corpus/part-0.parquet", None),
        ("dev/corpus/train/part-0.parquet", "train"),
        ("dev/corpus/test-00000-of-00001.parquet", "test"),
        ("train/corpus/Validation.parquet", "dev"),
    ],
)
def test_folders_around_a_hub_data_set_decide_no_split(name, split, tmp_path):
    write_cells(tmp_path / name, {"key": "a"}, {"key": "b"})
    config = HubConfig("hub", str(tmp_path / name), Columns("audio", "image", image_id="key"))
    rows = list(list_hub(config, tmp_path / "out", Problems()).rows)
    assert rows
    for row in rows:
        assert row.data["split"] == (split or split_by_hash(row.data["image_id"]))


def test_names_of_hub_data_sets_may_have_the_characters_of_a_pattern(tmp_path):
    write_cells(tmp_path / "set [1]/a*.parquet", {"key": "a"})
    for path in ("set [1]", "set [1]/a*.parquet", "set ?1]/*.parquet"):
        listing = list_hub(HubConfig("hub", str(tmp_path / path), Columns("audio", "image")), tmp_path, Problems())
        assert [row.data["id"] for row in listing.rows] == ["a*:1"]
    with pytest.raises(UserError, match=r"\*\*x: .*expected a pattern|no Parquet file there"):
        list_hub(HubConfig("hub", str(tmp_path / "**x"), Columns("audio", "image")), tmp_path, Problems())


def test_folders_inside_a_hub_data_set_decide_the_split(tmp_path):
    for part in ("train", "valid", "test-clean"):
        write_cells(tmp_path / "dev/set" / part / "more/0.parquet", {"key": "a"})
    listing = list_hub(HubConfig("hub", str(tmp_path / "dev/set"), Columns("audio", "image")), tmp_path, Problems())
    assert [row.data["split"] for row in listing.rows] == ["test", "train", "dev"]


@pytest.mark.parametrize("cell", [["a dog", "a cat"], {"raw": "a dog"}, b"a dog", True])
def test_cells_of_a_hub_data_set_that_are_no_text_are_named(cell, tmp_path):
    write_cells(tmp_path / "0.parquet", {"caption": cell})
    config = HubConfig("hub", str(tmp_path), Columns("audio", "image", text="caption"))
    with pytest.raises(UserError, match=r"0.parquet row 1: expected text in column 'caption', found "):
        list_hub(config, tmp_path / "out", Problems())


def test_files_of_a_hub_data_set_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    write_cells(tmp_path / "0.parquet", {"caption": "a dog"})

    def fail(path):
        assert path.suffix == ".unfinished"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sclip.files.flush_to_disk", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*\.wav'"):
        list_hub(HubConfig("hub", str(tmp_path), Columns("audio", "image")), tmp_path / "out", Problems())
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_missing_values_of_a_hub_data_set_are_not_texts(tmp_path):
    """Pandas writes NaN where a value is missing."""
    nan = float("nan")
    write_cells(tmp_path / "0.parquet", {"caption": nan, "who": 3.0, "timed": nan}, {"caption": nan, "who": nan})
    rows = list_hub(HubConfig("hub", str(tmp_path), COLUMNS), tmp_path / "out", Problems()).rows
    assert [(row.data.get("text"), row.data.get("speaker")) for row in rows] == [(None, "3.0"), (None, None)]


def test_cells_of_spaces_of_a_hub_data_set_are_empty(tmp_path):
    write_cells(tmp_path / "0.parquet", {"caption": " ", "who": "  ", "timed": "\u3000"})
    (row,) = list_hub(HubConfig("hub", str(tmp_path), COLUMNS), tmp_path / "out", Problems()).rows
    assert (row.data.get("text"), row.data.get("speaker")) == (None, None)


def test_rows_of_a_hub_data_set_with_an_empty_split_are_noted(tmp_path):
    write_cells(tmp_path / "test.parquet", {"part": "train"}, {"part": " "})
    config = HubConfig("hub", str(tmp_path), Columns("audio", "image", split="part"))
    listing = list_hub(config, tmp_path / "out", Problems())
    assert [row.data["split"] for row in listing.rows] == ["train", "test"]
    assert listing.notes == {NO_SPLIT: ["test:2"]}


@pytest.mark.parametrize("name", ["a.w\0av", f"a.{'w' * 400}", "a.w v"])
def test_impossible_names_of_files_are_no_obstacle(name, tmp_path):
    (tmp_path / "set").mkdir()
    write_cells(tmp_path / "set/0.parquet", {})
    (row,) = parquet.read_table(tmp_path / "set/0.parquet").to_pylist()
    for cells in ({"bytes": row["audio"]["bytes"], "path": name}, {"bytes": None, "path": name}):
        write_cells(tmp_path / "set/0.parquet", {"audio": cells})
        config = HubConfig("hub", str(tmp_path / "set"), Columns("audio", "image"))
        problems = Problems(skip=True)
        listing = list_hub(config, tmp_path / "out", problems)
        if cells["bytes"] is None:
            assert "no such file" in problems.skipped["0.parquet row 1"]
        else:
            assert "." not in Path(listing.rows[0].data["audio"]).name


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"array": [0.5], "sampling_rate": 2**40}, "expected samples and a sampling rate"),
        ({"array": [0.5], "sampling_rate": float("inf")}, "expected samples and a sampling rate"),
        ({"bytes": "text", "path": None}, "expected a file's bytes"),
    ],
)
def test_cells_of_wrong_values_are_named(cell, message, tmp_path):
    write_cells(tmp_path / "0.parquet", {"audio": cell})
    with pytest.raises(UserError, match=f"row 1: column 'audio': {message}"):
        list_hub(HubConfig("hub", str(tmp_path), Columns("audio", "image")), tmp_path / "out", Problems())


def test_hub_data_sets_are_read_from_the_hub(tmp_path, monkeypatch):
    """A local file system stands in for the hub's."""
    from fsspec.implementations.dirfs import DirFileSystem

    miniature.hub(tmp_path / "datasets/org/name")
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: DirFileSystem(str(tmp_path)))
    rows = manifest(HubConfig("hub", "hf://datasets/org/name", COLUMNS), tmp_path)
    assert count(rows) == {"train": 4, "dev": 2, "test": 2}
    pattern = HubConfig("hub", "hf://datasets/org/name/data/test-*.parquet", COLUMNS)
    assert len(list_hub(pattern, tmp_path / "unpacked", Problems()).rows) == 2
    with pytest.raises(UserError, match="hf://datasets/org/other: no Parquet file there; name a file, a folder"):
        list_hub(HubConfig("hub", "hf://datasets/org/other", COLUMNS), tmp_path, Problems())

    def fail():
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.HfFileSystem.glob", lambda *_: fail(), raising=False)
    monkeypatch.setattr(DirFileSystem, "glob", lambda *_: fail())
    with pytest.raises(UserError, match="hf://a: cannot be listed: no network at all; for a private or gated repo"):
        list_hub(HubConfig("hub", "hf://a", COLUMNS), tmp_path, Problems())


def test_files_and_columns_that_do_not_fit_are_named(tmp_path):
    miniature.hub(tmp_path / "set")
    with pytest.raises(UserError, match=r"no column 'sound'; the columns are audio, image, caption, who, timed"):
        list_hub(HubConfig("hub", str(tmp_path), Columns("sound", "image")), tmp_path / "out", Problems())
    (tmp_path / "set/data/train-00000-of-00001.parquet").write_text("not Parquet")
    with pytest.raises(UserError, match=r"train-00000-of-00001.parquet: not Parquet: "):
        list_hub(HubConfig("hub", str(tmp_path), COLUMNS), tmp_path / "out", Problems())
    with pytest.raises(UserError, match="nowhere: no Parquet file there"):
        list_hub(HubConfig("hub", str(tmp_path / "nowhere"), COLUMNS), tmp_path / "out", Problems())


@pytest.mark.parametrize("kind", ["pairs", "hub"])
def test_wrong_targets_of_splits_name_the_setting(kind):
    data = {"kind": kind, "path": "mine", "splits": {"validation": "valid"}}
    data |= {"columns": {"audio": "audio", "image": "image"}} if kind == "hub" else {}
    with pytest.raises(UserError, match=r"corpus.splits: validation: expected one of train, dev, test, found 'valid'"):
        parse(CorpusConfig, data, "params.yaml: presets.mine.corpus")


def test_check_corpus_names_splits_without_a_row_as_make_corpus_does(tmp_path):
    miniature.pairs(tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine/test")
    config = PairsConfig("pairs", str(tmp_path / "mine"), {"validation": "dev"})
    problems = Problems()
    make_corpus(config, tmp_path / "manifest.jsonl", problems)
    check = check_corpus(config, tmp_path / "manifest.jsonl")
    kind = "splits without a row; `train` needs train and dev, and `evaluate` needs test"
    assert check.notes[kind] == problems.notes[kind] == ["test"]


def test_captions_that_keywords_need_are_missed_before_anything_is_computed(tmp_path):
    miniature.pairs(tmp_path / "mine")
    config = PairsConfig("pairs", str(tmp_path / "mine"), {"validation": "dev"})
    kind = "splits without a caption; architectures with keywords cannot be trained"
    train = list((tmp_path / "mine/train").rglob("*.txt"))
    for text in train[1:]:
        text.unlink()
    assert kind not in check_corpus(config, tmp_path / "manifest.jsonl").notes
    train[0].unlink()
    problems = Problems()
    make_corpus(config, tmp_path / "manifest.jsonl", problems)
    check = check_corpus(config, tmp_path / "manifest.jsonl")
    assert check.notes[kind] == problems.notes[kind] == ["train"]
