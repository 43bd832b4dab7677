"""Word alignments of every format: read, compared with the captions and the recordings, and written to the manifest."""

import json
import re

import miniature
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import flickr8k, jpg, spokencoco, spread, textgrid, wav

from sclip.config import Columns, Flickr8kConfig, SpokenCocoConfig, TableConfig
from sclip.corpora.alignments import (
    AlignmentFiles,
    agrees,
    read_ctm,
    read_text_alignment,
    read_word_tier,
    read_words,
    timed_words,
)
from sclip.corpora.check import check_corpus
from sclip.corpora.make import make_corpus, read_listing
from sclip.corpora.textgrid import read_textgrid
from sclip.errors import Problems, UserError

WORDS = (("a", 0.1, 0.25), ("dog", 0.25, 0.6), ("barks", 0.75, 1.0))


def test_ctm_has_start_and_duration(tmp_path):
    path = tmp_path / "some.ctm"
    path.write_text(
        ";; a comment\n"
        "b.jpg_#0 1 0.1 0.2 BIG 0.98\n"  # with a confidence
        "a.jpg_#1 1 0.25 0.35 dog\na.jpg_#1 1 0.1 0.1502 a\na.jpg_#1 A 0.6 0.15 <eps>\na.jpg_#1 1 0.75 0.25 barks\n"
    )
    # 0.1 + 0.1502 is a little later than the start of the next word, and 0.1 + 0.2 is not 0.3 in floating point.
    assert read_ctm(path) == {"a.jpg_#1": WORDS, "b.jpg_#0": (("BIG", 0.1, 0.3),)}
    path.write_text("a.jpg_#1 1 0.1 a\n")
    with pytest.raises(UserError, match=r"some.ctm line 1: expected UTTERANCE CHANNEL START DURATION WORD, found"):
        read_ctm(path)


def test_text_alignment_of_spokencoco():
    text = "0.10__a__0.25 0.25__dog__0.60 0.75__<SPOKEN_NOISE>__1.00 1.00____1.20"
    assert read_text_alignment(text, "here") == (*WORDS[:2], ("<unk>", 0.75, 1.0))
    for token in ("0.1_a__0.2", "0.1__a__0.2.3", "a__0.1__0.2"):
        with pytest.raises(UserError, match=r"here: expected START__WORD__END, found "):
            read_text_alignment(f"0.1__b__0.2 {token}", "here")


def test_cells_of_a_table_have_lists_or_text():
    for value in (
        [["a", 0.1, 0.25], ["dog", 0.25, 0.6], ["barks", 0.75, 1]],
        '[["a", 0.1, 0.25], ["dog", 0.25, 0.6], ["barks", 0.75, 1]]',
        "0.1__a__0.25 0.25__dog__0.6 0.75__barks__1",
    ):
        assert read_words(value, "here") == WORDS
    for value in ("[[", [["a", 0.1]], [1, 2], [["a", "early", 2]]):
        with pytest.raises(UserError, match="here: expected "):
            read_words(value, "here")


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("short", [False, True])
def test_textgrids_of_both_forms_and_all_encodings(short, code, tmp_path):
    path = tmp_path / "a.TextGrid"
    phones = [("AH", 0.1, 0.25), ('say "xmin = 3" ! no', 0.25, 0.6)]
    words = [("ä", 0.1, 0.25), ('"dog"', 0.25, 0.6), ("spn", 0.75, 1.0)]
    textgrid(path, {"words": words, "phones": phones}, short, code)
    if code == "utf-16-be":  # Praat writes this byte order mark
        path.write_bytes(b"\xfe\xff" + path.read_bytes())
    first, second = read_textgrid(path)
    assert (first.name, second.name) == ("words", "phones")
    assert first.intervals[0] == ("", 0, 0.1)
    assert second.intervals[2] == phones[1]
    assert read_word_tier(path) == (*map(tuple, words[:2]), ("<unk>", 0.75, 1.0))


def test_words_of_several_speakers_and_of_a_single_tier(tmp_path):
    path = tmp_path / "a.TextGrid"
    textgrid(path, {"Eva - words": [WORDS[0], WORDS[2]], "Eva - phones": [("AH", 0, 1)], "Adam - words": [WORDS[1]]})
    assert read_word_tier(path) == WORDS
    textgrid(path, {"orthography": list(WORDS)})
    assert read_word_tier(path) == WORDS
    textgrid(path, {"orthography": list(WORDS), "phones": [("AH", 0, 1)]})
    with pytest.raises(UserError, match="expected a tier called words, found orthography, phones; rename"):
        read_word_tier(path)


@pytest.mark.parametrize("name", ["Words", "word", "Mary - WORDS"])
def test_the_tier_of_words_has_any_of_the_usual_names(name, tmp_path):
    textgrid(tmp_path / "a.TextGrid", {"phones": [("AH", 0, 1)], name: list(WORDS)})
    assert read_word_tier(tmp_path / "a.TextGrid") == WORDS


def test_times_have_steps_of_a_tenth_of_a_millisecond():
    assert timed_words([("a", 0.12344, 0.45678)]) == (("a", 0.1234, 0.4568),)


def test_negative_times_are_read_and_numbers_within_words_are_comments(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(
        '"ooTextFile" "TextGrid" -0.5 1 <exists> 1 3rd tier: "IntervalTier" "words" -0.5 1 1 xmin = -0.5 0.25 "a"\n'
    )
    (tier,) = read_textgrid(path)
    assert tier.intervals == (("a", -0.5, 0.25),)


def test_points_are_skipped_and_comments_ignored(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(
        '"ooTextFile"\n"TextGrid"\n0 1.2 ! from and to "seconds"\n<exists>\n2\n"TextTier" "bells" 0 1.2 1\n0.5 "ding"\n'
        '"IntervalTier" "words" 0 1.2 1\n1e-1 0.25 "a"\n'
    )
    assert read_word_tier(path) == WORDS[:1]
    path.write_text('"ooTextFile"\n"TextGrid"\n0 1.2\n<absent>\n')
    assert read_textgrid(path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "not a complete TextGrid: expected a text, found the end of the file"),
        (b'"ooTextFile" "Sound"', "expected ooTextFile and TextGrid, found 'ooTextFile' and 'Sound'"),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "words" 0 1 2 0 0.5 "a"', "expected a number, found"),
        (
            b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "words" 0 1 1 0 0.5 "a" 0.5 1 "b"',
            "expected the end of the file, found '0.5'; a number of tiers or intervals is too",
        ),
        (b'"ooTextFile" "TextGrid" 0 1 <exists> 1 "Sound" "words" 0 1 2', "expected an IntervalTier or a TextTier"),
        ('"ooTextFile" "Bäume"'.encode("latin-1"), "neither UTF-8 nor UTF-16"),
    ],
)
def test_damaged_textgrids_are_named(content, message, tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.TextGrid: .*{message}"):
        read_textgrid(path)


def test_only_letters_and_digits_are_compared_with_the_caption():
    words = (("A", 0, 1), ("t", 1, 2), ("SHIRT'S", 2, 3), ("<unk>", 3, 4), ("5", 4, 5))
    assert agrees(words, "a t-shirts' colour , 5 .")
    assert not agrees(words, "a t-shirts' 5")  # <unk> stands for at least one letter
    assert not agrees(words, "a t-shirts' colour 6")
    assert not agrees((("dog", 0, 1),), "dogs")


@given(st.lists(st.sampled_from(["a", "b", "ab", "ba", "<unk>"]), max_size=6), st.text("ab", max_size=8))
def test_unknown_words_stand_for_one_letter_or_more(words, caption):
    pattern = "".join(".+" if word == "<unk>" else word for word in words)
    assert agrees(tuple((word, 0, 1) for word in words), caption) == bool(re.fullmatch(pattern, caption))


def manifest(config, folder):
    problems = Problems()
    make_corpus(config, folder / "manifest.jsonl", problems)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").open()]
    return {row["id"]: row for row in rows}, problems.notes


def test_ctm_of_flickr8k_fills_the_manifest_and_its_faults_are_named(tmp_path):
    flickr8k(tmp_path)
    miniature.ctm(tmp_path, odd=True)
    config = Flickr8kConfig("flickr8k", str(tmp_path))
    rows, notes = manifest(config, tmp_path)
    text = rows["dev1_abc_3"]["text"]
    assert rows["dev1_abc_3"]["words"] == [[word.upper(), *times] for word, *times in spread(text)]
    assert [row["id"] for row in rows.values() if "words" not in row] == [f"dev0_abc_{k}" for k in (0, 1, 3, 4)]
    assert rows["dev0_abc_2"]["words"][0][0] == "<unk>"
    place = {
        k: next(line for line in notes if line.startswith(k)) for k in ("alignments that are", "alignments that pass")
    }
    assert notes["utterances without word times"][0].endswith("(dev0_abc_0)")
    assert notes["alignments without an utterance"] == ["nobody_abc_0"]
    (wrong,) = notes[place["alignments that are"]]
    assert "(dev0_abc_1): 'A DOG THAT NOBODY MENTIONS' for " in wrong
    (outside,) = notes[place["alignments that pass"]]
    assert outside.endswith(" ends at 0.7 s, the recording at 0.40 s")
    assert "(dev0_abc_3): " in outside
    check = check_corpus(config, tmp_path)
    del check.faults["counts that differ from the published ones"]
    assert [(kind.split(", so")[0], len(cases)) for kind, cases in check.faults.items()] == [
        ("alignments that are not of the caption", 1),
        ("alignments that pass the end of the recording", 1),
        ("alignments whose words overlap or run backwards", 1),
    ]
    assert check.notes.keys() == {"utterances without word times", "alignments without an utterance"}


def test_a_ctm_of_other_utterances_is_named(tmp_path):
    flickr8k(tmp_path)
    (tmp_path / "Flickr_8k.ctm").write_text("OTHER.jpg_#0 1 0.1 0.2 dog\n")
    _, notes = manifest(Flickr8kConfig("flickr8k", str(tmp_path)), tmp_path)
    assert notes == {"alignments without an utterance": ["OTHER_0"]}


def test_a_complete_ctm_has_no_fault(tmp_path):
    flickr8k(tmp_path)
    miniature.ctm(tmp_path)
    (tmp_path / "Flickr_8k.ctm").rename(tmp_path / "flickr_audio/flickr_8k.ctm")
    rows, notes = manifest(Flickr8kConfig("flickr8k", str(tmp_path)), tmp_path)
    assert notes == {}
    assert all(len(row["words"]) == 6 for row in rows.values())


def test_alignments_of_spokencoco_are_in_the_captions_or_in_other_files(tmp_path):
    spokencoco(tmp_path)
    config = SpokenCocoConfig("spokencoco", str(tmp_path), "karpathy")
    rows, notes = manifest(config, tmp_path)
    assert len(notes.pop("utterances without word times")) == 13  # the third caption of each picture
    assert notes == {}
    assert rows["m070-dev_0"]["words"][0] == [rows["m070-dev_0"]["text"].split()[0], 0.02, 0.08]
    # VG-HuBERT's authors write one entry for each caption.
    data = json.loads((tmp_path / "SpokenCOCO/SpokenCOCO_ksplit_val.json").read_text())["data"]
    entries = [
        {"image": picture["image"], "caption": caption, "text_alignment": miniature.text_alignment(caption["text"])}
        for picture in data
        for caption in picture["captions"]
    ]
    other = tmp_path / "SpokenCOCO/karpathy_json/SpokenCOCO_val_unrolled_karpathy_with_alignments.json"
    other.parent.mkdir()
    other.write_text(json.dumps({"data": entries}))
    rows, notes = manifest(config, tmp_path)
    assert len(notes["utterances without word times"]) == 10
    assert len(rows["m070-dev_2"]["words"]) == 6


def test_an_alignment_of_spokencoco_that_is_no_text_is_refused(tmp_path):
    spokencoco(tmp_path)
    path = tmp_path / "SpokenCOCO/SpokenCOCO_ksplit_val.json"
    data = json.loads(path.read_text())
    data["data"][0]["captions"][0]["text_alignment"] = [["a", 0, 1]]
    path.write_text(json.dumps(data))
    with pytest.raises(
        UserError, match=r"SpokenCOCO_ksplit_val\.json data\[0\]: .*text_alignment is \[\['a', 0, 1\]\]"
    ):
        read_listing(SpokenCocoConfig("spokencoco", str(tmp_path), "karpathy"), Problems())


def test_karpathy_s_split_may_have_the_names_of_vg_hubert(tmp_path):
    spokencoco(tmp_path)
    config, folder = SpokenCocoConfig("spokencoco", str(tmp_path), "karpathy"), tmp_path / "SpokenCOCO"
    expected = [row.data for row in read_listing(config, Problems()).rows]
    (folder / "karpathy_json").mkdir()
    for part in ("train", "val", "test"):
        path = folder / f"SpokenCOCO_ksplit_{part}.json"
        data = json.loads(path.read_text())["data"]
        entries = [{"image": picture["image"], "caption": c} for picture in data for c in picture["captions"]]
        other = folder / f"karpathy_json/SpokenCOCO_{part}_unrolled_karpathy.json"
        other.write_text(json.dumps({"data": entries}))
        path.unlink()
    assert [row.data for row in read_listing(config, Problems()).rows] == expected
    other.unlink()
    with pytest.raises(UserError, match=r"SpokenCOCO_ksplit_test.json: no such file; `sclip fetch spokencoco"):
        read_listing(config, Problems())


def test_faults_of_spokencoco_s_alignments_are_found(tmp_path):
    spokencoco(tmp_path, odd=True)
    check = check_corpus(SpokenCocoConfig("spokencoco", str(tmp_path), "karpathy"), tmp_path)
    faults = {kind.split(", so")[0]: cases for kind, cases in check.faults.items()}
    name = "SpokenCOCO_ksplit_train.json data[5] (m075-train_1)"
    assert faults["alignments that cannot be read"] == [f"{name}: expected START__WORD__END, found '0.02__A_0.10'"]
    assert "'NOTHING' for " in faults["alignments that are not of the caption"][0]


TABLE = "wav\tjpg\tcaption\twords\nx/a.wav\ta.jpg\ta dog\t{}\ny/a.wav\tb.jpg\tA dog barks.\t\nb.wav\tb.jpg\ta dog\t\n"


def write_table(folder, cell: str = "") -> TableConfig:
    for name in ("x/a", "y/a", "b"):
        wav(folder / f"{name}.wav", 1.1)
        jpg(folder / f"{name[-1]}.jpg")
    (folder / "mine.tsv").write_text(TABLE.format(cell))
    columns = Columns("wav", "jpg", text="caption", words="words")
    return TableConfig("table", str(folder / "mine.tsv"), columns, alignments="aligned/**/*.TextGrid")


def test_words_of_a_table_come_from_its_column_or_from_files(tmp_path):
    config = write_table(tmp_path, '[["a", 0.2, 0.3], ["dog", 0.3, 0.5]]')
    textgrid(tmp_path / "aligned/x/a.TextGrid", {"words": list(WORDS[:2])})  # the cell comes first
    textgrid(tmp_path / "aligned/y/a.TextGrid", {"words": list(WORDS)})
    textgrid(tmp_path / "aligned/nobody.TextGrid", {"words": list(WORDS)})
    rows, notes = manifest(config, tmp_path)
    assert rows["x/a.wav"]["words"] == [["a", 0.2, 0.3], ["dog", 0.3, 0.5]]
    assert rows["y/a.wav"]["words"] == [list(word) for word in WORDS]
    assert notes["utterances without word times"] == ["mine.tsv line 4 (b.wav)"]
    unused = [str(tmp_path / f"aligned/{name}.TextGrid") for name in ("nobody", "x/a")]
    assert sorted(notes["alignments without an utterance"]) == unused


def test_faults_of_a_table_s_alignments_are_found(tmp_path):
    config = write_table(tmp_path, '[["a", 0.2]]')
    textgrid(tmp_path / "aligned/y/a.TextGrid", {"words": [("a", 0.1, 0.3), ("dog", 0.3, 1.3)]})
    (tmp_path / "aligned/b.TextGrid").write_text("no")
    check = check_corpus(config, tmp_path)
    kinds = {kind.split(", so")[0]: cases for kind, cases in check.faults.items() if kind.startswith("align")}
    assert kinds.keys() == {"alignments that cannot be read", "alignments that pass the end of the recording"}
    unreadable, outside = (kinds[kind] for kind in sorted(kinds))
    assert unreadable[0].startswith("mine.tsv line 2 (x/a.wav), column 'words': expected [[word, start, end], ...]")
    assert "b.TextGrid: not a complete TextGrid" in unreadable[1]
    assert outside == ["mine.tsv line 3 (y/a.wav): 'dog' ends at 1.3 s, the recording at 1.10 s"]


def test_textgrids_that_fit_equally_well_and_patterns_without_a_file_are_refused(tmp_path):
    config = write_table(tmp_path)
    with pytest.raises(UserError, match=r"alignments: no file fits .*aligned/\*\*/\*\.TextGrid; set the pattern"):
        read_listing(config, Problems())
    for name in ("one/a", "two/a"):
        textgrid(tmp_path / f"aligned/{name}.TextGrid", {"words": list(WORDS)})
    check = check_corpus(config, tmp_path)
    assert "have the same name as " in str(check.faults)
    (tmp_path / "aligned/WORDS.CTM").write_text("c 1 0.1 0.2 dog\n")
    (tmp_path / "aligned/one/a.TextGrid").rename(tmp_path / "aligned/one/A.TEXTGRID")
    files = AlignmentFiles(tmp_path, "aligned/**/*.*")  # names in capitals are read like others
    aligned = tmp_path / "aligned"
    assert files.unused() == ["c", str(aligned / "one/A.TEXTGRID"), str(aligned / "two/a.TextGrid")]
    (tmp_path / "aligned/words.txt").touch()
    other = TableConfig("table", config.path, config.columns, alignments="aligned/*")
    with pytest.raises(UserError, match=r"words.txt: expected a .TextGrid or a .ctm"):
        read_listing(other, Problems())


@pytest.mark.parametrize("pattern", ["/", "**aligned/*.ctm"])
def test_impossible_patterns_of_alignments_are_refused(pattern, tmp_path):
    with pytest.raises(UserError, match=r"^alignments: "):
        AlignmentFiles(tmp_path, pattern)


def test_a_ctm_of_a_table_names_ids_or_recordings(tmp_path):
    config = write_table(tmp_path)
    (tmp_path / "words.ctm").write_text("b 1 0.1 0.2 a\nb 1 0.3 0.2 dog\n")
    rows, _ = manifest(TableConfig("table", config.path, config.columns, alignments="words.ctm"), tmp_path)
    assert rows["b.wav"]["words"] == [["a", 0.1, 0.3], ["dog", 0.3, 0.5]]
