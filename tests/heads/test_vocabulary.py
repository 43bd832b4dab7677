"""The vocabulary that is made of a corpus's captions."""

import pytest
from small import CAPTIONS, clip_encoder, vocabulary_of

from sclip.errors import UserError
from sclip.heads.vocabulary import Vocabulary


def test_a_vocabulary_has_the_special_tokens_and_those_of_the_captions(tmp_path):
    clip = clip_encoder()
    vocabulary = vocabulary_of([*CAPTIONS, "dog !^ dog"], clip)
    special = [0, 49406, 49407]
    assert list(vocabulary.ids[:3]) == special
    assert vocabulary.blocked == (0, 1, 2)
    assert vocabulary.pieces[3:6] == ("dog</w>", "a</w>", "the</w>")  # 4, 3 and 2 times; "the" has the lowest id
    assert len(set(vocabulary.ids)) == len(vocabulary) == len(vocabulary.pieces)
    assert 0 in clip.token_ids(["dog !^ dog"])[0]  # "!" has the id that CLIP pads with
    used = {token for ids in clip.token_ids([*CAPTIONS, "dog !^ dog"]) for token in ids}
    assert set(vocabulary.ids) == used | set(special)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary


def test_captions_without_words_and_bad_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="the captions have no words"):
        vocabulary_of(["", " "], clip_encoder())
    with pytest.raises(UserError, match="no such file"):
        Vocabulary.load(tmp_path / "none.json")
    for content, message in (
        ('{"ids": [1]}', "vocabulary.json: pieces: missing"),
        ('{"ids": [1, "a"], "pieces": ["a", "b"], "blocked": [0]}', r"ids\[1\]: expected a whole number, found 'a'"),
        (
            '{"ids": [1, 1], "pieces": ["a", "b"], "blocked": [0]}',
            "vocabulary.json: expected distinct ids, and one piec",
        ),
        ('{"ids": [1, 2], "pieces": ["a", "b"], "blocked": [2]}', "vocabulary.json: blocked: expected some rows"),
    ):
        (tmp_path / "vocabulary.json").write_text(content)
        with pytest.raises(UserError, match=message):
            Vocabulary.load(tmp_path / "vocabulary.json")
