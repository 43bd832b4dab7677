"""Batches are a function of seed and step, cover an epoch, and hold what is alike in length."""

import pytest
import torch
from training.kept import keep, opened

import sclip
from sclip.config import TrainingConfig
from sclip.features.index import write_index_file
from sclip.features.store import read_index
from sclip.padded import even_batches
from sclip.training.batches import TrainingBatches, epoch_batches


def test_an_epoch():
    lengths = torch.randint(20, 320, (1003,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(lengths, 10, seed=1, epoch=2)
    assert [len(batch) for batch in batches] == [10] * 100
    assert len(torch.cat(batches).unique()) == 1000  # each once, three have to wait
    again, other, later = (epoch_batches(lengths, 10, s, e) for s, e in ((1, 2), (2, 2), (1, 3)))
    assert torch.equal(torch.stack(batches), torch.stack(again))
    for different in (other, later):
        assert not torch.equal(torch.stack(batches), torch.stack(different))
        assert set(torch.cat(different).tolist()) != set(torch.cat(batches).tolist())  # others have to wait
    padded = sum(10 * int(lengths[batch].max()) for batch in batches)
    assert padded / int(lengths[torch.cat(batches)].sum()) < 1.15  # a shuffled order pads by 1.7
    firsts = torch.tensor([float(lengths[batch].float().mean()) for batch in batches])
    assert abs(float(torch.corrcoef(torch.stack([firsts, torch.arange(100.0)]))[0, 1])) < 0.3  # not short to long


def test_development_batches():
    lengths = torch.tensor([3, 50, 7, 20, 21, 200])
    batches = [batch.tolist() for batch in even_batches(lengths, 60)]
    assert batches == [[5], [1], [4, 3], [2, 0]]


def test_crops_and_pictures(tmp_path):
    data = opened(keep(tmp_path, train=12, captions=2), "train")
    batches = TrainingBatches(data, TrainingConfig(batch=4, crop_frames=40, warmup_steps=0), seed=5, pin=False)
    seen = []
    for step in range(6):
        indices, batch, again = batches.indices(step), batches.read(step), batches.read(step)
        assert torch.equal(batch.states.values, again.states.values)
        assert torch.equal(batch.states.lengths, data.frames[indices].clamp(max=40))
        assert torch.equal(batch.images, data.images[indices // 2])
        assert torch.equal(batch.image_ids, indices // 2)
        starts = batches.starts(step, data.frames[indices])
        whole = data.read(indices)
        for i, (start, states) in enumerate(zip(starts.tolist(), batch.states, strict=True)):
            assert torch.equal(states, whole.values[i, :, start : start + states.shape[1]])
        seen.append(indices)
    assert sorted(torch.cat(seen[:3]).tolist()) == sorted(torch.cat(seen[3:]).tolist()) == list(range(12))
    starts = torch.stack([batches.starts(step, torch.tensor([40, 41, 60, 30])) for step in range(200)])
    assert starts.amin(0).tolist() == [0, 0, 0, 0]
    assert starts.amax(0).tolist() == [0, 1, 20, 0]


def test_fewer_utterances_than_a_batch(tmp_path):
    data = opened(keep(tmp_path, train=5), "train")
    batches = TrainingBatches(data, TrainingConfig(batch=256), seed=0, pin=False)
    assert [sorted(batches.indices(step).tolist()) for step in range(3)] == [list(range(5))] * 3


def test_rows_without_frames_are_left_out(tmp_path):
    keep(tmp_path, train=6, dev=4)
    rows = (tmp_path / "manifest.jsonl").read_text().splitlines()
    (tmp_path / "manifest.jsonl").write_text("\n".join([rows[0].replace("train-0", "unheard"), *rows[1:]]) + "\n")
    with pytest.raises(sclip.UserError, match=r"row 1 \(unheard\) is not in .*features; run `sclip extract-features`"):
        opened(tmp_path, "train")
    index = read_index(tmp_path / "features")
    write_index_file(tmp_path / "features/index.json", index | {"skipped": {"unheard": "silent"}})
    data = opened(tmp_path, "train")
    assert [row.id for row in data.rows] == [f"train-{i}" for i in range(1, 6)]
    assert data.image_index.tolist() == list(range(5))
    assert data.captions.shape == (5, 20)
    with pytest.raises(sclip.UserError, match=r"manifest\.jsonl: no row is of split test"):
        opened(tmp_path, "test")
