"""An index holds exactly the usable files that were listed, and each of them is embedded once."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from file_examples import write_files, write_pictures, write_recordings
from project import run_sclip

import sclip
from sclip import UserError
from sclip.apps import embedding
from sclip.apps.inputs import Item
from sclip.apps.search import open_index
from sclip.apps.table import Embedded
from sclip.index_file import write_index_file


def names(index="index") -> list[str]:
    return [os.path.relpath(name) for name in open_index(index).table.names]


def test_vectors_are_those_of_the_model(folder, model):
    write_pictures("a/1.png", "a/2.png", "a/b/3.png")
    result = sclip.index("a", "index", model=model)
    assert (result.kind, result.count, result.embedded, result.dropped, result.skipped) == ("image", 3, 3, 0, {})
    index = open_index("index")
    assert names() == ["a/1.png", "a/2.png", "a/b/3.png"]
    expected = sclip.load(model).encode_image(list(index.table.names))
    assert torch.allclose(index.table.vectors, expected, atol=1e-5)
    assert sorted(os.listdir("index")) == ["index.json", "vectors-1.safetensors"]
    assert (folder / "index/index.json").stat().st_size < 1000


@pytest.mark.parametrize("branch", [None, "parallel", "cascaded"])
def test_recordings_are_embedded_by_the_chosen_branch(folder, model, branch):
    for i, samples in enumerate((9_000, 4_000, 20_000)):
        write_recordings(f"a/{i}.wav", first=i, samples=samples)
    assert sclip.index("a", "index", model=model, branch=branch).kind == "audio"
    index = open_index("index")
    expected = sclip.load(model).encode_speech(list(index.table.names), branch=branch)
    assert torch.allclose(index.table.vectors, expected, atol=1e-5)
    assert index.config.branch == (branch or "parallel")


def test_only_new_and_changed_files_are_embedded_and_unlisted_ones_are_dropped(folder, model, embedded):
    write_pictures("a/1.png", "a/2.png", "a/3.png", "a/4.png")
    sclip.index("a", "index", model=model)
    vectors = dict(zip(names(), open_index("index").table.vectors.clone(), strict=True))
    embedded.clear()
    assert sclip.index("a", "index", model=model).embedded == 0
    assert embedded == []
    assert Path("index/vectors-1.safetensors").exists()  # the same rows are not written again
    Path("a/1.png").unlink()
    write_pictures("a/2.png", first=10)  # changed
    os.utime("a/3.png", (1, 1))  # another time, the same content
    Path("a/4.png").rename("a/moved.png")
    write_pictures("a/new.png", first=11)
    result = sclip.index("a", "index", model=model)
    assert sorted(embedded) == ["2.png", "new.png"]
    assert (result.count, result.embedded, result.dropped) == (4, 2, 2)
    assert names() == ["a/2.png", "a/3.png", "a/moved.png", "a/new.png"]
    updated = dict(zip(names(), open_index("index").table.vectors, strict=True))
    assert torch.equal(updated["a/3.png"], vectors["a/3.png"])
    assert torch.equal(updated["a/moved.png"], vectors["a/4.png"])
    assert not torch.allclose(updated["a/2.png"], vectors["a/2.png"], atol=1e-3)
    sclip.index("a", "fresh", model=model)
    assert torch.allclose(open_index("index").table.vectors, open_index("fresh").table.vectors, atol=1e-5)


def test_files_that_cannot_be_used_are_named_and_left_out(folder, model, embedded):
    write_pictures("a/1.png", "a/cut.png")
    Path("a/cut.png").write_bytes(Path("a/cut.png").read_bytes()[:200])
    Path("a/text.jpg").write_text("not a picture")
    Path("list.txt").write_text("a/1.png\na/cut.png\na/text.jpg\na/missing.png\n")
    skipped = sclip.index("@list.txt", "index", model=model).skipped
    reasons = {os.path.relpath(name): reason for name, reason in skipped.items()}
    assert reasons.keys() == {"a/cut.png", "a/text.jpg", "a/missing.png"}
    assert reasons["a/missing.png"] == "no such file"
    assert "not a picture in a supported format" in reasons["a/text.jpg"]
    assert names() == ["a/1.png"]
    embedded.clear()
    write_pictures("a/missing.png")
    result = sclip.index("@list.txt", "index", model=model)  # damaged files are still named, and not read again
    assert (result.skipped.keys(), embedded) == (skipped.keys() - {str(folder / "a/missing.png")}, [])
    assert result.count == 2  # with the content of 1.png


def test_a_listed_file_that_is_damaged_later_is_skipped_and_not_dropped(folder, model):
    write_pictures("a/1.png", "a/2.png")
    sclip.index("a", "index", model=model)
    Path("a/2.png").write_text("not a picture")
    result = sclip.index("a", "index", model=model)
    assert (result.count, result.dropped, len(result.skipped)) == (1, 0, 1)
    assert (open_index("index").config.count, open_index("index").config.skipped) == (1, 1)


def test_a_listed_name_that_no_file_can_have_is_skipped(folder, model):
    write_pictures("a/1.png")
    Path("list.txt").write_text(f"a/1.png\n{'x' * 300}.png\n")
    result = sclip.index("@list.txt", "index", model=model, kind="image")
    assert (result.count, list(result.skipped.values())) == (1, ["cannot be read: File name too long"])


def test_recordings_that_cannot_be_used_are_named_and_left_out(folder, model):
    write_recordings("a/1.wav")
    write_recordings("a/one.wav", samples=1)
    write_recordings("a/zero.wav", samples=0)
    Path("a/text.wav").write_text("hello")
    os.mkfifo("a/pipe.wav")
    output = run_sclip("index", "a", "--model", str(model), "--out", "index")
    for line in (
        "a/one.wav: only 0.0001 s long; expected at least 0.1 s",
        "a/zero.wav: no samples",
        "a/text.wav: cannot be read",
        "a/pipe.wav: a pipe or a device, not a file",
        "skipped  4 recordings",
        "index: 1 recording; 1 embedded, 0 dropped, 4 skipped",
    ):
        assert line in output
    assert names() == ["a/1.wav"]


@pytest.mark.parametrize("before", [False, True])
def test_without_a_usable_file_nothing_is_written(folder, model, before):
    if before:
        write_pictures("a/1.png")
        sclip.index("a", "index", model=model)
    write_files("b/1.png", "b/2.png")
    with pytest.raises(UserError, match=r"none of 2 pictures can be used; the first: .*b/1.png: is empty"):
        sclip.index("b", "index", model=model)
    assert Path("index").exists() == before
    if before:
        assert names() == ["a/1.png"]
        assert sorted(os.listdir("index")) == ["index.json", "vectors-1.safetensors"]


def test_an_interrupted_index_continues(folder, model, embedded, monkeypatch):
    monkeypatch.setattr(embedding, "IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(embedding, "BLOCK_SECONDS", 0)
    write_pictures(*(f"a/{i:02}.png" for i in range(20)))
    write_files("a/00-damaged.png")
    add = embedding.Store.add

    def interrupt(store, items):
        add(store, items)
        if len(embedded) >= 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(embedding.Store, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sclip.index("a", "index", model=model)
    assert os.listdir("index") == ["unfinished"]
    blocks = len(list(Path("index/unfinished").glob("*.safetensors")))
    monkeypatch.setattr(embedding.Store, "add", add)
    embedded.clear()
    result = sclip.index("a", "index", model=model)
    assert blocks
    assert len(embedded) == 21 - 4 * blocks
    assert "00-damaged.png" not in embedded
    assert (result.count, len(result.skipped)) == (20, 1)
    assert sorted(os.listdir("index")) == ["index.json", "vectors-1.safetensors"]
    sclip.index("a", "fresh", model=model)
    assert names() == names("fresh")
    assert torch.allclose(open_index("index").table.vectors, open_index("fresh").table.vectors, atol=1e-5)


SLOW = """
import sys, time
import sclip
from sclip.apps import embedding
embedding.IMAGES_AT_ONCE, embedding.BLOCK_SECONDS = 2, 0
read = embedding.read_rgb
def slow(path):
    time.sleep(0.2)
    return read(path)
embedding.read_rgb = slow
sclip.index("a", "index", model=sys.argv[1])
"""


def test_a_damaged_block_of_an_interrupted_index_is_embedded_again(folder, model, embedded, monkeypatch, caplog):
    """A flipped bit in a vector, a name or a digest would otherwise be in the index for ever."""
    monkeypatch.setattr(embedding, "IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(embedding, "BLOCK_SECONDS", 0)
    write_pictures(*(f"a/{i:02}.png" for i in range(12)))
    write_files("a/00-damaged.png")
    sclip.index("a", "fresh", model=model)
    with monkeypatch.context() as patched:
        patched.setattr(embedding.Store, "gather", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            sclip.index("a", "index", model=model)
    blocks = sorted(Path("index/unfinished").glob("*.safetensors"))
    shutil.copytree("index", "interrupted")
    choose = random.Random(0)
    content = blocks[0].read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [header + choose.randrange(len(content) - header) for _ in range(20)]
    for place in (*places, *choose.sample(range(header), 10)):
        shutil.rmtree("index")
        shutil.copytree("interrupted", "index")
        blocks[0].write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        embedded.clear(), caplog.clear()
        result = sclip.index("a", "index", model=model)
        assert (result.count, len(result.skipped)) == (12, 1)
        index, fresh = open_index("index"), open_index("fresh")
        assert list(index.table.names) == list(fresh.table.names)
        assert torch.equal(index.table.digests, fresh.table.digests)
        assert torch.allclose(index.table.vectors, fresh.table.vectors, atol=1e-5)
        if place >= header:
            assert 0 < len(embedded) < 13
            assert "000001.safetensors: damaged: " in caplog.text
            assert "what was in it is embedded again" in caplog.text


def test_a_killed_index_continues(folder, model, embedded):
    write_pictures(*(f"a/{i:02}.png" for i in range(40)))
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(model)])
    until = time.monotonic() + 60
    while len(list(Path("index/unfinished").glob("*.safetensors"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("index/index.json").exists()
    blocks = len(list(Path("index/unfinished").glob("*.safetensors")))
    assert 3 <= blocks < 20
    Path("index/unfinished/000001.safetensors").write_bytes(b"lost by the disk")
    assert sclip.index("a", "index", model=model).count == 40
    assert len(embedded) == 40 - 2 * (blocks - 1)
    assert sorted(os.listdir("index")) == ["index.json", "vectors-1.safetensors"]


def test_blocks_of_another_model_are_not_used(folder, model, other_model, monkeypatch):
    write_pictures("a/1.png", "a/2.png")
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(embedding.Store, "gather", lambda *_: 1 / 0)
        sclip.index("a", "index", model=other_model)
    assert list(Path("index/unfinished").glob("*.safetensors"))
    assert sclip.index("a", "index", model=model).embedded == 2


def test_another_model_embeds_all_again(folder, model, other_model, caplog):
    write_pictures("a/1.png", "a/2.png")
    sclip.index("a", "index", model=model)
    assert sclip.index("a", "index", model=other_model).embedded == 2
    assert "made with another model or branch; all pictures are embedded again" in caplog.text
    expected = sclip.load(other_model).encode_image(["a/1.png", "a/2.png"])
    assert torch.allclose(open_index("index").table.vectors, expected, atol=1e-5)


def test_another_head_reuses_the_vectors_of_pictures(folder, model):
    write_pictures("a/1.png", "a/2.png")
    sclip.index("a", "index", model=model)
    changed = sclip.load(model)
    with torch.no_grad():
        next(changed.head.parameters()).add_(1)
    assert sclip.index("a", "index", model=changed).embedded == 0
    with pytest.raises(UserError, match="made with another model"):
        sclip.search("index", text=["a dog"], model=model)
    assert sclip.search("index", text=["a dog"], model=changed)


def test_other_folders_are_not_overwritten(folder, model):
    write_pictures("a/1.png")
    write_recordings("b/1.wav")
    with pytest.raises(UserError, match=r"^a: has other files in it; expected an index"):
        sclip.index("a", "a", model=model)
    with pytest.raises(UserError, match=r"^a/1.png: a file; expected an index"):
        sclip.index("a", "a/1.png", model=model)
    sclip.index("a", "index", model=model)
    with pytest.raises(
        UserError, match=r"^index: an index of pictures; give another --out for recordings, or delete it"
    ):
        sclip.index("b", "index", model=model)
    assert names() == ["a/1.png"]


def test_a_damaged_index_is_refused(folder, model):
    write_pictures("a/1.png")
    sclip.index("a", "index", model=model)
    path = Path("index/vectors-1.safetensors")
    data = path.read_bytes()
    for damaged in (data[:-1], data[:-1] + b"\x99", b""):
        path.write_bytes(damaged)
        for use in (lambda: sclip.index("a", "index", model=model), lambda: sclip.search("index", text=["a dog"])):
            with pytest.raises(UserError, match="damaged or was replaced; delete index and make the index again"):
                use()
    path.unlink()
    with pytest.raises(UserError, match="no such file; delete index and make the index again"):
        sclip.search("index", text=["a dog"])
    path.write_bytes(data)
    path, again = Path("index/index.json"), "; delete .* and make the index again$"
    content = path.read_text()
    config = json.loads(content)
    del config["digest"]
    for change, message in (
        ({"count": 2}, r"vectors: expected \(2, 20\), found \(1, 20\)"),
        ({"format": "sclip index 2"}, "expected 'sclip index 1', found 'sclip index 2'"),
        ({"file": "../vectors-1.safetensors"}, "expected vectors-NUMBER.safetensors, found .*"),
        ({"count": "many"}, "count: expected a whole number, found 'many'"),
    ):
        write_index_file(path, config | change)
        with pytest.raises(UserError, match=message + again):
            sclip.search("index", text=["a dog"])
    skipped, key = content.replace('"skipped": 0', '"skipped": 4'), content.replace(config["key"], "0" * 64)
    for damaged in ("{", json.dumps(config), skipped, key):
        path.write_text(damaged)
        with pytest.raises(UserError, match="index.json: (not JSON: .*|damaged: .* its digest)" + again):
            sclip.search("index", text=["a dog"])


def test_two_commands_do_not_write_at_the_same_time(folder, model):
    from sclip.files import locked

    write_pictures("a/1.png")
    with locked(folder / "index"), pytest.raises(UserError, match="another command is writing there"):
        sclip.index("a", "index", model=model)


def test_a_disk_without_room_for_the_vectors_is_an_error(tmp_path):
    """A file that is mapped before its numbers have a place on the disk would kill the process."""
    item = Item("1.png", 1, 1)
    store = embedding.Store(tmp_path, "key")
    store.add([Embedded(item, bytes(32), torch.ones(1024))])
    store.flush()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(OSError, match="gathered"):
            store.gather([store.find(item)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    _, vectors = store.gather([store.find(item)])
    assert torch.equal(vectors, torch.ones(1, 1024))


def test_a_folder_without_permission_is_refused_before_the_model_is_loaded(folder, monkeypatch):
    write_pictures("a/1.png")
    monkeypatch.setattr("os.access", lambda *_: False)  # as for a user who is not root
    for out in ("index", "new/index"):
        with pytest.raises(UserError, match=f"{out}: cannot be written: no permission to write to"):
            sclip.index("a", out, model="no-model")
    assert os.listdir() == ["a"]


def test_json_output(folder, model):
    write_pictures("a/1.png")
    result = json.loads(run_sclip("index", "a", "--model", str(model), "--out", "index", "--json"))
    assert (result["index"], result["kind"], result["count"], result["embedded"]) == ("index", "image", 1, 1)


def test_a_file_without_permission_is_tried_again(folder, model, monkeypatch):
    write_pictures("a/1.png", "a/2.png")

    def refuse(path):  # the tests may run as root, who may read everything
        if path.name == "2.png":
            raise UserError(f"{path}: cannot be read: Permission denied")
        return digest(path)

    digest = embedding.file_digest
    with monkeypatch.context() as patched:
        patched.setattr(embedding, "file_digest", refuse)
        result = sclip.index("a", "index", model=model)
    assert list(result.skipped.values()) == ["cannot be read: Permission denied"]
    assert names() == ["a/1.png"]
    assert sclip.index("a", "index", model=model).embedded == 1
    assert names() == ["a/1.png", "a/2.png"]


def test_pictures_have_no_branch(folder, model):
    write_pictures("a/1.png")
    with pytest.raises(UserError, match="--branch parallel: only recordings are encoded by a branch; leave it out"):
        sclip.index("a", "index", model=model, branch="parallel")
