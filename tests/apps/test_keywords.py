"""Test keywords of recordings of any length: as commands, as functions, and what they write."""

import csv
import itertools
import json
import math
import os
import re
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from PIL import Image
from shipped import ROOT
from small import model, recordings

from sclip.apps import exports, plot
from sclip.apps import keywords as apps
from sclip.apps.keywords import FoundKeywords, Word, keywords, segment
from sclip.cli import main
from sclip.errors import UserError
from sclip.model.pieces import Piece

RATE = 16_000
CIF, FIXED = "hybrid-cif", "cascaded"


@pytest.fixture(scope="module")
def models():
    built = {arch: model(arch) for arch in (CIF, FIXED, "parallel")}
    torch.nn.init.constant_(built[CIF].head.cif.score.bias, -3.0)  # two or three firings a second, as after training
    return built


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    """Save a model with CIF, for the commands."""
    return models[CIF].save(tmp_path_factory.mktemp("models") / "hybrid-cif")


def run(*arguments, status: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def error(*arguments) -> str:
    """Return the message of a command that must fail with one line."""
    result = run(*arguments, status=1)
    assert result.output.count("\n") == 1, result.output
    assert result.stdout == ""
    return result.output


def write(path, samples, rate=RATE):
    soundfile.write(path, np.asarray(samples), rate, "FLOAT")
    return path


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Return noise of syllables, so that α differs from frame to frame."""
    noise = recordings(int(seconds * RATE), seed=seed)[0].numpy()
    return noise * np.abs(np.sin(np.arange(len(noise)) / 1500)).astype(np.float32)


@pytest.mark.parametrize("arch", [CIF, FIXED])
def test_a_short_recording_gives_exactly_what_model_keywords_gives(models, arch, tmp_path):
    path = write(tmp_path / "a.wav", speechlike(1.3), 22_050)
    for audio in (path, str(path), path.read_bytes(), speechlike(1.3)):
        (found,) = keywords(models[arch], [audio], top=3)
        (expected,) = models[arch].keywords([audio], top=3)
        words = sorted(found.words, key=lambda word: word.slot)
        assert [word.pieces for word in words] == [slot.pieces for slot in expected]
        if arch == CIF:
            assert [(word.start, word.end) for word in found.words] == [slot.span for slot in expected]
        assert all(0 <= word.start < word.end <= found.seconds + models[arch].frame_seconds for word in words)


def test_fixed_slots_have_the_times_of_their_attention(models):
    """Times are those of `heads/slot_times.py`, as in the evaluation."""
    audio = recordings(20_000, 9_000)
    found = list(keywords(models[FIXED], audio))
    for indices, _, output in models[FIXED].run(audio):
        spans = output.slot_times(models[FIXED].frame_seconds).spans
        for b, i in enumerate(indices):
            words = sorted(found[i].words, key=lambda word: word.slot)
            assert [[word.start, word.end] for word in words] == spans[b].tolist()
    assert [word.start for word in found[0].words] == sorted(word.start for word in found[0].words)
    assert found[0].alpha is None
    assert not found[0].has_segments


def test_times_of_a_long_recording_are_those_of_its_whole(models, monkeypatch):
    """Each window's keywords are those of this part of the recording, moved by its start."""
    tested, audio = models[CIF], speechlike(31)
    (found,) = keywords(tested, [audio])
    starts = []
    read = apps.read_windows
    monkeypatch.setattr(
        apps, "read_windows", lambda *given: (starts.append((w.start, w.joint)) or w for w in read(*given))
    )
    assert [again.words for again in keywords(tested, [audio])] == [found.words]
    assert len(starts) > 3
    assert found.seconds == 31
    checked = 0
    for start, joint in starts:
        (slots,) = tested.keywords([audio[start : start + 8 * RATE]])
        end = 31 if joint is None else joint / RATE
        moved = [(slot.span[0] + start / RATE, slot.span[1] + start / RATE, slot.pieces[0].token) for slot in slots]
        inner = [word for word in moved if start / RATE + 1 < word[0] and word[1] < end - 1]
        own = {(round(word.start, 6), round(word.end, 6), word.pieces[0].token) for word in found.words}
        assert {(round(s, 6), round(e, 6), token) for s, e, token in inner} <= own
        checked += len(inner)
    assert checked > 20
    firings = np.array(found.firings)
    assert (np.diff(firings) > 0).all()
    ends = np.array([word.end for word in found.words])
    assert set(firings.round(6)) <= set(ends.round(6))
    assert len(ends) - len(firings) <= 1  # the remainder at the end of the recording, which does not fire
    assert len(found.alpha) == int(np.ceil(31 / tested.frame_seconds))


def test_keywords_in_the_overlap_are_reported_once(models):
    """CIF's words follow one another over the joints too: none is found twice, and no stretch is left out."""
    (found,) = keywords(models[CIF], [speechlike(45)])
    starts, ends = (np.array([getattr(word, key) for word in found.words]) for key in ("start", "end"))
    shared = np.minimum(ends[1:], ends[:-1]) - np.maximum(starts[1:], starts[:-1])
    assert (shared <= 0.5 * np.minimum((ends - starts)[1:], (ends - starts)[:-1]) + 1e-6).all()
    longest = float((ends - starts).max())
    assert (starts[1:] - ends[:-1]).max() < longest  # a gap at a joint is shorter than a word
    segments = found.segments
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(segments))


def test_fixed_slots_in_the_overlap_are_reported_once(models):
    (found,) = keywords(models[FIXED], [speechlike(45)])
    assert len(found.words) > 8 * 3
    for i, word in enumerate(found.words):
        for other in found.words[i + 1 :]:
            same = word.pieces[0].token == other.pieces[0].token and word.slot != other.slot
            if same and other.start < word.end:
                window = abs(word.start - other.start)
                assert window < 8  # two slots of one window may agree; two windows may not
    pairs = [(word.pieces[0].token, round(word.middle, 3), word.slot) for word in found.words]
    assert len(set(pairs)) == len(pairs)


def word(start, end, token=1, text="dog", slot=0):
    return Word(start, end, slot, (Piece(text, token, 0.5, True), Piece("cat", 2, 0.4, True)))


def window(start, end, joint, *words, cif=True, silent=False):
    alpha = np.full(round((end - start) / 0.02), start + 1, np.float32) if cif else None
    firings = [w.end for w in words] if cif else []
    return apps._WindowKeywords("a.wav", 0, start, end, joint, silent, list(words), alpha, firings)


def test_windows_are_joined_by_hand_made_examples():
    """The first window has the words before the joint; one across it belongs to it, and the next window repeats it."""
    first = window(0, 8, 6, word(0, 3), word(3, 5.8), word(5.8, 6.15), word(6.15, 7))
    second = window(6, 10, None, word(6, 6.12), word(6.12, 7.1), word(7.1, 9))
    joined = apps._join([first, second], 0.02)
    assert [(w.start, w.end) for w in joined.words] == [(0, 3), (3, 5.8), (5.8, 6.15), (6.12, 7.1), (7.1, 9)]
    assert joined.firings == [3, 5.8, 6.15, 7.1, 9]  # the ends of these words
    assert joined.alpha.tolist() == [1] * 300 + [7] * 200
    assert [(w.start, w.end) for w in joined.segments][2:4] == [(5.8, 6.15), (6.15, 7.1)]
    assert joined.seconds == 10

    fixed = [
        window(0, 8, 6, word(5, 6.5, 1), word(5.2, 6.4, 2), word(6.5, 7, 3), cif=False),
        window(6, 10, None, word(6, 6.5, 1), word(6, 6.4, 4), word(6.5, 7, 3), cif=False),
    ]
    tokens = [(w.pieces[0].token, w.start) for w in apps._join(fixed, 0.02).words]
    assert tokens == [(1, 5), (2, 5.2), (4, 6), (3, 6.5)]  # token 1 once; 4 lies in the time of 2, and is another word


def test_silent_parts_of_long_recordings_have_no_keywords(models, caplog):
    audio = np.concatenate([speechlike(12), np.zeros(20 * RATE, np.float32), speechlike(8)])
    (found,) = keywords(models[CIF], [audio])
    assert re.fullmatch(r"recording 0: [23] of \d windows are silent and have no keywords", caplog.messages[-1])
    assert len(caplog.messages) == 1
    assert any(word.end < 12 for word in found.words)
    assert any(word.start > 32 for word in found.words)
    assert not [word for word in found.words if word.start > 20.5 and word.end < 24]


def test_long_recordings_need_bounded_memory(models, monkeypatch, tmp_path):
    """An hour and a quarter of it need the same memory, because a few windows are in memory at a time.

    The model is left out: what it needs depends on a batch alone.
    """
    monkeypatch.setattr("sclip.model.inputs.SORTED_RECORDINGS", 8)
    tested = models[CIF]
    (cheap,) = tested.run([speechlike(8)])
    monkeypatch.setattr(
        type(tested),
        "run",
        lambda self, parts, **_: (([i], [part], cheap[2]) for i, part in enumerate(parts)),
    )

    def peak(seconds: int) -> int:
        with soundfile.SoundFile(tmp_path / f"{seconds}.wav", "w", 8_000, 1, "PCM_16") as file:
            for block in range(seconds // 10):
                file.write(np.random.default_rng(block).integers(-999, 999, 80_000).astype(np.int16))
        tracemalloc.start()
        (found,) = keywords(tested, [tmp_path / f"{seconds}.wav"])
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.seconds == seconds
        return highest

    small, large = peak(300), peak(1200)
    assert large < small + 900 * RATE * 4 / 8  # a waveform of the other 900 s would take eight times as much


def test_a_model_may_be_given_by_its_name(folder, models):
    import sclip

    (by_name,), (found,) = (sclip.keywords(model, [speechlike(1)]) for model in (folder, models[CIF]))
    assert by_name.words == found.words
    assert [len(result.segments) for result in sclip.segment(str(folder), [speechlike(1)])] == [len(found.segments)]


def test_recordings_longer_than_the_limit_of_the_model_are_no_fault(models, monkeypatch):
    """`model.keywords` refuses them. A stand-in for six minutes keeps the test short."""
    monkeypatch.setattr("sclip.encoders.audio.LONGEST_SECONDS", 21.0)
    audio = speechlike(25)
    with pytest.raises(UserError, match=r"25\.0 s long; expected at most 21 s"):
        models[CIF].keywords([audio])
    (found,) = keywords(models[CIF], [audio])
    assert found.seconds == 25
    assert found.words[-1].end > 24


def test_results_come_in_order_from_a_generator(models):
    audio = [speechlike(seconds, seed=i) for i, seconds in enumerate((1, 21, 0.5, 2, 30, 0.1))]
    found = list(keywords(models[CIF], iter(audio)))
    assert [f.seconds for f in found] == [1, 21, 0.5, 2, 30, 0.1]
    assert [f.name for f in found] == [f"recording {i}" for i in range(6)]
    for one, samples in zip(found, audio, strict=True):
        (alone,) = keywords(models[CIF], [samples])
        assert [w.text for w in one.words] == [w.text for w in alone.words]
    assert list(keywords(models[CIF], [])) == []


def test_recordings_that_cannot_be_used_are_named_and_left_out(models, tmp_path, caplog):
    (tmp_path / "text.wav").write_text("not a recording")
    soundfile.write(tmp_path / "cut.flac", speechlike(60), RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:600_000])
    damaged = speechlike(30)
    damaged[-3] = np.inf
    audio = [
        speechlike(1),
        tmp_path / "text.wav",
        damaged,
        [0.5],
        tmp_path / "cut.flac",
        tmp_path / "none.wav",
        speechlike(2),
    ]
    found = list(keywords(models[CIF], audio, on_error="skip"))
    assert [f.seconds for f in found] == [1, 2]
    reasons = [
        "cannot be read",
        "1 sample is infinite or not a number",
        "only 0.0001 s long; expected at least 0.1 s",
        "cannot be read",
        "no such file",
    ]
    messages = [message for message in caplog.messages if message.endswith("; left out")]
    assert len(messages) == 5
    assert all(reason in message for reason, message in zip(reasons, messages, strict=True))
    with pytest.raises(UserError, match="cannot be read"):
        list(keywords(models[CIF], audio))


@pytest.mark.parametrize("seconds", [1, 21])  # as it is, and in windows
def test_a_silent_recording_is_refused_or_left_out(models, seconds, caplog):
    audio = [speechlike(1), np.full(seconds * RATE, 0.5, np.float32)]
    with pytest.raises(UserError, match="recording 1: silent; expected a recording with speech"):
        list(keywords(models[CIF], audio))
    assert [found.name for found in keywords(models[CIF], audio, on_error="skip")] == ["recording 0"]
    assert caplog.messages == ["recording 1: silent; expected a recording with speech; left out"]


def test_models_without_keywords_or_cif_are_refused(models):
    with pytest.raises(UserError, match="architecture parallel: has no keywords"):
        keywords(models["parallel"], [])
    for arch in ("parallel", FIXED):
        with pytest.raises(UserError, match=f"architecture {arch}: has no CIF, which cuts a recording into segments"):
            segment(models[arch], [])
    for seconds in (4.9, 361):
        with pytest.raises(UserError, match="window: expected 5 to 360 seconds, found"):
            keywords(models[CIF], [], window=seconds)


def test_times_lie_within_the_recording():
    """The last of the pooled frames may end after the last sample."""
    samples, _ = soundfile.read(ROOT / "data/examples/dog.wav", dtype="float32")
    cut = [samples[:length] for length in range(len(samples) - 1600, len(samples), 160)]
    ends = []
    for found in keywords(ROOT / "models/scenes-hybrid-cif", cut):
        ends.append(max(found.firings[-1], max(word.end for word in found.words)) - found.seconds)
        assert min(word.end - word.start for word in found.words) >= 0
    assert max(ends) == 0


def test_a_long_silent_recording_is_not_called_quiet(models, caplog):
    assert not list(keywords(models[CIF], [np.zeros(25 * 16_000, np.float32)], on_error="skip"))
    assert caplog.messages == ["recording 0: silent; expected a recording with speech; left out"]


def test_a_long_quiet_recording_is_named_once(models, caplog):
    (loud,) = recordings(30 * 16_000)
    list(keywords(models[CIF], [0.04 * loud / loud.abs().max()]))
    assert [message[:20] for message in caplog.messages] == ["recording 0: quiet: "]


def test_a_wrong_value_of_on_error_is_refused(models):
    with pytest.raises(UserError, match="on_error: expected fail or skip, found 'ignore'"):
        keywords(models[CIF], recordings(16_000), on_error="ignore")


# The formats


NASTY = 'a "b"\n<i>\x1b[31m&, c\x7f\u202e'
PLAIN = 'a "b"\\n<i>\\x1b[31m&, c\\x7f\\u202e'


def nasty(cif: bool = True) -> FoundKeywords:
    words = [word(0.1, 0.5, text=NASTY), word(0.48, 0.9, text="--> cat"), word(0.9, 1.0, text="")]
    alpha = np.linspace(0, 1, 50, dtype=np.float32) if cif else None
    return FoundKeywords("=x\x1b[2J y.wav", 1.0, words, 0.02, alpha, [0.5, 0.9] if cif else [])


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """Read a TextGrid as Praat does: strings in quotes, with two for one, and numbers, in this order."""
    tokens = re.findall(r'"((?:[^"]|"")*)"|(?<![\w\[.])(-?\d+(?:\.\d+)?)(?![\w\].])', text)
    values = [number if number else string.replace('""', '"') for string, number in tokens]
    assert values[:2] == ["ooTextFile", "TextGrid"]
    tiers, place = {}, 5
    for _ in range(int(values[4])):
        assert values[place] == "IntervalTier"
        name, count = values[place + 1], int(values[place + 4])
        cells = values[place + 5 : place + 5 + 3 * count]
        tiers[name] = [(float(a), float(b), c) for a, b, c in zip(*[iter(cells)] * 3, strict=True)]
        assert (tiers[name][0][0], tiers[name][-1][1]) == (float(values[place + 2]), float(values[place + 3]))
        place += 5 + 3 * count
    assert place == len(values)
    return tiers


@pytest.mark.parametrize("cif", [True, False])
def test_textgrids_have_tiers_without_gaps_or_overlap(cif):
    tiers = read_textgrid(exports.export([nasty(cif)], "textgrid"))
    for intervals in tiers.values():
        assert (intervals[0][0], intervals[-1][1]) == (0, 1)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(intervals))
        assert all(start < end for start, end, _ in intervals)
    if cif:  # a frame that two segments share belongs to the first
        assert tiers == {"keywords": [(0, 0.1, ""), (0.1, 0.5, PLAIN), (0.5, 0.9, "--> cat"), (0.9, 1, "")]}
    else:
        assert tiers["keywords"] == [(0, 0.1, ""), (0.1, 0.5, PLAIN), (0.5, 0.9, ""), (0.9, 1, "")]
        assert tiers["keywords 2"] == [(0, 0.48, ""), (0.48, 0.9, "--> cat"), (0.9, 1, "")]


def test_subtitles_escape_tags_and_have_cues_in_order():
    text = exports.export([nasty()], "vtt")
    header, *cues = text.rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    escaped = PLAIN.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert cues == [
        f"00:00:00.100 --> 00:00:00.500\n{escaped}",
        "00:00:00.480 --> 00:00:00.900\n--&gt; cat",
        "00:00:00.900 --> 00:00:01.000\n&nbsp;",
    ]
    assert exports._clock(3_723.0456) == "01:02:03.046"
    assert exports._clock(59.9999) == "00:01:00.000"


def test_ctm_has_six_fields_and_csv_is_quoted():
    found = nasty()
    lines = exports.export([found, found], "ctm").splitlines()
    assert [len(line.split(" ")) for line in lines] == [6] * 6
    assert lines[0].split(" ") == ["=x\\x1b[2J_y", "1", "0.100", "0.400", PLAIN.replace(" ", "_"), "0.5000"]
    assert lines[2].split(" ")[4] == "<eps>"
    assert exports._field(";; x") == "_;;_x"
    rows = list(csv.reader(exports.export([found, found], "csv").splitlines()))
    assert rows[0] == ["recording", "start", "end", "score", "word", "near"]
    assert rows[1] == ["./=x\\x1b[2J y.wav", "0.100", "0.500", "0.5000", PLAIN, "cat"]  # not a formula
    assert [len(row) for row in rows] == [6] * 7


def test_json_has_everything_and_is_plain_ascii():
    text = exports.export([nasty()], "json")
    assert text.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    (read,) = json.loads(text)["recordings"]
    assert read["recording"] == "=x\x1b[2J y.wav"
    assert read["keywords"][0]["word"] == NASTY
    assert read["keywords"][0]["pieces"][1] == {"text": "cat", "token": 2, "score": 0.4, "ends_word": True}
    assert read["firings"] == [0.5, 0.9]
    assert "firings" not in json.loads(exports.export([nasty(False)], "json"))["recordings"][0]


def test_tables_show_no_control_characters():
    table = exports.as_table(nasty())
    assert all(line.isprintable() for line in table.split("\n"))
    assert table.splitlines()[0] == "=x\\x1b[2J y.wav: 1.00 s, 3 keywords"


@pytest.mark.parametrize(("cif", "seconds"), [(True, 1.0), (False, 1.0), (True, 75.0)])
def test_plots_show_the_waveform_the_weights_and_the_keywords(cif, seconds, tmp_path):
    found, samples = nasty(cif), speechlike(seconds)
    if seconds > 1:
        alpha = np.full(round(seconds / 0.02), 0.5, np.float32)
        found = FoundKeywords(found.name, seconds, [word(70, 70.5, text=NASTY)], 0.02, alpha, [70.5])
    plot.plot(found, samples, tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert PLAIN in texts
    strips = 4 if seconds > 1 else 1
    fills = [element.get("fill") for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert fills.count(plot.GREY) == strips  # the waveform
    assert fills.count(plot.BLUE) == strips * cif  # α
    strokes = [element.get("stroke") for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert strokes.count(plot.RED) == len(found.firings)
    plot.plot(found, samples, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (int(root.get("width")), int(root.get("height")))
        colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert (0x88, 0x88, 0x88) in colours
    assert ((0x48, 0x78, 0xA8) in colours) == cif
    with pytest.raises(UserError, match=r"a\.jpg: expected a name that ends in \.png or \.svg"):
        plot.plot(found, samples, tmp_path / "a.jpg")


def test_a_figure_has_60_strips_at_most_and_the_last_one_is_not_empty(tmp_path):
    """A strip of a 60th of a recording may fit 60 times and a little, by the rounding of the division."""
    peaks = np.full(10, 0.5, np.float32)
    for seconds in (19.99, 20.0, 20.01, 60.0, 1200.0, *np.arange(1200.01, 1500, 0.37)):
        found = FoundKeywords("a.wav", float(seconds), [], 0.02, None, [])
        strips = [shape for shape in plot._figure(found, peaks)[0] if getattr(shape, "filled", False)]
        assert len(strips) == min(60, math.ceil(seconds / 20)), seconds


# The commands


@pytest.fixture
def wavs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return [write(folder / f"{name}.wav", speechlike(seconds)) for name, seconds in (("one", 1), ("two", 2))]


def test_keywords_prints_a_table(folder, wavs, models):
    output = run("keywords", *wavs, "--model", folder, "--device", "cpu").stdout
    for path, slots in zip(wavs, models[CIF].keywords(wavs), strict=True):
        assert f"{path}: " in output
        assert f"{len(slots)} keywords" in output
    (slots,) = models[CIF].keywords(wavs[:1])
    rows = output.split("two.wav")[0].splitlines()[2 : 2 + len(slots)]
    assert [row.split()[3] for row in rows] == [slot.pieces[0].text for slot in slots]


def test_formats_go_to_standard_output_or_to_files(folder, wavs, tmp_path):
    model_options = ("--model", folder)
    one = run("keywords", wavs[0], *model_options, "--format", "textgrid").stdout
    assert read_textgrid(one).keys() == {"keywords"}
    assert (
        run("keywords", wavs[0], *model_options, "--out", tmp_path / "one.TextGrid")
        .stdout.strip()
        .endswith("one.TextGrid")
    )
    assert (tmp_path / "one.TextGrid").read_text() == one
    run("keywords", *wavs, *model_options, "--format", "vtt", "--out", tmp_path / "new/subtitles")
    assert sorted(p.name for p in (tmp_path / "new/subtitles").iterdir()) == ["one.vtt", "two.vtt"]
    run("keywords", *wavs, *model_options, "--out", tmp_path / "all.csv")
    names = {row[0] for row in csv.reader((tmp_path / "all.csv").read_text().splitlines())}
    assert names == {"recording", *map(str, wavs)}
    run("keywords", *wavs, *model_options, "--format", "csv", "--out", tmp_path)
    assert {"one.csv", "two.csv"} <= {p.name for p in tmp_path.iterdir()}
    document = json.loads(run("keywords", *wavs, *model_options, "--json", "--top", "2").stdout)
    assert [recording["recording"] for recording in document["recordings"]] == [*map(str, wavs)]
    assert all(len(w["pieces"]) == 2 for recording in document["recordings"] for w in recording["keywords"])
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_recording_comes_from_standard_input(folder, wavs, tmp_path):
    options = ["--model", str(folder), "--json"]
    by_file = json.loads(run("keywords", wavs[1], *options).stdout)["recordings"][0]
    command = ["keywords", "-", *options, "--plot", str(tmp_path / "a.svg")]
    result = CliRunner().invoke(main, command, input=wavs[1].read_bytes())
    assert result.exit_code == 0, result.output
    (recording,) = json.loads(result.stdout)["recordings"]
    assert recording.pop("recording") == "standard input"
    assert recording == {key: value for key, value in by_file.items() if key != "recording"}
    assert "standard input: 2.00 s" in (tmp_path / "a.svg").read_text()
    assert "-: standard input can only be read once" in error("segment", "-", "-")


def test_standard_input_gets_a_file_of_its_own_in_a_folder(folder, wavs, tmp_path):
    """Its file was called `standard input.ctm`, and a recording of this name overwrote it without a word."""
    out, same = f"{tmp_path}/out/", write(tmp_path / "standard input.wav", speechlike(1))
    command = ["keywords", "-", str(same), "--model", str(folder), "--out", out]
    result = CliRunner().invoke(main, [*command, "--format", "ctm"], input=wavs[1].read_bytes())
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["standard input.ctm", "stdin.ctm"]
    assert (tmp_path / "out/stdin.ctm").read_text().startswith("standard_input 1 ")
    clash = write(tmp_path / "stdin.wav", speechlike(1))
    both = error("keywords", "-", clash, "--model", folder, "--format", "ctm", "--out", out)
    assert f"- and {clash} would both be written to {out}stdin.ctm" in both
    one_file = error("keywords", "-", same, "--model", folder, "--out", tmp_path / "all.ctm")
    assert f"- and {same} would both be called standard_input" in one_file
    formats = "textgrid, vtt, ctm, csv, json"
    assert f"a folder, whose name says no format; choose --format, one of {formats}" in error(*command)


def test_without_a_usable_recording_nothing_is_written(folder, tmp_path):
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).write_text("not a recording")
    command = ("keywords", tmp_path / "one.wav", tmp_path / "two.wav", "--model", folder, "--on-error", "skip")
    for options in ((), ("--json",), ("--out", tmp_path / "a.csv"), ("--out", f"{tmp_path}/new/", "--format", "vtt")):
        result = run(*command, *options, status=1)
        assert result.stderr.endswith("Error: none of 2 recordings can be used\n")
        assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["one.wav", "two.wav"]


def test_plot_is_written(folder, wavs, tmp_path):
    for name in ("a.png", "a.svg"):
        result = run("keywords", wavs[0], "--model", folder, "--plot", tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
        assert "one.wav" in result.stdout


def test_a_plot_needs_the_recording_that_was_searched(models, tmp_path):
    samples = np.repeat(speechlike(1), 3)  # at 48 kHz
    (found,) = keywords(models[CIF], [samples], sample_rate=48_000)
    plot.plot(found, samples, tmp_path / "a.svg", sample_rate=48_000)
    with pytest.raises(UserError, match=r"recording 0: 1\.00 s long, and the audio to draw 3\.00 s; give the same"):
        plot.plot(found, samples, tmp_path / "b.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(UserError, match=r"folder\.svg: is a folder; expected the name of a file to write"):
        plot.plot(found, samples, tmp_path / "folder.svg", sample_rate=48_000)


def test_json_in_a_file_prints_the_name_of_the_file_as_json(folder, wavs, tmp_path):
    options = ("--model", folder, "--json")
    document = json.loads(run("keywords", *wavs, *options, "--out", tmp_path / "a.json").stdout)
    assert document == {"files": [str(tmp_path / "a.json")]}
    assert (tmp_path / "a.json").read_text() == run("keywords", *wavs, *options).stdout


def test_what_a_format_cannot_hold_is_refused(models):
    found = list(keywords(models[CIF], [speechlike(1)] * 2))
    with pytest.raises(UserError, match="vtt: a file has one recording, found 2; call export for each"):
        exports.export(found, "vtt")
    with pytest.raises(UserError, match=r"format: expected one of textgrid, .*, found 'xml'"):
        exports.export(found, "xml")


def test_segments_end_where_cif_fires(folder, wavs, models, tmp_path):
    (found,) = segment(models[CIF], wavs[:1])
    text = run("segment", wavs[0], "--model", folder, "--format", "textgrid").stdout
    ends = [end for _, end, label in read_textgrid(text)["segments"] if label]
    assert ends == pytest.approx([w.end for w in found.segments], abs=1e-5)
    assert set(np.round(found.firings, 5)) <= {*np.round(ends, 5)}
    lines = run("segment", *wavs, "--model", folder, "--format", "ctm").stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"one", "two"}
    assert len([line for line in lines if line.startswith("one ")]) == len(found.segments)
    assert "segments" in run("segment", wavs[0], "--model", folder).stdout
    fixed = models[FIXED].save(tmp_path / "fixed")
    assert "architecture cascaded: has no CIF" in error("segment", wavs[0], "--model", fixed)


def test_a_name_with_a_slash_at_its_end_is_a_folder(tmp_path):
    target = exports.destination(f"{tmp_path}/a.json/", None, ["one.wav"])
    assert target.file_of("one.wav") == tmp_path / "a.json/one.json"


def test_mistakes_are_one_clear_line(folder, wavs, tmp_path):
    options = ("--model", folder)
    (tmp_path / "text.wav").write_text("not a recording")
    (tmp_path / "file").write_text("")
    assert "text.wav: cannot be read: Format not recognised" in error("keywords", tmp_path / "text.wav", *options)
    short = write(tmp_path / "short.wav", [0.5])
    assert "short.wav: only 0.0001 s long; expected at least 0.1 s" in error("keywords", short, *options)
    assert "none.wav: no such file" in error("keywords", tmp_path / "none.wav", *options)
    assert "a folder, not a recording" in error("keywords", tmp_path, *options)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: not a file; - is a recording on standard input" in error("keywords", tmp_path / "pipe", *options)
    assert "file is a file, not a folder" in error("keywords", wavs[0], *options, "--out", tmp_path / "file/a.vtt")
    assert "expected a name that ends in .TextGrid" in error("keywords", wavs[0], *options, "--out", tmp_path / "a.txt")
    other = ("--format", "vtt", "--out", tmp_path / "a.csv")
    assert "a.csv: its ending is that of csv, found --format vtt" in error("keywords", wavs[0], *options, *other)
    assert "expected a folder, found a file name" in error("keywords", *wavs, *options, "--out", tmp_path / "a.vtt")
    same = write(tmp_path / "one.wav", speechlike(1))
    both = error("keywords", wavs[0], same, *options, "--format", "vtt", "--out", tmp_path / "out")
    assert "would both be written to" in both
    assert not (tmp_path / "out").exists()
    for place in (("--out", tmp_path / "all.ctm"), ("--format", "ctm")):
        both = error("keywords", wavs[0], same, *options, *place)
        assert f"{wavs[0]} and {same} would both be called one; CTM cannot tell one from the other" in both
        twice = error("keywords", *wavs, wavs[0], *options, *place)
        assert f"{wavs[0]}: given 2 times; CTM cannot tell one from the other" in twice
    spaced = [write(tmp_path / name, speechlike(1)) for name in ("a b.wav", "a_b.wav")]
    assert "would both be called a_b" in error("segment", *spaced, *options, "--format", "ctm")
    assert not (tmp_path / "all.ctm").exists()
    assert run("keywords", wavs[0], same, *options, "--out", tmp_path / "all.csv").stdout  # has the whole names
    assert "2 recordings need a file each" in error("keywords", *wavs, *options, "--format", "vtt")
    assert "--plot draws one recording, found 2" in error("keywords", *wavs, *options, "--plot", tmp_path / "a.png")
    assert "expected a name that ends in .png or .svg" in error(
        "keywords", wavs[0], *options, "--plot", tmp_path / "a.gif"
    )
    blocked = error("keywords", wavs[0], *options, "--plot", tmp_path / "file/a.png")
    assert "file is a file, not a folder" in blocked
    assert "give one of them" in error("keywords", wavs[0], *options, "--json", "--format", "csv")
    assert "window: expected 5 to 360 seconds, found 1" in error("keywords", wavs[0], *options, "--window", "1")
    assert "Missing argument 'AUDIO...'" in run("keywords", status=2).output


def test_a_folder_without_permission_is_refused_before_the_model_is_loaded(wavs, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda *_: False)  # as for a user who is not root
    message = error("keywords", wavs[0], "--model", "none", "--out", tmp_path / "locked/a.csv")
    assert "no permission to write to" in message


def test_control_characters_never_reach_the_terminal(folder, wavs, tmp_path):
    name = tmp_path / "x\x1b[31m\udcff.wav"
    name.write_bytes(wavs[0].read_bytes())
    for arguments in ((), ("--format", "csv"), ("--format", "ctm"), ("--json",), ("--format", "vtt")):
        output = run("keywords", name, "--model", folder, *arguments).output
        assert "\x1b" not in output
        assert output.encode()  # no lone surrogates
    name.write_text("not a recording")
    assert "\\x1b[31m" in error("keywords", name, "--model", folder)
    result = run("keywords", name, wavs[0], "--model", folder, "--on-error", "skip")
    assert "left out" in result.stderr
    assert "\x1b" not in result.output
    assert "one.wav" in result.stdout


def test_the_option_has_the_default_of_the_function():
    for name in ("keywords", "segment"):
        (option,) = [p for p in main.commands[name].params if p.name == "window"]
        assert option.default == apps.WINDOW_SECONDS


def test_noise_of_any_length_is_read(folder, tmp_path):
    """A stand-in for an hour: a minute at a small rate, in windows of five seconds."""
    noise = np.random.default_rng(0).standard_normal(60 * 4_000) / 10
    path = write(tmp_path / "noise.wav", noise, 4_000)
    document = json.loads(run("keywords", path, "--model", folder, "--json", "--window", "5").stdout)
    (recording,) = document["recordings"]
    assert recording["seconds"] == 60
    times = [w["start"] for w in recording["keywords"]]
    assert times == sorted(times)
    assert times[-1] > 55


def test_commands_work_with_a_gpu_or_without(folder, wavs):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert run("keywords", wavs[0], "--model", folder, "--device", expected).stdout
