"""What `make torture` and `make fuzz` have found: each case failed once."""

import errno
import json
import os
import tarfile
from pathlib import Path

import miniature
import pyarrow
import pytest
import small
import soundfile
import torch
import yaml
from pyarrow import parquet
from shipped import PARAMS

import sclip
from sclip.config import (
    Columns,
    Flickr8kConfig,
    ScenesConfig,
    SpeechCocoConfig,
    Splits,
    SpokenCocoConfig,
    TableConfig,
    load_params,
)
from sclip.corpora.alignments import read_words
from sclip.corpora.flickr8k import list_flickr8k
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import read_manifest
from sclip.corpora.recordings import inspect
from sclip.corpora.rows import Row
from sclip.corpora.speech_coco import list_speech_coco
from sclip.corpora.spokencoco import list_spokencoco
from sclip.corpora.table import list_table
from sclip.corpora.textgrid import read_textgrid
from sclip.corpora.unpack import DamagedArchive, unpack
from sclip.encoders.pictures import picture_fault, read_rgb
from sclip.errors import Fault, Problems, UserError
from sclip.features.embed import hash_pictures
from sclip.model.folder import read_config, settings_digest
from sclip.parsing import parse_json
from sclip.tensors import read_tensors, write_tensors


def test_what_a_killed_writer_left_does_not_stop_the_next_one(tmp_path):
    """`sclip index` refused for ever with "File exists"."""
    path = tmp_path / "a.safetensors"
    (tmp_path / "a.safetensors.unfinished").mkdir()
    (tmp_path / "a.safetensors.unfinished/a.safetensors").write_bytes(b"half")
    write_tensors(path, {"a": torch.arange(3)}, {})
    assert read_tensors(path)["a"].tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_recording_that_cannot_be_written_is_an_error_in_one_line(tmp_path, monkeypatch):
    def write(*_):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr("sclip.corpora.scenes.corpus.soundfile.write", write)
    monkeypatch.setattr("sclip.corpora.scenes.corpus.map_in_processes", lambda compute, items, _: map(compute, items))
    count = Splits(train=1, dev=1, test=1)
    config = ScenesConfig(kind="scenes", seed=0, pictures=count, captions=count, voices=count, nouns=24)
    with pytest.raises(UserError, match=r"a recording cannot be written: .*Is the disk full"):
        make_corpus(config, tmp_path / "tiny/manifest.jsonl", Problems())


@pytest.mark.parametrize("value", [[], [["", 0.0, 0.1]], "0.1__<sil>__0.4"])
def test_words_that_are_all_silence_are_no_words(value):
    assert read_words(json.dumps(value) if isinstance(value, list) else value, "row 1") == ()


def test_an_infinite_number_in_a_textgrid_is_refused(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text('"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "words" 0 1 1e999')
    with pytest.raises(UserError, match="not a complete TextGrid: expected a finite number"):
        read_textgrid(path)


def test_damaged_parquet_is_refused(tmp_path):
    """pyarrow raises OSError for a damaged page, which was taken for a fault of the disk."""
    path = tmp_path / "t.parquet"
    rows = [{"audio": f"{i}.wav", "image": f"{i}.jpg", "caption": "a dog"} for i in range(50)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    config = TableConfig(kind="table", path=str(path), columns=Columns("audio", "image", "caption"))
    data, refused = path.read_bytes(), 0
    for place in range(4, 200):
        path.write_bytes(data[:place] + b"\xff\xff" + data[place + 2 :])
        try:
            list_table(config, Problems(skip=True))
        except UserError as error:
            refused += 1
            assert "t.parquet: not Parquet: " in str(error)
    assert refused > 10


def test_an_impossible_number_in_a_tar_is_refused(tmp_path):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"path": "a" * 20}
    data = info.tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "a.tar").write_bytes(data.replace(b"29 path=", b"9" * 25 + b" path=")[: len(data)] + bytes(1024))
    with pytest.raises(DamagedArchive):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_picture_that_cannot_be_written_names_its_file(tmp_path, monkeypatch):
    def save(*_):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("PIL.Image.Image.save", save)
    monkeypatch.setattr("sclip.corpora.scenes.corpus.map_in_processes", lambda compute, items, _: map(compute, items))
    count = Splits(train=1, dev=1, test=1)
    config = ScenesConfig(kind="scenes", seed=0, pictures=count, captions=count, voices=count, nouns=24)
    with pytest.raises(OSError) as raised:
        make_corpus(config, tmp_path / "tiny/manifest.jsonl", Problems())
    assert str(raised.value.filename).endswith("00000.png")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_fault_of_the_machine_skips_no_file(tmp_path, monkeypatch, number):
    """A read error of the disk dropped good pictures from an index, and gave vectors a wrong fingerprint."""

    def fail(*_):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.png"
    for error in (OSError(number, os.strerror(number)), OSError(number, os.strerror(number), "a.png")):
        with pytest.raises(OSError) as raised:
            picture_fault(path, error)
        assert raised.value.filename == str(path)
    assert picture_fault(path, OSError("image file is truncated"))  # what Pillow says of a damaged picture
    row = Row("a", "train", tmp_path / "a.wav", path, "a")
    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError):
        hash_pictures([row])
    with pytest.raises(OSError):
        inspect(row)


def test_damaged_settings_of_an_encoder_inside_a_model_are_found(tmp_path):
    small.model("hybrid-cif").save(tmp_path / "m")
    (path,) = tmp_path.glob("m/speech/preprocessor_config.json")
    path.write_bytes(path.read_bytes().replace(b"f", b"g", 1))
    with pytest.raises(UserError, match=r"preprocessor_config\.json: its SHA-256 is not the one in config\.json"):
        sclip.load(tmp_path / "m")


def test_a_changed_setting_of_a_model_is_found_and_an_edited_name_is_not(tmp_path):
    """Nothing noticed a flipped bit in a number of config.json, such as the frames of a CIF slot."""
    small.model("hybrid-cif").save(tmp_path / "m")
    path = tmp_path / "m/config.json"
    text = path.read_text()
    data = json.loads(text)
    path.write_text(json.dumps(data | {"origin": {"trained by": "us"}}))
    read_config(tmp_path / "m")
    data["head"]["pool_frames"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="its digest is not that of its settings"):
        read_config(tmp_path / "m")
    del data["digest"]
    path.write_text(json.dumps(data))
    assert read_config(tmp_path / "m").head.pool_frames == json.loads(text)["head"]["pool_frames"] + 1


def test_half_of_a_surrogate_pair_is_not_text():
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        parse_json('{"image": "a\\ud800"}')
    assert parse_json('"\\ud83d\\ude00"') == "😀"


def test_numbers_in_place_of_names_are_refused(tmp_path):
    miniature.spokencoco(tmp_path / "s")
    path = next(path for path in sorted((tmp_path / "s").rglob("*.json")) if "train" in path.name)
    data = json.loads(path.read_text())
    data["data"][0]["image"] = 1.5
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"data\[0\]: expected an image and captions .*image is 1.5"):
        list_spokencoco(SpokenCocoConfig("spokencoco", str(tmp_path / "s"), "karpathy"))


@pytest.mark.parametrize(("key", "value"), [("wavFilename", 7), ("imgID", float("inf")), ("imgID", "x")])
def test_wrong_values_of_a_speech_coco_file_are_a_problem_of_its_row(tmp_path, key, value):
    miniature.speech_coco(tmp_path / "s")
    path = sorted((tmp_path / "s").rglob("*.json"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    problems = Problems(skip=True)
    list_speech_coco(SpeechCocoConfig("speech-coco", str(tmp_path / "s")), problems)
    assert any("expected the number imgID and texts" in reason for reason in problems.skipped.values())


def test_a_recipe_that_is_missing_is_named(tmp_path):
    text = PARAMS.read_text()
    (tmp_path / "params.yaml").write_text(text.replace("\n  published:", "\n  publisht:", 1))
    with pytest.raises(UserError, match=r"no 'published'; did you mean 'publisht'\?"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("number", ["9" * 5000, "²"])
def test_a_caption_number_that_is_none_is_refused(tmp_path, number):
    miniature.flickr8k(tmp_path / "f")
    path = next((tmp_path / "f").rglob("Flickr8k.token.txt"))
    text = path.read_text()
    path.write_text(text.replace("#1\t", f"#{number}\t", 1))
    with pytest.raises(UserError, match=r"expected NAME\.jpg#N, a tab and a caption"):
        list_flickr8k(Flickr8kConfig("flickr8k", str(tmp_path / "f")))


OUTSIDE = ("../../outside", "/outside", "a/b", "..", "", "\x1b[31mred")


# DVC or the shell would take these apart.
DIVIDED = ("my corpus", "a.b", "it's", "a$b", "a;b", "a@b", "-a")


@pytest.mark.parametrize("name", (*OUTSIDE, *DIVIDED))
def test_a_preset_or_an_architecture_names_one_folder(tmp_path, name):
    """`make-corpus` wrote outside the project for a params.yaml with a preset named ../../outside."""
    params = yaml.safe_load(PARAMS.read_text())
    for key, table in (("presets", params["presets"]), ("recipes.sclip", params["recipes"]["sclip"])):
        table[name] = next(iter(table.values()))
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        with pytest.raises(
            UserError, match=rf"params.yaml: {key}: expected a name of at most 100 letters, digits, _ and -"
        ):
            load_params(tmp_path / "params.yaml")
        del table[name]


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_architecture_of_a_model_names_one_folder(tmp_path, name):
    """`evaluate --model` wrote its results wherever the model's config.json said."""
    small.model("hybrid-cif").save(tmp_path / "m")
    config = tmp_path / "m/config.json"
    data = json.loads(config.read_text()) | {"arch": name}
    config.write_text(json.dumps(data | {"digest": settings_digest(data)}))
    with pytest.raises(UserError, match=r"config.json: arch: expected a name for a folder"):
        read_config(tmp_path / "m")


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors", "clip/open_clip_config.json"])
def test_a_device_in_a_model_folder_is_not_read(tmp_path, name):
    """A link to /dev/zero filled the memory, and a pipe waited for ever. /dev/null does neither."""
    small.model("hybrid-cif").save(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    (tmp_path / "m" / name).symlink_to("/dev/null")
    with pytest.raises(UserError, match=rf"{name}: a pipe or a device, not a file"):
        sclip.load(tmp_path / "m")


def test_a_device_that_a_manifest_names_is_not_read():
    row = Row("a", "test", Path("/dev/null"), Path("/dev/null"), "i", "a dog")
    assert inspect(row).fault == Fault("audio null: cannot be read: a pipe or a device, not a file")
    assert hash_pictures([row]) == {row.image: ""}
    with pytest.raises(ValueError, match="a pipe or a device") as caught:
        read_rgb(row.image)
    assert picture_fault(row.image, caught.value) == "image null: cannot be read: a pipe or a device, not a file"


def test_the_folder_of_a_preset_may_be_a_link_to_another_disk(tmp_path):
    """The manifest named ../scenes-…, which starts at the link's target, where nothing is."""
    (tmp_path / "disk/far/away").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine").symlink_to(tmp_path / "disk/far/away")
    (tmp_path / "data/other").mkdir()
    count = Splits(train=1, dev=1, test=1)
    config = ScenesConfig(kind="scenes", seed=0, pictures=count, captions=count, voices=count, nouns=24)
    for preset in ("mine", "other"):
        manifest = tmp_path / "data" / preset / "manifest.jsonl"
        make_corpus(config, manifest, Problems())
        rows = read_manifest(manifest, Problems())
        assert len(rows) == 3
        assert all(row.audio.is_file() and row.image.is_file() for row in rows)
    assert next(rows.values("audio"))[0].startswith("../scenes-")
