"""What `make torture` and `make fuzz` have found: each case failed once."""

import json
import tarfile

import pyarrow
import pytest
import soundfile
import torch
from pyarrow import parquet

from sclip.config import Columns, ScenesConfig, Splits, TableConfig
from sclip.corpora.alignments import read_words
from sclip.corpora.make import make_corpus
from sclip.corpora.table import list_table
from sclip.corpora.textgrid import read_textgrid
from sclip.corpora.unpack import DamagedArchive, unpack
from sclip.errors import Problems, UserError
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
