"""Test words that keywords contain, against plain Python and by hand."""

import random

import pytest
import torch
from small import CAPTIONS as TEXTS
from small import clip_encoder, vocabulary_of

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.inference import DecodedKeywords
from sclip.evaluation.keywords import Lexicon, caption_tokens, hits
from sclip.evaluation.words import NO_WORD, WordComparison, study, word_codes

LONG = "a cockatoo sings"  # "cockatoo" is three tokens


@pytest.fixture(scope="module")
def clip():
    return clip_encoder()


@pytest.fixture(scope="module")
def lexicon(clip):
    vocabulary = vocabulary_of([*TEXTS, LONG], clip)
    table = torch.nn.functional.normalize(clip.text_tower.table[list(vocabulary.ids)], dim=-1)
    return Lexicon.of(vocabulary, clip, table, "en")


def keywords(lexicon, clip, *texts) -> DecodedKeywords:
    """Return keywords that are the tokens of these texts."""
    rows = {int(token): row for row, token in enumerate(lexicon.ids)}
    tokens = [torch.tensor([rows[token] for token in clip.token_ids([text])[0]]) for text in texts]
    lengths = torch.tensor([len(row) for row in tokens])
    return DecodedKeywords(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True), lengths)


def test_each_word_has_its_own_code():
    """Compare with tokens that are joined one by one. Words of more than four tokens have no code."""
    generator = random.Random(0)
    ends = torch.tensor([False, False, False, True, True])
    tokens = torch.tensor([[generator.randrange(5) for _ in range(30)] for _ in range(200)])
    lengths = torch.tensor([generator.randint(0, 30) for _ in range(200)])
    codes = word_codes(tokens, lengths, ends)
    names: dict[int, tuple[int, ...]] = {NO_WORD: ()}
    for row, length, row_codes in zip(tokens.tolist(), lengths.tolist(), codes.tolist(), strict=True):
        word: tuple[int, ...] = ()
        for slot, (token, code) in enumerate(zip(row, row_codes, strict=True)):
            word = (*word, token)
            expected = word if ends[token] and slot < length and len(word) <= 4 else ()
            assert names.setdefault(code, expected) == expected
            word = () if ends[token] else word
    assert len(set(names.values())) == len(names) > 50


def test_scores_and_table_equal_figures_by_hand(clip, lexicon):
    texts = ["a dog", LONG, "the snow the beach"]
    pieces = clip.token_ids(["cockatoo"])[0]
    assert len(pieces) > 1
    decoded = keywords(lexicon, clip, "dog red", "cockatoo cockatoo", "snow")
    words = WordComparison(decoded, texts, lexicon, clip)
    scores = words.scores(torch.arange(3), Bootstrap(3, seed=0))
    expected = {"precision": (1 / 2 + 1 + 1) / 3, "recall": (1 / 2 + 1 / 3 + 1 / 3) / 3}
    assert {k: scores[k]["value"] for k in expected} == pytest.approx({k: 100 * v for k, v in expected.items()})
    table = {row["word"]: row for row in words.table()}
    assert table["cockatoo"] == {"word": "cockatoo", "spoken": 1, "found": 1, "said": 1, "content": True}
    assert table["a"] == {"word": "a", "spoken": 2, "found": 0, "said": 0, "content": False}
    assert "red" not in table  # no caption has it
    assert [row["word"] for row in words.table()][:2] == ["a", "beach"]


def test_a_word_is_found_only_in_utterances_that_speak_it(clip, lexicon):
    words = WordComparison(keywords(lexicon, clip, "dog", "dog"), ["a dog", "the snow"], lexicon, clip)
    (dog,) = (row for row in words.table() if row["word"] == "dog")
    assert (dog["spoken"], dog["found"], dog["said"]) == (1, 1, 2)


def test_a_word_belongs_to_one_band_of_frequency(clip, lexicon):
    words = [{"word": str(spoken), "spoken": spoken, "found": 0, "content": True} for spoken in (1, 2, 5, 400)]
    hit = torch.zeros(1, 1, dtype=torch.bool)
    bands = study(keywords(lexicon, clip, "dog"), hit, words, torch.arange(1), Bootstrap(1, seed=0))["by_frequency"]
    assert [(row["from"], row["below"], row["words"]) for row in bands] == [
        (1, 2, 1), (2, 5, 1), (5, 10, 1), (300, None, 1),
    ]  # fmt: skip


def test_word_is_contained_only_if_its_tokens_are_in_order_and_complete(clip, lexicon):
    decoded = keywords(lexicon, clip, "cockatoo")
    reversed_tokens = DecodedKeywords(decoded.rows.flip(1), decoded.lengths)
    assert WordComparison(decoded, [LONG], lexicon, clip).correct.tolist() == [True]
    assert not WordComparison(reversed_tokens, [LONG], lexicon, clip).correct.any()
    incomplete = DecodedKeywords(decoded.rows, decoded.lengths - 1)
    assert len(WordComparison(incomplete, [LONG], lexicon, clip).keyword_words) == 0


def test_study_equals_figures_by_hand(clip, lexicon):
    texts = ["a dog", "the snow", "a red fence"]
    lexicon = Lexicon(lexicon.ids, lexicon.ids[:, None], lexicon.content, lexicon.blocked)  # nearest: only itself
    decoded = keywords(lexicon, clip, "dog a dog", "beach", "red red")
    captions = caption_tokens(texts, clip)
    words = WordComparison(decoded, texts, lexicon, clip).table()
    hit = hits(decoded, captions, lexicon)
    result = study(decoded, hit, words, torch.arange(3), Bootstrap(3, seed=0))
    assert [row["hit_rate"]["value"] for row in result["slots"]] == pytest.approx([200 / 3, 200 / 3, 200 / 3])
    assert [row["any_hit"]["value"] for row in result["slots"]] == pytest.approx([200 / 3] * 3)
    assert result["counts"] == [
        {"keywords": 1, "utterances": 1, "hit_rate": 0, "duplicates": 0},
        {"keywords": 2, "utterances": 1, "hit_rate": 100, "duplicates": 50},
        {"keywords": 3, "utterances": 1, "hit_rate": 100, "duplicates": pytest.approx(100 / 3)},
    ]
    assert result["by_frequency"] == [{"from": 1, "below": 2, "words": 4, "spoken": 4, "found": 50}]


def test_captions_without_a_countable_word(clip, lexicon):
    """A word of more than four tokens is not counted, such as a sentence in a script without spaces."""
    sentence = "狗在雪地里奔跑"
    assert len(clip.token_ids([sentence])[0]) > 4
    words = WordComparison(keywords(lexicon, clip, "dog"), [sentence], lexicon, clip)
    assert words.table() == []
    assert words.scores(torch.arange(1), Bootstrap(1, seed=0))["f1"]["value"] == 0
