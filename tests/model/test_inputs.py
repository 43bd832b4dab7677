"""Test that a model takes what people have, from any iterable, in bounded memory and in the given order."""

import io
import pathlib

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from small import CAPTIONS, model, recordings

import sclip
from sclip.model import inputs

RECORDINGS = recordings(16000, 400, 9000, 12345)


@pytest.fixture(scope="module")
def hybrid():
    return model("hybrid-cif")


class Decoder:
    """The part of torchcodec's AudioDecoder that rows of `datasets` have."""

    def __init__(self, samples, rate):
        self.samples, self.rate = samples, rate

    def get_all_samples(self):
        return type("Samples", (), {"data": self.samples[None], "sample_rate": self.rate})


def wav(samples, rate=16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples), rate, "FLOAT", format="WAV")
    return file.getvalue()


def test_every_kind_of_recording_gives_the_same_vector_and_keywords(hybrid, tmp_path):
    samples = RECORDINGS[0]
    path = tmp_path / "a.wav"
    path.write_bytes(wav(samples))
    with path.open("rb") as opened:
        kinds = [
            str(path), path, pathlib.PurePosixPath(path), path.read_bytes(), bytearray(path.read_bytes()),
            memoryview(path.read_bytes()), io.BytesIO(path.read_bytes()), opened, samples, samples.numpy(),
            samples.numpy().astype(np.float64), samples.tolist(),
            {"array": samples.numpy(), "sampling_rate": 16000, "path": "a.wav"},
            {"array": samples.numpy(), "sampling_rate": np.int64(16000)},
            {"bytes": path.read_bytes(), "path": "a.wav"}, {"bytes": None, "path": str(path)},
            Decoder(samples, 16000),
        ]  # fmt: skip
        vectors = hybrid.encode_speech(iter(kinds), batch_size=3)
    assert vectors.shape == (len(kinds), 20)
    torch.testing.assert_close(vectors, vectors[:1].expand(len(kinds), -1))
    assert hybrid.encode_speech(np.array([str(path)] * 2)).shape == (2, 20)
    found = hybrid.keywords(kind for kind in kinds if not hasattr(kind, "read"))
    assert len(found) == len(kinds) - 2
    tokens = [[slot.pieces[0].token for slot in slots] for slots in found]
    assert tokens == tokens[:1] * len(tokens)


def test_each_recording_has_its_own_sample_rate(hybrid):
    """A tone at three rates is one tone. Read at a wrong rate it would be a third as long, or three times."""
    rows = [{"array": tone(rate), "sampling_rate": rate} for rate in (16000, 48000, 8000)]
    found = hybrid.encode_speech([*rows, wav(tone(48000), 48000), tone(16000)], sample_rate=16000)
    torch.testing.assert_close(found, found[:1].expand(5, -1), atol=0.02, rtol=0)
    wrong = hybrid.encode_speech([tone(48000)], sample_rate=16000)
    assert (wrong - found[0]).abs().max() > 0.02


def test_a_rate_may_be_a_number_of_numpy_or_a_whole_float(hybrid):
    expected = hybrid.encode_speech([tone(48000)], sample_rate=48000)
    for rate in (np.int64(48000), np.float32(48000), 48000.0):
        assert torch.equal(hybrid.encode_speech([tone(48000)], sample_rate=rate), expected)
    assert inputs.as_recording(tone(48000), 48000.0, "tone").rate == 48000
    with pytest.raises(sclip.UserError, match=r"sample rate: expected a whole number from 1 to 384000, found 48000\.5"):
        hybrid.encode_speech([tone(48000)], sample_rate=48000.5)


def test_samples_with_their_rate_or_of_transposed_channels_are_refused_with_advice(hybrid):
    pair = (tone(16000), 16000)  # as soundfile.read returns them
    with pytest.raises(
        sclip.UserError, match=r"found \(samples, 16000\); give the samples alone, and sample_rate=16000"
    ):
        hybrid.encode_speech([pair])
    with pytest.raises(sclip.UserError, match=r"expected .*\(channels, samples\), found \(16000, 2\); transpose it"):
        hybrid.encode_speech([np.stack([tone(16000)] * 2, 1)])


def tone(rate: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)


def test_every_kind_of_picture_gives_the_same_vector(hybrid, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    picture, path = Image.fromarray(pixels), tmp_path / "a.png"
    picture.save(path)
    with path.open("rb") as opened:
        kinds = [
            str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), opened, picture, pixels,
            torch.from_numpy(pixels), {"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)},
            hybrid.clip.preprocess(picture),
        ]  # fmt: skip
        vectors = hybrid.encode_image((kind for kind in kinds), batch_size=4)
    torch.testing.assert_close(vectors, vectors[:1].expand(len(kinds), -1))


def test_texts_come_from_any_iterable(hybrid):
    expected = hybrid.encode_text(CAPTIONS)
    for given in (iter(CAPTIONS), tuple(CAPTIONS), np.array(CAPTIONS), dict.fromkeys(CAPTIONS).keys()):
        torch.testing.assert_close(hybrid.encode_text(given, batch_size=2), expected)
    assert hybrid.encode_text(iter(())).shape == hybrid.encode_speech(iter(())).shape == (0, 20)
    assert hybrid.encode_image([]).shape == (0, 20)
    assert hybrid.keywords([]) == []


@pytest.mark.parametrize("kind", ["speech", "keywords"])
def test_a_generator_is_read_a_bounded_number_ahead_and_results_keep_its_order(hybrid, monkeypatch, kind):
    """Lengths vary, so batches mix the order. The generator never runs ahead by more than a group and a batch."""
    monkeypatch.setattr(inputs, "SORTED_RECORDINGS", 4)
    lengths = [9000, 500, 7000, 2000, 8000, 600, 5000, 3000, 400, 16000, 1000]
    given = recordings(*lengths, seed=1)
    read, ahead = 0, []

    def stream():
        nonlocal read
        for item in given:
            read += 1
            yield item

    encode, encoded = hybrid.speech.forward, 0

    def counted(waveforms):
        nonlocal encoded
        ahead.append(read - encoded)
        encoded += len(waveforms)
        return encode(waveforms)

    monkeypatch.setattr(hybrid.speech, "forward", counted)
    if kind == "speech":
        found = hybrid.encode_speech(stream(), batch_size=3)
        monkeypatch.undo()
        alone = torch.cat([hybrid.encode_speech([item]) for item in given])
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    else:
        counts = [len(slots) for slots in hybrid.keywords(stream(), batch_size=3)]
        monkeypatch.undo()
        assert counts == [len(hybrid.keywords([item])[0]) for item in given]
        assert len(set(counts)) > 3
    assert max(ahead) == 4
    assert len(ahead) == 5  # 4 recordings are 2 batches, and 3 are 1


def test_long_recordings_also_bound_what_is_read_ahead(monkeypatch):
    monkeypatch.setattr(inputs, "LONGEST_SECONDS", 1.0)
    given = inputs.recordings(iter(recordings(*[15_000] * 12)), 16_000)
    groups = [len(group) for group, _ in inputs._groups(given, 64_000)]
    assert groups == [5, 5, 2]


def test_progress_shows_a_bar_only_if_asked(hybrid, capsys):
    given = recordings(9000, 12345)
    hybrid.encode_speech(given)
    hybrid.encode_text(CAPTIONS)
    assert capsys.readouterr().err == ""
    hybrid.keywords(iter(given), progress=True)
    assert "2recording" in capsys.readouterr().err
    hybrid.encode_text(CAPTIONS, progress=True)
    assert "3/3" in capsys.readouterr().err
    hybrid.encode_image([np.zeros((8, 8, 3), np.uint8)] * 2, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_similarity_is_the_cosine_of_every_pair(hybrid):
    a, b = torch.randn(3, 20) * 5, torch.randn(4, 20)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    torch.testing.assert_close(hybrid.similarity(a, b), expected)
    torch.testing.assert_close(hybrid.similarity(a.numpy().astype(np.float64), b[0].tolist()), expected[:, :1])
    speech, texts = hybrid.encode_speech(RECORDINGS), hybrid.encode_text(CAPTIONS)
    torch.testing.assert_close(hybrid.similarity(speech, texts), speech @ texts.T)
    for wrong in (torch.zeros(3, 19), torch.zeros(2, 3, 20), torch.tensor(1.0)):
        with pytest.raises(sclip.UserError, match=r"b: expected vectors \(N, 20\), found "):
            hybrid.similarity(a, wrong)


def never():
    pytest.fail("read")
    yield


def test_mistakes_are_refused_before_anything_is_read(hybrid):
    with pytest.raises(sclip.UserError, match="no branch 'middle'; expected parallel or cascaded"):
        hybrid.encode_speech(never(), branch="middle")
    with pytest.raises(sclip.UserError, match="architecture cascaded: no branch 'parallel'; expected cascaded"):
        model("cascaded").encode_speech(never(), branch="parallel")
    for call in (hybrid.encode_speech, hybrid.keywords, hybrid.encode_image, hybrid.encode_text):
        with pytest.raises(sclip.UserError, match="batch_size: expected at least 1, found 0"):
            call(never(), batch_size=0)
    with pytest.raises(sclip.UserError, match="top: expected at least 1, found 0"):
        hybrid.keywords(never(), top=0)


@pytest.mark.parametrize(
    ("call", "single", "kind"),
    [
        ("encode_speech", b"RIFF", "bytes"),
        ("encode_speech", io.BytesIO(), "BytesIO"),
        ("encode_speech", {"array": [0.0], "sampling_rate": 16000}, "dict"),
        ("keywords", Decoder(RECORDINGS[0], 16000), "Decoder"),
        ("encode_image", Image.new("RGB", (8, 8)), "Image"),
        ("encode_image", np.zeros((8, 8, 3), np.uint8), "ndarray"),
        ("encode_image", torch.zeros(3, 16, 16), "Tensor"),
        ("encode_text", "a dog", "str"),
        ("encode_speech", None, "NoneType"),
    ],
)
def test_a_single_item_is_refused(hybrid, call, single, kind):
    with pytest.raises(sclip.UserError, match=f"expected a list, found a single {kind}"):
        getattr(hybrid, call)(single)


def test_faults_name_the_item(hybrid, tmp_path):
    (tmp_path / "text.wav").write_text("not a recording")
    with pytest.raises(sclip.UserError, match=r"audio \S*text\.wav: cannot be read: Format not recognised"):
        hybrid.encode_speech([tmp_path / "text.wav"])
    with pytest.raises(sclip.UserError, match=r"audio \S*none\.wav: no such file"):
        hybrid.encode_speech([tmp_path / "none.wav"])
    with pytest.raises(sclip.UserError, match="a folder, not a recording"):
        hybrid.encode_speech([tmp_path])
    with pytest.raises(sclip.UserError, match="recording 1: cannot be read: Format not recognised; expected a rec"):
        hybrid.encode_speech([RECORDINGS[0], b"not a recording"])
    with (tmp_path / "text.wav").open() as text, pytest.raises(sclip.UserError, match="open it with mode 'rb'"):
        hybrid.encode_speech([text])
    with pytest.raises(sclip.UserError, match=r'recording 0: expected "array" and .*; found samples, rate'):
        hybrid.encode_speech([{"samples": [0.0], "rate": 16000}])
    with pytest.raises(sclip.UserError, match="recording 0: sample rate: expected a whole number"):
        hybrid.encode_speech([{"array": RECORDINGS[0], "sampling_rate": 16000.5}])
    with pytest.raises(sclip.UserError, match="image 65: not a picture"):
        hybrid.encode_image([Image.new("RGB", (8, 8))] * 65 + [b"not a picture"])
    with pytest.raises(sclip.UserError, match=r"image 66: expected bytes \(H, W, 3\)"):
        hybrid.encode_image([Image.new("RGB", (8, 8))] * 66 + [np.zeros((8, 8))])
    with pytest.raises(sclip.UserError, match="text 1: expected text, found int"):
        hybrid.encode_text(["a dog", 3])
