"""The text tower as graphs, recorded on the CPU (recorded_graphs.py). tests/gpu compares it on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from recorded_graphs import RecordedGraph, record_graphs
from small import clip_encoder, model
from stored_corpus import open_split, write_corpus
from text_towers import keywords, settings, vectors_and_gradients

from sclip.training.batches import TrainingBatches
from sclip.training.graphs import GraphedTextTower, padded_size
from sclip.training.loop import open_visual_words
from sclip.training.trainer import Trainer


def test_lengths_are_rounded_up_within_the_context():
    assert [padded_size(count, 77) for count in (3, 8, 9, 76, 77)] == [4, 8, 10, 76, 77]


def test_padding_behind_the_end_changes_nothing():
    tower = clip_encoder().text_tower
    x, last = torch.randn(3, 5, 24), torch.tensor([4, 2, 3])
    torch.testing.assert_close(tower.run(F.pad(x, (0, 0, 0, 3), value=9.0), last), tower.run(x, last))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_graphs_give_the_vectors_and_gradients_of_the_tower(monkeypatch, precision, tolerance):
    record_graphs(monkeypatch)
    plain = clip_encoder().text_tower
    graphed = GraphedTextTower(plain)
    for seed, slots in enumerate([6, 20, 3, 6, 75, 18]):
        expected = vectors_and_gradients(plain, keywords(slots, seed=seed), precision)
        actual = vectors_and_gradients(graphed, keywords(slots, seed=seed), precision)
        assert actual[0].dtype == expected[0].dtype
        for graph_result, tower_result in zip(actual, expected, strict=True):
            torch.testing.assert_close(graph_result, tower_result, rtol=tolerance, atol=tolerance)
    # Forward and backward of 8, 22, 6, 8, 77 and 20 positions: a larger size discards the graphs before it.
    assert RecordedGraph.captures == 2 * 6


def test_without_a_gradient_nothing_is_captured(monkeypatch):
    record_graphs(monkeypatch)
    plain = clip_encoder().text_tower
    sentences = keywords(6)
    with torch.no_grad():
        assert torch.equal(GraphedTextTower(plain)(sentences), plain(sentences))
    assert RecordedGraph.captures == 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def trainer_and_batches(corpus, arch, precision):
    data, trained_model, training = open_split(corpus, "train"), model(arch), settings(precision)
    trainer = Trainer(trained_model, training, 0, torch.device("cpu"), open_visual_words(data, trained_model))
    return trainer, TrainingBatches(data, training, 0, pin=False)


def trained(trainer, batches):
    return [trainer.train_step([batches.read(2 * i), batches.read(2 * i + 1)])() for i in range(4)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["cascaded", "cascaded-cif", "sclip hybrid-cif"])
def test_training_with_graphs_gives_the_same_losses_and_gradients(corpus, monkeypatch, arch, precision):
    record_graphs(monkeypatch)
    rows = trained(*trainer_and_batches(corpus, arch, precision))
    trainer, batches = trainer_and_batches(corpus, arch, precision)
    assert trainer.text_tower is trainer.model.text_tower  # a CPU uses no graphs
    assert RecordedGraph.captures == 0
    trainer.text_tower = GraphedTextTower(trainer.model.text_tower)
    actual_rows = trained(trainer, batches)
    assert RecordedGraph.captures > 0
    for actual, expected in zip(actual_rows, rows, strict=True):
        assert "train/gradient_norm" in expected
        assert actual == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 0.05)
