"""Test that batches depend only on seed and step, cover an epoch, and contain utterances of similar length."""

import itertools

import pytest
import torch
from stored_corpus import open_split, write_corpus

import sclip
from sclip.config import TrainingConfig
from sclip.corpora.manifest import digest_file
from sclip.features.store import read_index
from sclip.index_file import write_index_file
from sclip.padded import length_sorted_batches
from sclip.training.batches import TrainingBatches, epoch_batches


def test_epoch_uses_each_utterance_once_in_batches_of_similar_length():
    lengths = torch.randint(20, 320, (1003,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(lengths, 10, by_length=True, seed=1, epoch=2)
    assert [len(batch) for batch in batches] == [10] * 100
    assert len(torch.cat(batches).unique()) == 1000  # each utterance once; the last three are dropped
    repeated, other_seed, other_epoch = (epoch_batches(lengths, 10, True, s, e) for s, e in ((1, 2), (2, 2), (1, 3)))
    assert torch.equal(torch.stack(batches), torch.stack(repeated))
    for different in (other_seed, other_epoch):
        assert not torch.equal(torch.stack(batches), torch.stack(different))
        assert set(torch.cat(different).tolist()) != set(torch.cat(batches).tolist())  # other utterances are dropped
    padded_frames = sum(10 * int(lengths[batch].max()) for batch in batches)
    assert padded_frames / int(lengths[torch.cat(batches)].sum()) < 1.15  # in random order the ratio is 1.7
    mean_lengths = torch.tensor([float(lengths[batch].float().mean()) for batch in batches])
    correlation = torch.corrcoef(torch.stack([mean_lengths, torch.arange(100.0)]))[0, 1]
    assert abs(float(correlation)) < 0.3  # batches are not ordered by length


def test_batches_of_similar_length_are_not_in_order_of_length():
    lengths = torch.arange(1000) + 20
    means = [float(lengths[batch].float().mean()) for batch in epoch_batches(lengths, 10, True, seed=1, epoch=0)]
    rising = sum(second > first for first, second in itertools.pairwise(means))
    assert rising / (len(means) - 1) < 0.7  # the batches of one pool, in order of length, all rise


def test_uniform_batches_are_a_shuffled_epoch_in_pieces():
    lengths = torch.arange(103)
    epochs = [epoch_batches(lengths, 10, by_length=False, seed=1, epoch=epoch) for epoch in (0, 1)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [10] * 10
        assert len(torch.cat(batches).unique()) == 100
    spans = [int(batch.max() - batch.min()) for batches in epochs for batch in batches]
    assert min(spans) > 40  # short and long utterances share a batch
    assert set(torch.cat(epochs[0]).tolist()) != set(torch.cat(epochs[1]).tolist())


def test_length_sorted_batches_limit_the_padded_frames():
    lengths = torch.tensor([3, 50, 7, 20, 21, 200])
    batches = [batch.tolist() for batch in length_sorted_batches(lengths, 60)]
    assert batches == [[5], [1], [4, 3], [2, 0]]


def test_batches_have_random_crops_and_the_right_pictures(tmp_path):
    data = open_split(write_corpus(tmp_path, train=12, captions=2), "train")
    batches = TrainingBatches(data, TrainingConfig(batch=4, crop_frames=40, warmup_steps=0), seed=5, pin=False)
    used = []
    for step in range(6):
        indices, batch, repeated = batches.indices(step), batches.read(step), batches.read(step)
        assert torch.equal(batch.states.values, repeated.states.values)
        assert torch.equal(batch.states.lengths, data.frames[indices].clamp(max=40))
        assert torch.equal(batch.images, data.images[indices // 2])
        assert torch.equal(batch.image_ids, indices // 2)
        starts = batches.starts(step, data.frames[indices])
        uncropped = data.read(indices)
        for i, (start, states) in enumerate(zip(starts.tolist(), batch.states, strict=True)):
            assert torch.equal(states, uncropped.values[i, :, start : start + states.shape[1]])
        used.append(indices)
    assert sorted(torch.cat(used[:3]).tolist()) == sorted(torch.cat(used[3:]).tolist()) == list(range(12))
    starts = torch.stack([batches.starts(step, torch.tensor([40, 41, 60, 30])) for step in range(200)])
    assert starts.amin(0).tolist() == [0, 0, 0, 0]
    assert starts.amax(0).tolist() == [0, 1, 20, 0]


def test_only_batches_by_length_have_utterances_of_similar_length(tmp_path):
    data = open_split(write_corpus(tmp_path, train=64, dev=1), "train")

    def spans(kind: str) -> int:
        training = TrainingConfig(batch=4, crop_frames=100, warmup_steps=0, batches=kind)
        batches = TrainingBatches(data, training, seed=0, pin=False)
        frames = [data.frames[batches.indices(number)] for number in range(batches.batches_per_epoch)]
        return sum(int(lengths.max() - lengths.min()) for lengths in frames)

    assert spans("by_length") < spans("uniform") / 2


def test_corpus_smaller_than_a_batch_gives_one_batch_of_all_utterances(tmp_path):
    data = open_split(write_corpus(tmp_path, train=5), "train")
    batches = TrainingBatches(data, TrainingConfig(batch=256), seed=0, pin=False)
    assert [sorted(batches.indices(step).tolist()) for step in range(3)] == [list(range(5))] * 3


def test_rows_without_hidden_states_are_errors_unless_extraction_skipped_them(tmp_path):
    write_corpus(tmp_path, train=6, dev=4)
    rows = (tmp_path / "manifest.jsonl").read_text().splitlines()
    (tmp_path / "manifest.jsonl").write_text("\n".join([rows[0].replace("train-0", "missing"), *rows[1:]]) + "\n")
    digest_file(tmp_path / "manifest.jsonl").unlink()
    with pytest.raises(sclip.UserError, match=r"row 1 \(missing\) is not in .*features; run `sclip extract-features`"):
        open_split(tmp_path, "train")
    index = read_index(tmp_path / "features")
    write_index_file(tmp_path / "features/index.json", index | {"skipped": {"missing": "silent"}})
    data = open_split(tmp_path, "train")
    assert [row.id for row in data.rows] == [f"train-{i}" for i in range(1, 6)]
    assert data.image_index.tolist() == list(range(5))
    assert data.captions.shape == (5, 20)
    with pytest.raises(sclip.UserError, match=r"manifest\.jsonl: no row is of split test"):
        open_split(tmp_path, "test")
