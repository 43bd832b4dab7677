"""Embedding of pictures and captions: CLIP's own vectors, one for each picture; errors name every row at fault."""

import re
import threading

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small import clip_encoder

from sclip.encoders.pictures import FLAT
from sclip.errors import Problems, UserError
from sclip.features import embed as embed_module
from sclip.features.embed import embed_clip, read_picture
from sclip.features.vectors import ClipVectors


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return clip_encoder()


def embed(corpus, out, clip, skip=False):
    problems = Problems(skip)
    return embed_clip(clip, corpus.path, out, torch.device("cpu"), problems), problems


@torch.no_grad()
def test_vectors_equal_those_of_clip(corpus, tmp_path, clip):
    corpus.rows[3]["text"] = None
    corpus.write()
    summary, _ = embed(corpus, tmp_path / "out", clip)
    vectors = ClipVectors.open(tmp_path / "out")
    assert (summary.images, summary.captions, summary.reused) == (5, 9, False)
    assert vectors.image_ids == [f"p{i}" for i in range(5)]
    assert vectors.caption_ids == [f"u{i}" for i in range(10) if i != 3]
    images = clip.encode_image([corpus.folder / f"{i}.png" for i in range(5)])
    captions = clip.encode_text([row["text"] for row in corpus.rows if row["text"]])
    torch.testing.assert_close(vectors.images, F.normalize(images, dim=-1))
    torch.testing.assert_close(vectors.captions, F.normalize(captions, dim=-1))


def test_vectors_are_reused_until_an_input_changes(corpus, tmp_path, clip):
    out = tmp_path / "out"
    embed(corpus, out, clip)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert embed(corpus, out, clip)[0].reused
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before

    corpus.rows[0]["text"] = "another caption"
    corpus.write()
    assert not embed(corpus, out, clip)[0].reused
    Image.new("RGB", (20, 16), "red").save(corpus.folder / "0.png")
    assert not embed(corpus, out, clip)[0].reused
    assert not embed(corpus, out, clip_encoder())[0].reused


def test_vectors_of_an_interrupted_write_are_refused_and_computed_again(corpus, tmp_path, clip, monkeypatch):
    """The new files do not match the old index."""
    out = tmp_path / "out"
    embed(corpus, out, clip)
    corpus.rows[0]["text"] = "another caption"
    corpus.write()
    monkeypatch.setattr("sclip.features.vectors.write_index_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(corpus, out, clip)
    with pytest.raises(UserError, match=r"captions.safetensors: its SHA-256 is not the one in index.json"):
        ClipVectors.open(out)
    monkeypatch.undo()
    assert not embed(corpus, out, clip)[0].reused
    ClipVectors.open(out)


def nan(data: bytearray) -> None:
    data[-4:] = b"\0\0\xc0\x7f"


def flipped_sign(data: bytearray) -> None:
    data[-1] ^= 0x80


def truncated(data: bytearray) -> None:
    del data[-3:]


@pytest.mark.parametrize("damage", [flipped_sign, nan, truncated, bytearray.clear])
@pytest.mark.parametrize("name", ["images.safetensors", "captions.safetensors", "index.json"])
def test_damaged_vectors_are_refused_and_computed_again(corpus, tmp_path, clip, name, damage):
    out = tmp_path / "out"
    embed(corpus, out, clip)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    data = bytearray(before[name])
    damage(data)
    (out / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(str(out / name)) + ": .*; run `sclip embed-clip` again"):
        ClipVectors.open(out)
    assert not embed(corpus, out, clip)[0].reused
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_only_new_pictures_are_embedded_again(corpus, tmp_path, clip, monkeypatch):
    Image.new("RGB", (20, 16), "red").save(corpus.folder / "3.png")
    embed(corpus, tmp_path / "out", clip)
    Image.new("RGB", (20, 16), "blue").save(corpus.folder / "2.png")
    (corpus.folder / "0.png").rename(corpus.folder / "renamed.png")
    for row in corpus.rows:
        row["image"] = row["image"].replace("0.png", "renamed.png")
    corpus.rows[0]["text"] = "another caption"
    corpus.write()
    read = []
    monkeypatch.setattr("sclip.features.embed.read_picture", lambda *a: (read.append(a[0].name), read_picture(*a))[1])
    summary, problems = embed(corpus, tmp_path / "out", clip)
    assert (read, summary.images_computed, summary.reused) == (["2.png"], 1, False)
    assert [note.split(":")[1] for note in problems.notes[FLAT]] == [" image 2.png", " image 3.png"]
    embed(corpus, tmp_path / "fresh", clip)
    updated, fresh = ClipVectors.open(tmp_path / "out"), ClipVectors.open(tmp_path / "fresh")
    assert updated.image_ids == fresh.image_ids
    torch.testing.assert_close(updated.images, fresh.images)
    assert torch.equal(updated.captions, fresh.captions)
    with torch.no_grad():
        clip.model.logit_scale += 1  # another CLIP
    assert embed(corpus, tmp_path / "out", clip)[0].images_computed == 5


def test_a_picture_that_another_program_was_still_writing_is_skipped(corpus, tmp_path, clip, monkeypatch):
    hashed = embed_module._hash
    monkeypatch.setattr(embed_module, "_hash", lambda path: "" if path.name == "2.png" else hashed(path))
    summary, problems = embed(corpus, tmp_path / "out", clip, skip=True)
    assert summary.images == 4
    assert {reason.split(";")[0] for reason in problems.skipped.values()} == {"image 2.png: could not be read at first"}


def test_bad_rows_are_named_and_skipped(corpus, tmp_path, clip):
    (corpus.folder / "1.png").write_bytes(b"not a picture")
    complete = (corpus.folder / "2.png").read_bytes()
    (corpus.folder / "2.png").write_bytes(complete[: len(complete) // 2])
    corpus.rows[0]["text"] = "&nbsp;"
    corpus.rows[1]["image"] = "4.png"  # with the image_id of row 1, which has another picture
    corpus.rows[8]["text"] = "word " * 100
    corpus.write()
    with pytest.raises(
        UserError, match=r"manifest row 2 \(u1\): image_id p0: manifest row 1 has another picture \(0.png\)"
    ):
        embed(corpus, tmp_path / "out", clip)
    for reused in (False, True):
        summary, problems = embed(corpus, tmp_path / "out", clip, skip=True)
        assert (summary.images, summary.images_computed, summary.reused) == (3, 3 * (not reused), reused)
        case = "manifest row 9 (u8): text: 100 tokens, cut to CLIP's 75"
        assert problems.notes == {"captions that are cut": [case]}
        assert {row: message.split(":")[0] for row, message in problems.skipped.items()} == {
            "manifest row 1 (u0)": "text",
            "manifest row 2 (u1)": "image_id p0",
            "manifest row 3 (u2)": "image 1.png",
            "manifest row 4 (u3)": "image 1.png",
            "manifest row 5 (u4)": "image 2.png",
            "manifest row 6 (u5)": "image 2.png",
        }
    vectors = ClipVectors.open(tmp_path / "out")
    assert vectors.image_ids == ["p0", "p3", "p4"]
    assert vectors.caption_ids == ["u6", "u7", "u8", "u9"]
    assert list(vectors.skipped) == ["u1", "u0", "u2", "u3", "u4", "u5"]
    with pytest.raises(UserError, match="manifest row 2"):
        embed(corpus, tmp_path / "out", clip)


def test_pictures_of_a_single_colour_are_named(corpus, tmp_path, clip):
    Image.new("RGBA", (20, 16), (0, 0, 0, 0)).save(corpus.folder / "2.png")
    for reused in (False, True):
        summary, problems = embed(corpus, tmp_path / "out", clip)
        assert summary.reused == reused
        assert problems.notes == {
            "pictures of a single colour": ["manifest row 5 (u4): image 2.png: CLIP sees a single colour"]
        }


def test_notes_are_in_the_order_of_the_rows_whatever_thread_is_first(corpus, tmp_path, clip, monkeypatch):
    """The first batch waits until the second one is embedded."""
    for name in ("0.png", "1.png"):
        Image.new("RGB", (20, 16), "red").save(corpus.folder / name)
    second_is_embedded = threading.Event()

    def read(path, clip):
        if path.name == "0.png":
            assert second_is_embedded.wait(60)
        return read_picture(path, clip)

    def embed_image(images):
        second_is_embedded.set()
        return type(clip).encode_image(clip, images)

    monkeypatch.setattr("sclip.features.embed.IMAGES_AT_ONCE", 1)
    monkeypatch.setattr("sclip.features.embed.read_picture", read)
    monkeypatch.setattr(clip, "encode_image", embed_image)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _, problems = embed(corpus, tmp_path / "out", clip)
    finally:
        torch.set_num_threads(threads)
    assert [note.split(":")[0] for note in problems.notes[FLAT]] == ["manifest row 1 (u0)", "manifest row 3 (u2)"]


class BrokenClip:
    """A CLIP that computes NaN for the first picture and the third text of each batch."""

    def __init__(self, clip):
        self.clip = clip

    def to(self, device):
        return self

    def __getattr__(self, name):
        return getattr(self.clip, name)

    def encode_image(self, images):
        vectors = self.clip.encode_image(images)
        vectors[0, 3] = float("nan")
        return vectors

    def encode_text(self, texts):
        vectors = self.clip.encode_text(texts)
        vectors[2, 0] = float("inf")
        return vectors


def test_vectors_that_are_not_finite_are_named_or_skipped(corpus, tmp_path, clip):
    broken = BrokenClip(clip)
    with pytest.raises(UserError, match=r"manifest row 1 \(u0\): image 0.png: CLIP's vector of it is not finite"):
        embed(corpus, tmp_path / "out", broken)
    summary, problems = embed(corpus, tmp_path / "out", broken, skip=True)
    assert (summary.images, summary.captions) == (4, 7)
    assert {name: reason.split(";")[0] for name, reason in problems.skipped.items()} == {
        "manifest row 1 (u0)": "image 0.png: CLIP's vector of it is not finite",
        "manifest row 2 (u1)": "image 0.png: CLIP's vector of it is not finite",
        "manifest row 5 (u4)": "text: CLIP's vector of it is not finite",
    }
    vectors = ClipVectors.open(tmp_path / "out")
    assert vectors.caption_ids == ["u2", "u3", *(f"u{i}" for i in range(5, 10))]
    assert bool(vectors.captions.isfinite().all()) and bool(vectors.images.isfinite().all())
