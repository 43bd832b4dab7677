"""The feature store: reads return what was written, and verification finds every kind of damage."""

import shutil
import struct

import pytest
import torch

from sclip.errors import UserError
from sclip.features.store import INDEX_FILE, FeatureStore, Shard, read_index, write_index, write_shard
from sclip.features.verify import verify
from sclip.index_file import write_index_file

LENGTHS = (5, 1, 9, 3, 7, 4)
FEATURES = {"precision": "fp16", "states": 2, "width": 6, "frame_seconds": 0.02, "encoder": "none"}
UTTERANCES = {f"u{i}": torch.randn(n, 2, 6).half() for i, n in enumerate(LENGTHS)}


@pytest.fixture
def folder(tmp_path):
    """A store of three shards. The middle one has only a skipped row."""
    names = list(UTTERANCES)
    shards = [
        write_shard(tmp_path / f"{i}.safetensors", FEATURES, {n: UTTERANCES[n] for n in part}, skipped)
        for i, (part, skipped) in enumerate([(names[:4], {}), ([], {"bad": "silent"}), (names[4:], {})])
    ]
    write_index(tmp_path, FEATURES, shards)
    return tmp_path


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 3, 4, 5], [5, 0, 4, 2, 0], [1]])
def test_any_rows_can_be_read_in_any_order(folder, rows):
    store = FeatureStore.open(folder)
    batch = store.read(torch.tensor(rows))
    assert batch.values.shape == (len(rows), 2, max(LENGTHS[r] for r in rows), 6)
    assert bool(batch.values.isfinite().all())
    for row, states in zip(rows, batch, strict=True):
        assert torch.equal(states, UTTERANCES[f"u{row}"].transpose(0, 1))


def test_crops_start_and_end_where_asked(folder):
    store = FeatureStore.open(folder)
    rows, starts = torch.tensor([4, 0, 1]), torch.tensor([2, 3, 0])
    batch = store.read(rows, starts, limit=4)
    assert batch.lengths.tolist() == [4, 2, 1]
    assert batch.values.shape[2] == 4
    for row, start, states in zip(rows.tolist(), starts.tolist(), batch, strict=True):
        assert torch.equal(states, UTTERANCES[f"u{row}"][start : start + 4].transpose(0, 1))


def test_threads_gather_the_same_batches_in_pinned_memory(folder, monkeypatch):
    pinned, empty = [], torch.empty

    def allocate(*shape, pin_memory=False, **options):  # without a GPU nothing can be pinned
        pinned.append(pin_memory)
        return empty(*shape, **options)

    store, rows, starts = FeatureStore.open(folder), torch.tensor([3, 4, 5, 0, 2]), torch.tensor([1, 0, 2, 0, 4])
    expected = store.read(rows, starts, limit=4, multiple=3)
    monkeypatch.setattr(torch, "empty", allocate)
    batch = store.with_pinned_batches().read(rows, starts, limit=4, multiple=3)
    assert pinned == [True]
    assert torch.equal(batch.values, expected.values)
    assert torch.equal(batch.lengths, expected.lengths)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_every_precision_is_read_as_it_was_written(tmp_path, precision):
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    features = FEATURES | {"precision": precision}
    states = {name: tensor.to(dtype) for name, tensor in UTTERANCES.items()}
    write_index(tmp_path, features, [write_shard(tmp_path / "0.safetensors", features, states, {})])
    batch = FeatureStore.open(tmp_path).read(torch.tensor([2]))
    assert torch.equal(batch.values[0], states["u2"].transpose(0, 1))


def rewrite(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def replace(data, old, new):
    assert data.count(old) == 1
    data[:] = data.replace(old, new)


def flip_a_state(folder):
    states = Shard.open(folder / "0.safetensors").states
    before = states.numel() * 2 + 4 * 32  # the hashes are last
    rewrite(folder / "0.safetensors", lambda data: data.__setitem__(-before, data[-before] ^ 1))


def write_nan(folder):
    broken = UTTERANCES["u4"].clone()
    broken[0, 0, 0] = torch.nan
    write_shard(folder / "2.safetensors", FEATURES, {"u4": broken, "u5": UTTERANCES["u5"]}, {})
    write_index(folder, FEATURES, [Shard.open(folder / f"{i}.safetensors") for i in range(3)])


def list_a_shard_twice(folder):
    shards = [Shard.open(folder / f"{i}.safetensors") for i in range(3)]
    shutil.copy(folder / "2.safetensors", folder / "3.safetensors")
    write_index(folder, FEATURES, [*shards, Shard.open(folder / "3.safetensors")])


# Kind of damage: how to do it, the file or utterance that is named, the message, and whether opening the store fails.
DAMAGE = {
    "a byte of a state": (flip_a_state, "0.safetensors", "utterance u0: not the bytes that were written", False),
    "a byte of a hash": (
        lambda f: rewrite(f / "2.safetensors", lambda data: data.__setitem__(-1, data[-1] ^ 1)),
        "2.safetensors",
        "not the shard that index.json lists",
        True,
    ),
    "swapped lengths": (
        lambda f: rewrite(
            f / "2.safetensors", lambda data: replace(data, struct.pack("<2q", 7, 4), struct.pack("<2q", 4, 7))
        ),
        "2.safetensors",
        "not the shard that index.json lists",
        True,
    ),
    "a truncated shard": (
        lambda f: rewrite(f / "2.safetensors", lambda data: data.__delitem__(slice(-5, None))),
        "2.safetensors",
        "not a complete safetensors file",
        True,
    ),
    "a missing shard": (lambda f: (f / "2.safetensors").unlink(), "2.safetensors", "no such file", True),
    "an empty shard": (
        lambda f: (f / "2.safetensors").write_bytes(b""),
        "2.safetensors",
        "not a complete safetensors file",
        True,
    ),
    "another shape": (
        lambda f: rewrite(f / "2.safetensors", lambda data: replace(data, b"[2,32]", b"[32,2]")),
        "2.safetensors",
        "damaged shard: its metadata and the shapes of its tensors do not fit together",
        True,
    ),
    "another shard": (
        lambda f: shutil.copy(f / "0.safetensors", f / "2.safetensors"),
        "2.safetensors",
        "not the shard that index.json lists",
        True,
    ),
    "NaN": (write_nan, "2.safetensors", "utterance u4: holds numbers that are not finite", False),
    "a shard that is not listed": (
        lambda f: shutil.copy(f / "0.safetensors", f / "9.safetensors"),
        "9.safetensors",
        "not in index.json",
        False,
    ),
    "a shard listed twice": (list_a_shard_twice, "u4", "stored twice", False),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(folder, damage):
    assert verify(folder, [*UTTERANCES, "bad"]) == []
    do_damage, where, message, opening_fails = DAMAGE[damage]
    do_damage(folder)
    assert any(finding.where == where and message in finding.what for finding in verify(folder))
    if opening_fails:
        with pytest.raises(UserError, match=where):
            FeatureStore.open(folder)
    else:
        FeatureStore.open(folder)


def test_differences_between_store_and_manifest_are_found(folder):
    findings = verify(folder, ["bad", "u0", "u1", "u2", "u3", "u4", "new"])
    assert [(f.where, f.what) for f in findings] == [
        ("new", "in the manifest, not in the store"),
        ("u5", "in the store, not in the manifest"),
    ]


NAMES = ["../0.safetensors", "/tmp/x", "a/b", ".hidden", 3]


@pytest.mark.parametrize("shards", [*([{"file": name}] for name in NAMES), ["a"], None])
def test_an_index_names_only_files_of_its_folder(shards, folder):
    write_index_file(folder / INDEX_FILE, read_index(folder) | {"shards": shards})
    with pytest.raises(UserError, match="`shards` with the names of files in this folder"):
        read_index(folder)
