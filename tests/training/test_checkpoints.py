"""Test that a checkpoint is loaded exactly as it was saved, or rejected."""

import errno

import pytest
import torch

from sclip.fingerprints import differing_keys
from sclip.training.checkpoints import Checkpoint, describe_change

STATE = {"step": 3, "weights": torch.arange(1000.0), "optimizer": {"state": {0: torch.ones(5)}}}


@pytest.fixture
def checkpoint(tmp_path):
    saved = Checkpoint(tmp_path / "checkpoint.pt", {"seed": 0})
    saved.save(STATE)
    return saved


def flip_bit(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGE = {
    "flipped bit in a tensor": lambda data: flip_bit(data, data.index(torch.arange(1000.0).numpy().tobytes()) + 2000),
    "flipped first bit": lambda data: flip_bit(data, 0),
    "flipped last bit": lambda data: flip_bit(data, len(data) - 1),
    "empty file": lambda data: b"",
    "truncated file": lambda data: data[: len(data) // 2],
    "extended file": lambda data: data + b"\0",
    "other content": lambda data: b"not a checkpoint\n" * 100,
}


def test_load_returns_the_saved_state(checkpoint, tmp_path):
    loaded = Checkpoint(checkpoint.path, {"seed": 0}).load()
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert torch.equal(loaded["optimizer"]["state"][0], torch.ones(5))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_renamed(checkpoint, tmp_path, damage, caplog):
    damaged = DAMAGE[damage](checkpoint.path.read_bytes())
    checkpoint.path.write_bytes(damaged)
    assert checkpoint.load() is None
    assert caplog.messages == [
        f"{checkpoint.path}: its SHA-256 does not match; the file is damaged; "
        "moved to checkpoint.damaged.pt; training starts from step 0"
    ]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"checkpoint.damaged.pt": damaged}
    checkpoint.save(STATE)
    assert checkpoint.load()["step"] == 3


def test_full_disk_error_names_the_checkpoint(tmp_path):
    """Use /dev/full, where every write fails as on a full disk."""
    (tmp_path / "checkpoint.pt.unfinished").symlink_to("/dev/full")
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {})
    with pytest.raises(OSError) as error:
        checkpoint.save(STATE)
    assert error.value.errno == errno.ENOSPC
    assert str(error.value) == f"[Errno 28] No space left on device: '{checkpoint.path}'"


def test_a_checkpoint_that_was_moved_aside_comes_back_for_its_own_training(checkpoint, tmp_path):
    assert Checkpoint(checkpoint.path, {"seed": 1}).load() is None
    assert not checkpoint.path.exists()
    assert checkpoint.load()["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_without_settings_is_moved_aside(tmp_path, monkeypatch, caplog):
    """Earlier versions wrote such checkpoints."""
    earlier = Checkpoint(tmp_path / "checkpoint.pt", {"seed": 1})
    save = torch.save
    with monkeypatch.context() as patched:
        patched.setattr(
            torch, "save", lambda data, file: save({k: v for k, v in data.items() if k != "identity"}, file)
        )
        earlier.save(STATE)
    assert Checkpoint(earlier.path, {"seed": 0}).load() is None
    assert "an earlier version of sclip wrote it, without the settings of its training; moved to" in caplog.text
    assert earlier.load()["step"] == 3


def test_a_number_of_another_type_and_a_missing_key_are_differences():
    assert list(differing_keys({"a": 1, "b": None, "c": 2}, {"a": 1.0, "c": 2})) == [("a", 1, 1.0), ("b", None, None)]
    assert list(differing_keys({}, {"b": None})) == [("b", None, None)]


def test_a_difference_in_a_table_has_the_full_key():
    saved = {"head": {"slots": 8, "kernel": 3, "cif": {"bias": "x"}}}
    assert list(differing_keys(saved, {"head": {"slots": 4, "kernel": 3, "cif": {"bias": "y"}}})) == [
        ("head.slots", 8, 4),
        ("head.cif.bias", "x", "y"),
    ]


def test_only_numbers_are_shown_with_both_values():
    assert describe_change("head.slots", 8, 4) == "head.slots (8, now 4)"
    assert describe_change("code", "1f", "2e") == "code"
