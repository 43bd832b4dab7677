"""`embed` writes the model's vectors with ids in three formats."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from file_examples import write_pictures, write_recordings
from project import run_sclip
from pyarrow import parquet

import sclip
from sclip import UserError
from sclip.apps import embed as module
from sclip.apps import embedding
from sclip.tensors import read_tensors_and_metadata


def read(path: str) -> tuple[list[str], torch.Tensor]:
    if path.endswith(".npy"):
        return json.loads(Path(f"{path}.ids.json").read_text()), torch.from_numpy(np.load(path))
    if path.endswith(".parquet"):
        table = parquet.read_table(path)
        return table["id"].to_pylist(), torch.from_numpy(np.stack(table["vector"].to_numpy()))
    tensors, metadata = read_tensors_and_metadata(Path(path))
    return metadata["ids"], tensors["vectors"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
@pytest.mark.parametrize("kind", ["audio", "image", "text"])
def test_ids_and_vectors_are_written(folder, model, kind, suffix, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)  # several row groups of Parquet
    write_recordings("a/1.wav", "a/2.wav", "a/3.wav")
    write_pictures("a/1.png", "a/2.png", "a/3.png")
    Path("a.txt").write_text("a brown dog\n\ntwo cats\na red fence\n")
    files = "a.txt" if kind == "text" else "a"
    branch = "cascaded" if kind == "audio" else None
    result = sclip.embed(kind, files, f"out{suffix}", model=model, branch=branch)
    ids, vectors = read(f"out{suffix}")
    opened = sclip.load(model)
    if kind == "text":
        assert [os.path.relpath(name) for name in ids] == ["a.txt:1", "a.txt:3", "a.txt:4"]
        expected = opened.encode_text(["a brown dog", "two cats", "a red fence"])
    else:
        ending = "wav" if kind == "audio" else "png"
        assert [os.path.relpath(name) for name in ids] == [f"a/{i}.{ending}" for i in (1, 2, 3)]
        expected = opened.encode_speech(ids, branch="cascaded") if kind == "audio" else opened.encode_image(ids)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors, expected, atol=1e-5)
    assert (result.count, result.embedded, result.skipped) == (3, 3, {})
    assert sorted(os.listdir()) == sorted(["a", "a.txt", *map(str, result.files)])


def test_a_killed_embed_continues(folder, model, embedded, monkeypatch):
    monkeypatch.setattr(embedding, "IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(embedding, "BLOCK_SECONDS", 0)
    write_pictures(*(f"a/{i}.png" for i in range(9)))
    add = embedding.Store.add

    def interrupt(store, items):
        add(store, items)
        if len(embedded) >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(embedding.Store, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sclip.embed("image", "a", "out.npy", model=model)
    blocks = len(list(Path("out.npy.blocks").glob("*.safetensors")))
    assert blocks > 0
    monkeypatch.setattr(embedding.Store, "add", add)
    embedded.clear()
    result = sclip.embed("image", "a", "out.npy", model=model)
    assert len(embedded) == result.embedded == 9 - 2 * blocks
    ids, vectors = read("out.npy")
    assert torch.allclose(vectors, sclip.load(model).encode_image(ids), atol=1e-5)
    assert not Path("out.npy.blocks").exists()


def test_sentences_without_a_token_and_damaged_files_are_left_out(folder, model, caplog):
    Path("a.txt").write_text(f"a dog\n{'dog ' * 100}\n")
    write_pictures("a/1.png")
    Path("a/2.png").touch()
    output = run_sclip("embed", "image", "a", "--model", str(model), "--out", "out.npy")
    assert "a/2.png: is empty (0 bytes)" in output
    assert "out.npy, out.npy.ids.json: 1 vector; 1 skipped" in output
    sclip.embed("text", "a.txt", "text.npy", model=model)
    assert "a.txt:2: 100 tokens, cut to CLIP's 75" in caplog.text


def test_mistakes_are_named_before_anything_is_written(folder, model, monkeypatch):
    write_pictures("a/1.png")
    Path("empty.png").touch()
    for kind, files, out, message in (
        ("image", "a", "out.csv", "out.csv: expected a name that ends with one of .npy, .parquet, .safetensors"),
        ("image", "a", "empty.png/out.npy", "cannot be written: empty.png is a file, not a folder"),
        ("image", "a", "x\udcff.npy", "x\udcff.npy: the name is not UTF-8; choose another one"),
        ("image", "b", "out.npy", "b: no such file or folder"),
        ("audio", "a", "out.npy", "a: no recordings there"),
        ("image", "empty.png", "out.npy", "none of 1 picture can be used"),
        ("text", "a/1.png", "out.npy", "not UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            sclip.embed(kind, files, out, model=model)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"Parquet needs pyarrow; run pip install pyarrow"):
        sclip.embed("image", "a", "out.parquet", model=model)
    monkeypatch.setattr(module, "LARGEST_HEADER", 5)
    with pytest.raises(UserError, match=r"1 ids are too many for a safetensors file; choose .parquet or .npy"):
        sclip.embed("image", "a", "out.safetensors", model=model)
    assert sorted(os.listdir()) == ["a", "empty.png"]


def test_folders_of_the_file_are_made(folder, model):
    write_pictures("a/1.png")
    sclip.embed("image", "a", "new/below/out.npy", model=model)
    assert sorted(os.listdir("new/below")) == ["out.npy", "out.npy.ids.json"]


def test_the_command_prints_json(folder, model):
    write_pictures("a/1.png")
    output = run_sclip("embed", "image", "a", "--model", str(model), "--out", "out.parquet", "--json")
    assert json.loads(output)["files"] == ["out.parquet"]
