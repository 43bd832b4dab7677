"""Test where keywords lie in time, by hand."""

import pytest
import torch
from small import clip_encoder

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.localization import FIGURES, TimedTokens, firing_positions, localization
from sclip.heads.slot_times import SlotTimes

INF = float("inf")


def test_figures_by_hand():
    clip = clip_encoder()
    words = (("a", 0.0, 0.1), ("dog", 0.1, 0.5), ("and", 0.5, 0.6), ("dog", 0.6, 1.0), ("barks", 1.0, 1.8))
    timed = TimedTokens.of([words, (("cat", 0.0, 1.0),)], clip)
    a, dog, snow, cat = (clip.token_ids([word])[0][0] for word in ("a", "dog", "snow", "cat"))
    # The first utterance has a dog within the second word "dog", another outside both, "a" in place, and no snow.
    tokens, valid = torch.tensor([[dog, dog, a, snow], [cat, cat, cat, cat]]), torch.ones(2, 4, dtype=torch.bool)
    valid[1] = False
    peaks = torch.tensor([[0.7, 1.5, 0.05, 0.7], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    spans = torch.tensor([[[0.6, 1.0], [1.4, 1.6], [0.0, 0.2], [0.6, 1.0]], [[0.0, 1.0]] * 4], dtype=torch.float64)
    content = torch.ones(len(clip.text_tower.table), dtype=torch.bool)
    content[a] = False
    durations, pictures = torch.tensor([2.0, 1.0], dtype=torch.float64), torch.tensor([0, 1])
    figures, counts = localization(
        tokens, valid, SlotTimes(peaks, spans), timed, durations, content, pictures, Bootstrap(2, seed=0)
    )
    # The second utterance has no valid slot and does not count.
    assert (figures["all"]["keywords"], figures["content"]["keywords"]) == (3, 2)
    located = {name: of.tolist() for name, of in counts.items()}
    assert located == {"all": [[2, 3], [0, 0]], "content": [[1, 2], [0, 0]]}
    assert figures["all"]["located"]["value"] == pytest.approx(100 * 2 / 3)
    assert figures["content"]["located"]["value"] == pytest.approx(50)
    assert figures["content"]["overlap"]["value"] == pytest.approx(50)  # 1 for the first dog, 0 for the second
    assert figures["all"]["overlap"]["value"] == pytest.approx(100 * (1 + 0 + 0.5) / 3)
    assert figures["content"]["chance"]["value"] == pytest.approx(40)  # both words "dog", 0.8 of 2 s
    assert figures["content"]["in_order"]["value"] == pytest.approx(100)  # peaks at 0.25 and 0.75
    assert figures["all"]["in_order"]["value"] == pytest.approx(100 * 2 / 3)  # "a" at 1.25
    figures, _ = localization(
        tokens[:, 2:3], valid[:, 2:3], SlotTimes(peaks[:, 2:3], spans[:, 2:3]), timed, durations, content, pictures,
        Bootstrap(2, seed=0),
    )  # fmt: skip
    assert figures["all"]["keywords"] == 1 and figures["content"] == {"keywords": 0}  # not a share of 0
    shorter = torch.tensor([0.8, 1.0], dtype=torch.float64)  # frames end before the word does
    figures, _ = localization(
        tokens, valid, SlotTimes(peaks, spans), timed, shorter, content, pictures, Bootstrap(2, seed=0)
    )
    assert figures["content"]["chance"]["value"] == pytest.approx(100 * (0.4 + 0.2) / 0.8)


def figures_of_dogs(words, slots, duration, valid=None) -> dict[str, float]:
    """Return the figures of an utterance whose keywords are all "dog": each slot is its peak, start and end."""
    clip = clip_encoder()
    (dog,) = clip.token_ids(["dog"])[0]
    times = torch.tensor([slots], dtype=torch.float64)  # (1, S, 3)
    figures, _ = localization(
        torch.full((1, len(slots)), dog),
        torch.tensor([valid or [True] * len(slots)]),
        SlotTimes(times[..., 0], times[..., 1:]),
        TimedTokens.of([words], clip),
        torch.tensor([duration], dtype=torch.float64),
        torch.ones(len(clip.text_tower.table), dtype=torch.bool),
        torch.tensor([0]),
        Bootstrap(2, seed=0),
    )
    return {name: figures["all"][name]["value"] for name in FIGURES}


@pytest.mark.parametrize("valid", [[True], [True, False]])
def test_the_only_keyword_of_an_utterance_lies_in_its_middle_by_order(valid):
    words = (("dog", 0.9, 1.1), ("cat", 1.1, 2.0))
    figures = figures_of_dogs(words, [(0.0, 0.0, 0.0)] * len(valid), 2.0, valid)
    assert figures["in_order"] == 100  # at 1.0
    assert figures["located"] == 0  # at 0.0


def test_a_span_over_two_occurrences_of_its_word_overlaps_the_better_one():
    assert figures_of_dogs((("dog", 0.0, 0.5), ("dog", 0.5, 1.0)), [(0.2, 0.0, 1.0)], 1.0)["overlap"] == 50


def test_the_chance_of_a_word_is_at_most_100():
    assert figures_of_dogs((("dog", 0.0, 1.0), ("dog", 0.0, 1.0)), [(0.5, 0.0, 1.0)], 1.0)["chance"] == 100


def test_peaks_at_the_start_and_at_the_end_of_a_word_are_located():
    assert figures_of_dogs((("dog", 0.5, 1.0),), [(0.5, 0.4, 0.6), (1.0, 0.9, 1.1)], 2.0)["located"] == 100


def test_words_without_tokens_and_words_that_repeat_a_token():
    timed = TimedTokens.of([(("", 0.0, 0.5),), (("11", 0.0, 0.4),)], clip_encoder())
    assert (timed.tokens[0] == -1).all()
    assert int((timed.tokens[1] != -1).sum()) == 1  # CLIP writes 11 as two tokens that are the same


def test_positions_of_firings():
    words = ((("one", 0.0, 0.4), ("two", 0.6, 1.0)),)
    firings = torch.tensor([[0.05, 0.4, 0.5, 0.75, 1.2, INF]], dtype=torch.float64)  # 0.4: the end of a word
    positions = firing_positions(firings, words, torch.tensor([1.6], dtype=torch.float64))
    expected = {"first quarter": 20, "second quarter": 20, "third quarter": 0, "last quarter": 20, "between words": 40}
    assert positions["cif"] == pytest.approx(expected)
    assert positions["even"]["third quarter"] == pytest.approx(40)  # 0.27 and 0.8
    assert positions["even"]["between words"] == pytest.approx(60)  # 0.53, 1.07 and 1.33


def test_firings_at_the_edges_of_words_may_be_rounded():
    words = ((("one", 0.0, 0.4), ("two", 0.6, 1.0)),)
    firings = torch.tensor([[0.4 + 1e-9, 0.6 - 1e-9]], dtype=torch.float64)
    positions = firing_positions(firings, words, torch.tensor([1.6], dtype=torch.float64))["cif"]
    assert {name: share for name, share in positions.items() if share} == {"first quarter": 50, "last quarter": 50}
