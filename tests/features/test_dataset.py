"""The dataset: the rows of a split with their hidden states, pictures and captions, whatever the order of the rows."""

from types import SimpleNamespace

import pytest
import torch
from small import clip_encoder, speech_encoder

from sclip.config import FeaturesConfig
from sclip.corpora.manifest import write_manifest
from sclip.errors import Problems, UserError
from sclip.features import dataset as datasets
from sclip.features.dataset import Dataset
from sclip.features.embed import embed_clip
from sclip.features.extract import extract_features
from sclip.features.resident import fits
from sclip.features.store import write_index, write_shard
from sclip.features.vectors import write_vectors

FEATURES = {"encoder": "x", "hash": "h", "precision": "fp32", "states": 1, "width": 1, "frame_seconds": 0.02}
CLIP = {"name": "c", "revision": None, "hash": "h"}
ROWS = [("a", "train", "x"), ("b", "dev", "y"), ("c", "train", "y"), ("d", "train", "z"), ("e", "train", "x")]


def write_rows(folder, rows):
    keys = ("id", "split", "image_id")
    files = {"audio": "a.wav", "image": "a.png", "text": "a dog"}
    plain = [dict(zip(keys, row, strict=True)) | files for row in rows]
    write_manifest(folder / "manifest.jsonl", [row | ({"text": None} if row["id"] == "c" else {}) for row in plain])


@pytest.fixture
def folder(tmp_path):
    """Write states and vectors that say whose they are. The recording of b and the picture of d were skipped."""
    write_rows(tmp_path, ROWS)
    (tmp_path / "features").mkdir()
    (tmp_path / "vectors").mkdir()
    shards = []
    for number, names in enumerate(("a", "cd", "e")):
        states = {name: torch.full((2, 1, 1), float(ord(name))) for name in names}
        skipped = {"b": "silent"} if number == 1 else {}
        shards.append(write_shard(tmp_path / f"features/{number}.safetensors", FEATURES, states, skipped))
    write_index(tmp_path / "features", FEATURES, shards)
    index = {"fingerprint": "f", "content": "c", "clip": CLIP, "skipped": {"d": "damaged"}, "notes": {}}
    images, captions = (
        (["x", "y"], {"vectors": torch.tensor([[1.0], [2.0]])}),
        (["a", "b", "e"], torch.tensor([[97.0], [98], [101]])),
    )
    write_vectors(tmp_path / "vectors", index, images, captions, None)
    return tmp_path


def open_split(folder, split="train"):
    return Dataset.open(folder / "manifest.jsonl", folder / "features", folder / "vectors", split)


def describe(dataset):
    """Return the rows' ids, the ids that their states and captions say, and the numbers of their pictures."""
    states = dataset.read(torch.arange(len(dataset))).values.flatten(1)[:, 0]
    return (
        [row.id for row in dataset.rows],
        "".join(chr(int(number)) for number in states),
        {dataset.rows[i].id: chr(int(v)) for i, v in zip(dataset.captioned.tolist(), dataset.captions, strict=True)},
        dataset.images[dataset.image_index].flatten().tolist(),
        dataset.images.flatten().tolist(),
    )


def test_rows_are_joined_with_their_states_pictures_and_captions(folder):
    expected = ["a", "c", "e"], "ace", {"a": "a", "e": "e"}, [1.0, 2.0, 1.0], [1.0, 2.0]
    assert describe(open_split(folder)) == expected
    with pytest.raises(UserError, match="no row of split dev has hidden states and a picture"):
        open_split(folder, "dev")
    with pytest.raises(UserError, match="no row is of split test"):
        open_split(folder, "test")


def test_names_in_their_own_order_need_no_table():
    positions = datasets._Positions(["a", "b", "c"])
    assert [positions.find(name) for name in "abc"] == [0, 1, 2]
    assert positions._table is None
    assert [positions.find(name) for name in "cabdca"] == [2, 0, 1, None, 2, 0]


def test_rows_of_a_manifest_in_another_order_are_joined_too(folder):
    write_rows(folder, [ROWS[i] for i in (4, 2, 3, 0, 1)])
    assert describe(open_split(folder)) == (
        ["e", "c", "a"], "eca", {"a": "a", "e": "e"}, [1.0, 2.0, 1.0], [1.0, 2.0]
    )  # fmt: skip
    write_rows(folder, [ROWS[i] for i in (2, 0)])
    assert describe(open_split(folder)) == (["c", "a"], "ca", {"a": "a"}, [2.0, 1.0], [2.0, 1.0])


def test_rows_that_were_not_computed_are_named(folder):
    write_rows(folder, [*ROWS, ("f", "train", "x")])
    with pytest.raises(UserError, match=r"row 6 \(f\) is not in .*features; run `sclip extract-features` again"):
        open_split(folder)
    write_rows(folder, [ROWS[0], ("c", "train", "w")])
    with pytest.raises(UserError, match=r"row 2 \(c\) is not in .*vectors; run `sclip embed-clip` again"):
        open_split(folder)


def test_vectors_of_other_rows_are_refused(corpus, tmp_path):
    """A changed caption or split leaves every id where it was."""
    torch.manual_seed(0)
    speech, problems = speech_encoder(), Problems()
    extract_features(speech, FeaturesConfig(compute="fp32"), corpus.path, tmp_path / "f", "cpu", problems)
    embed_clip(clip_encoder(), corpus.path, tmp_path / "v", "cpu", problems)
    Dataset.open(corpus.path, tmp_path / "f", tmp_path / "v", "train")
    row = corpus.rows[0]
    for change in ({"text": "another caption"}, {"split": "dev"}, {"image_id": corpus.rows[-1]["image_id"]}):
        corpus.rows[0] = row | change
        corpus.write()
        with pytest.raises(
            UserError, match=r"manifest\.jsonl: its rows have changed since .*v was written .* embed-clip"
        ):
            Dataset.open(corpus.path, tmp_path / "f", tmp_path / "v", "train")


def test_hidden_states_of_other_recordings_are_refused(corpus, tmp_path):
    """Two corpora can have the same ids."""
    features, vectors = tmp_path / "f", tmp_path / "v"
    for online in (False, True):
        config, problems = FeaturesConfig(compute="fp32", online=online), Problems()
        extract_features(speech_encoder(), config, corpus.path, features, "cpu", problems)
        embed_clip(clip_encoder(), corpus.path, vectors, "cpu", problems)
        first, second = corpus.rows[:2]
        first["audio"], second["audio"] = second["audio"], first["audio"]
        corpus.write()
        with pytest.raises(
            UserError, match=r"manifest\.jsonl: its rows have changed since .*f was written .* extract-features"
        ):
            Dataset.open(corpus.path, features, vectors, "train")


def test_a_recording_that_moved_does_not_change_the_fingerprint(corpus, tmp_path):
    """So a training continues from its checkpoint after `extract-features` has read the new path."""
    config, problems, speech = FeaturesConfig(compute="fp32"), Problems(), speech_encoder()
    embed_clip(clip_encoder(), corpus.path, tmp_path / "v", "cpu", problems)
    fingerprints = set()
    for name in (corpus.rows[0]["audio"], "moved.wav"):
        folder = corpus.path.parent
        (folder / corpus.rows[0]["audio"]).rename(folder / name)
        corpus.rows[0]["audio"] = name
        corpus.write()
        extract_features(speech, config, corpus.path, tmp_path / "f", "cpu", problems)
        fingerprints.add(Dataset.open(corpus.path, tmp_path / "f", tmp_path / "v", "train").fingerprint())
    assert len(fingerprints) == 1


def test_the_fingerprint_is_that_of_the_rows_and_their_pictures(folder):
    before = open_split(folder).fingerprint()
    assert open_split(folder).fingerprint() == before
    for rows in (ROWS[:3], [*ROWS[:4], ("e", "train", "y")]):
        write_rows(folder, rows)
        assert open_split(folder).fingerprint() != before


@pytest.mark.parametrize(
    ("total", "free", "fitting"), [(80, 75, 43), (80, 40, 8), (24, 23, 7), (80, 30, 3), (16, 10, 1)]
)
def test_frames_on_a_gpu_leave_memory_for_training(total, free, fitting, monkeypatch):
    """Two fifths of the GPU's memory, at least 16 GB. A tenth of what is free is never too much."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 10**9, total * 10**9))
    store = SimpleNamespace(features=FEATURES | {"states": 25, "width": 10})  # 1,000 bytes a frame
    assert fits(store, fitting * 10**6, "cuda")
    assert not fits(store, fitting * 10**6 + 1, "cuda")
