"""Test keyword figures by hand, in edge cases, and for keywords that are the same for every utterance."""

import dataclasses

import pytest
import torch
from small import CAPTIONS as TEXTS
from small import clip_encoder, vocabulary_of

from sclip.evaluation import keywords
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.inference import DecodedKeywords
from sclip.evaluation.keywords import NO_TOKEN, Lexicon, caption_tokens, count_matches, matches, usage

# Rows 0 and 1 are blocked; rows 2 to 6 are tokens 12 to 16, 12 and 13 are not content words. No row has token 19.
CONTENT = torch.ones(20, dtype=torch.bool)
CONTENT[[12, 13]] = False
IDS = torch.arange(10, 17)
BLOCKED = torch.tensor([True, True, *[False] * 5])
LEXICON = Lexicon(IDS, torch.stack([IDS, IDS.roll(-1)], 1), CONTENT, BLOCKED)  # nearest: itself and the next
CAPTIONS = torch.tensor([[12, 14, 15, 19], [16, 12, NO_TOKEN, NO_TOKEN], [12, 13, NO_TOKEN, NO_TOKEN]])
KEYWORDS = DecodedKeywords(torch.tensor([[4, 4, 3, 2], [5, 0, 0, 0], [2, 3, 4, 0]]), torch.tensor([4, 1, 3]))
PICTURES, BOOTSTRAP = torch.arange(3), Bootstrap(3, seed=0)


def values(table: dict) -> dict:
    return {key: entry["value"] for key, entry in table.items()}


def test_matches_equal_figures_by_hand():
    scores = matches(KEYWORDS, CAPTIONS, LEXICON, PICTURES, BOOTSTRAP, by_slot=False)
    # Hits: 14, 14, 13 (near 14) and 12; 15 (near 16); 12 and 13 but not 14.
    assert scores["hit_rate"]["value"] == pytest.approx(100 * (1 + 1 + 2 / 3) / 3)
    # Tokens {12, 13, 14} of {12, 14, 15, 19}; {15} of {12, 16}; {12, 13, 14} of {12, 13}.
    expected = {"precision": (2 / 3 + 0 + 2 / 3) / 3, "recall": (2 / 4 + 0 + 1) / 3, "f1": (4 / 7 + 0 + 4 / 5) / 3}
    assert values(scores["all"]) == pytest.approx({k: 100 * v for k, v in expected.items()})
    # {14} of {14, 15, 19}; {15} of {16}; the third caption has no content words.
    expected = {"precision": 1 / 2, "recall": 1 / 6, "f1": 1 / 4}
    assert values(scores["content"]) == pytest.approx({k: 100 * v for k, v in expected.items()})


def test_matches_report_the_hit_rate_of_each_slot():
    fixed = DecodedKeywords(torch.tensor([[4, 2], [6, 5], [2, 6]]), torch.full((3,), 2))
    scores = matches(fixed, CAPTIONS, LEXICON, PICTURES, BOOTSTRAP, by_slot=True)
    assert values(scores["hit_rate_of_slot"]) == pytest.approx({"0": 100, "1": 200 / 3})
    assert scores["hit_rate"]["value"] == pytest.approx(250 / 3)


def test_usage_equals_figures_by_hand():
    scores = usage(KEYWORDS, PICTURES, BOOTSTRAP)
    assert scores["distinct_tokens"] == 4  # rows 2 to 5; padding does not count
    assert scores["per_utterance"]["value"] == pytest.approx(8 / 3)
    assert scores["duplicates"]["value"] == pytest.approx(25 / 3)


def test_collapsed_keywords_score_like_the_baseline():
    """Compare keywords that are equal for all utterances with the most common tokens."""
    collapsed = DecodedKeywords(torch.tensor([2, 3, 4]).expand(3, -1), torch.full((3,), 3))
    baseline = LEXICON.commonest(collapsed, content=False)
    scores = [matches(f, CAPTIONS, LEXICON, PICTURES, BOOTSTRAP, by_slot=True) for f in (collapsed, baseline)]
    assert scores[0] == scores[1]
    assert usage(collapsed, PICTURES, BOOTSTRAP)["distinct_tokens"] == 3
    stuck = usage(DecodedKeywords(torch.full((3, 4), 5), torch.full((3,), 4)), PICTURES, BOOTSTRAP)
    assert (stuck["distinct_tokens"], stuck["duplicates"]["value"]) == (1, 75)
    # The baseline has the mean number of keywords, here three, and no blocked rows.
    assert LEXICON.commonest(KEYWORDS, content=False).rows.tolist() == [[2, 3, 4]] * 3
    no_keywords = DecodedKeywords(KEYWORDS.rows, torch.zeros(3, dtype=torch.long))
    assert LEXICON.commonest(no_keywords, content=False).rows.tolist() == [[2]] * 3


def test_the_baseline_of_content_words_leaves_out_all_other_tokens():
    """Rows 4 and 5 are the most common content words. KEYWORDS has one distinct content word in each utterance."""
    assert LEXICON.commonest(KEYWORDS, content=True).rows.tolist() == [[4]] * 3
    two = DecodedKeywords(torch.tensor([[4, 5, 2, 5]]).expand(3, -1), torch.full((3,), 4))
    assert LEXICON.commonest(two, content=True).rows.tolist() == [[4, 5]] * 3


def unit_table(vocabulary, clip) -> torch.Tensor:
    return torch.nn.functional.normalize(clip.text_tower.table[list(vocabulary.ids)], dim=-1)


def test_function_words_and_full_stops_are_not_content_words(monkeypatch):
    """Use captions of CLIP's tokenizer. The size of the blocks must not change the scores."""
    clip = clip_encoder()
    vocabulary = vocabulary_of(TEXTS, clip)
    table = unit_table(vocabulary, clip)
    lexicon = Lexicon.of(vocabulary, clip, table, "en")
    assert torch.equal(lexicon.nearest[:, 0], lexicon.ids)
    rows = {piece: row for row, piece in enumerate(vocabulary.pieces)}
    content = {piece for piece, row in rows.items() if lexicon.content[lexicon.ids[row]]}
    assert {"dog</w>", "red</w>", "two</w>"} < content
    assert not {"a</w>", "the</w>", "in</w>", "along</w>"} & content
    texts = ["A red dog, a red fence.", *TEXTS]
    captions = caption_tokens(texts, clip)
    assert (captions[0] != NO_TOKEN).sum() == 6  # a red dog , fence .
    decoded = DecodedKeywords(torch.tensor([[rows["dog</w>"], rows["red</w>"]]] * 4), torch.full((4,), 2))
    arguments = (decoded, captions, lexicon, torch.arange(4), Bootstrap(4, seed=0), True)
    scores = matches(*arguments)
    assert scores["content"]["precision"]["value"] == 100 * (1 + 0.5 + 0 + 1) / 4
    monkeypatch.setattr(keywords, "BLOCK", 3)
    assert matches(*arguments) == scores
    assert torch.equal(Lexicon.of(vocabulary, clip, table, "en").nearest, lexicon.nearest)


def count_with_synonyms(row: int, caption: list[int]) -> list[list[int]]:
    """Count one keyword, a row, and one caption, where token 15 means the same as token 14."""
    synonym = torch.arange(20)
    synonym[15] = 14
    lexicon = dataclasses.replace(LEXICON, synonym=synonym)
    counts = count_matches(DecodedKeywords(torch.tensor([[row]]), torch.tensor([1])), torch.tensor([caption]), lexicon)
    return counts["content, synonyms as one"].tolist()


def test_a_keyword_that_is_a_synonym_of_a_spoken_word_is_correct():
    assert count_with_synonyms(5, [14, NO_TOKEN, NO_TOKEN]) == [[1, 1, 1]]


def test_with_synonyms_as_one_only_content_words_count():
    assert count_with_synonyms(2, [12, 14]) == [[0, 0, 1]]


def test_words_of_several_tokens_have_no_synonym():
    clip = clip_encoder()
    vocabulary = vocabulary_of(TEXTS, clip)
    group = ["small", "cockatoo", "little"]
    first = Lexicon.of(vocabulary, clip, unit_table(vocabulary, clip), "en", [group]).synonym
    (small,), (part, *others), (little,) = clip.token_ids(group)
    assert others
    assert first[[small, part, little]].tolist() == [small, part, small]


def test_five_tokens_count_as_near_and_punctuation_never_as_content():
    clip = clip_encoder()
    vocabulary = vocabulary_of(TEXTS, clip)
    lexicon = Lexicon.of(vocabulary, clip, unit_table(vocabulary, clip), None)
    assert lexicon.nearest.shape == (len(vocabulary), 5)
    assert not lexicon.content[[token for (token,) in clip.token_ids([".", ",", "&"])]].any()
