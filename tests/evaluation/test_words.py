"""Whole words out of keywords: against plain Python, and by hand."""

import random

import pytest
import torch
from small import CAPTIONS as TEXTS
from small import clip_encoder

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.inference import Found
from sclip.evaluation.keywords import Lexicon, caption_tokens, hits
from sclip.evaluation.words import NO_WORD, Words, study, word_codes
from sclip.heads.vocabulary import Vocabulary

LONG = "a cockatoo sings"  # the bird is three tokens


@pytest.fixture(scope="module")
def clip():
    return clip_encoder()


@pytest.fixture(scope="module")
def lexicon(clip):
    vocabulary = Vocabulary.from_captions([*TEXTS, LONG], clip)
    table = torch.nn.functional.normalize(clip.text_tower.table[list(vocabulary.ids)], dim=-1)
    return Lexicon.of(vocabulary, clip, table, "en")


def keywords(lexicon, clip, *texts) -> Found:
    """Slots that say these texts."""
    rows = {int(token): row for row, token in enumerate(lexicon.ids)}
    said = [torch.tensor([rows[token] for token in clip.token_ids([text])[0]]) for text in texts]
    lengths = torch.tensor([len(row) for row in said])
    return Found(torch.nn.utils.rnn.pad_sequence(said, batch_first=True), lengths)


def test_codes_are_words():
    """Against joining one token after the other; words of more than four tokens are none."""
    generator = random.Random(0)
    ends = torch.tensor([False, False, False, True, True])
    tokens = torch.tensor([[generator.randrange(5) for _ in range(30)] for _ in range(200)])
    lengths = torch.tensor([generator.randint(0, 30) for _ in range(200)])
    codes = word_codes(tokens, lengths, ends)
    names: dict[int, tuple[int, ...]] = {NO_WORD: ()}
    for row, length, found in zip(tokens.tolist(), lengths.tolist(), codes.tolist(), strict=True):
        word: tuple[int, ...] = ()
        for slot, (token, code) in enumerate(zip(row, found, strict=True)):
            word = (*word, token)
            whole = word if ends[token] and slot < length and len(word) <= 4 else ()
            assert names.setdefault(code, whole) == whole
            word = () if ends[token] else word
    assert len(set(names.values())) == len(names) > 50


def test_scores_by_hand(clip, lexicon):
    texts = ["a dog", LONG, "the snow the beach"]
    pieces = clip.token_ids(["cockatoo"])[0]
    assert len(pieces) > 1
    found = keywords(lexicon, clip, "dog red", "cockatoo cockatoo", "snow")
    words = Words(found, texts, lexicon, clip)
    scores = words.scores(torch.arange(3), Bootstrap(3, seed=0))
    expected = {"precision": (1 / 2 + 1 + 1) / 3, "recall": (1 / 2 + 1 / 3 + 1 / 3) / 3}
    assert {k: scores[k]["value"] for k in expected} == pytest.approx({k: 100 * v for k, v in expected.items()})
    table = {row["word"]: row for row in words.table()}
    assert table["cockatoo"] == {"word": "cockatoo", "spoken": 1, "found": 1, "said": 1, "content": True}
    assert table["a"] == {"word": "a", "spoken": 2, "found": 0, "said": 0, "content": False}
    assert "red" not in table  # nobody said it
    assert [row["word"] for row in words.table()][:2] == ["a", "beach"]


def test_a_word_s_tokens_must_stand_in_order(clip, lexicon):
    found = keywords(lexicon, clip, "cockatoo")
    turned = Found(found.rows.flip(1), found.lengths)
    assert Words(found, [LONG], lexicon, clip).right.tolist() == [True]
    assert not Words(turned, [LONG], lexicon, clip).right.any()
    cut = Found(found.rows, found.lengths - 1)
    assert len(Words(cut, [LONG], lexicon, clip).said) == 0


def test_study(clip, lexicon):
    texts = ["a dog", "the snow", "a red fence"]
    lexicon = Lexicon(lexicon.ids, lexicon.ids[:, None], lexicon.content, lexicon.blocked)  # nearest: itself alone
    found = keywords(lexicon, clip, "dog a dog", "beach", "red red")
    captions = caption_tokens(texts, clip)
    words = Words(found, texts, lexicon, clip).table()
    told = study(found, hits(found, captions, lexicon), words, torch.arange(3), Bootstrap(3, seed=0))
    assert [row["hit_rate"]["value"] for row in told["slots"]] == pytest.approx([200 / 3, 200 / 3, 200 / 3])
    assert [row["any_hit"]["value"] for row in told["slots"]] == pytest.approx([200 / 3] * 3)
    assert told["counts"] == [
        {"keywords": 1, "utterances": 1, "hit_rate": 0, "duplicates": 0},
        {"keywords": 2, "utterances": 1, "hit_rate": 100, "duplicates": 50},
        {"keywords": 3, "utterances": 1, "hit_rate": 100, "duplicates": pytest.approx(100 / 3)},
    ]
    assert told["by_frequency"] == [{"from": 1, "below": 2, "words": 4, "spoken": 4, "found": 50}]
