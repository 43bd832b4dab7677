"""Recordings of every format, rate and number of channels are decoded to 16 kHz mono."""

import io
import os
import time
import tracemalloc
from threading import Thread

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional
from torch.utils._python_dispatch import TorchDispatchMode

from sclip.encoders.audio import check_length, read_audio, resample
from sclip.encoders.waveforms import as_waveform, count_samples
from sclip.errors import UserError

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)


def test_files_are_read_and_stereo_is_mixed_down(tmp_path):
    stereo = np.stack([TONE, 0 * TONE], 1)
    soundfile.write(tmp_path / "mono.wav", TONE, 16000, "FLOAT")
    soundfile.write(tmp_path / "stereo.flac", stereo, 16000)
    assert np.array_equal(read_audio(tmp_path / "mono.wav"), TONE)
    np.testing.assert_allclose(read_audio(str(tmp_path / "stereo.flac")), TONE / 2, atol=1e-4, rtol=0)


def test_44100_hz_is_resampled_to_16000(tmp_path):
    fine = (0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)).astype(np.float32)
    soundfile.write(tmp_path / "fine.wav", fine, 44100, "FLOAT")
    for found in (read_audio(tmp_path / "fine.wav"), as_waveform(fine, 44100, "tone")):
        assert len(found) == 16000
        np.testing.assert_allclose(found[200:-200], TONE[200:-200], atol=1e-3, rtol=0)


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000])
def test_ordinary_rates_are_resampled_as_torchaudio_does(rate):
    """Its own filters are of fp32 positions, which is where the last -97 dB come from."""
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    expected = torchaudio.functional.resample(torch.from_numpy(noise), rate, 16000).numpy()
    found = resample(noise, rate)
    assert found.shape == expected.shape
    assert 10 * np.log10(np.square(found - expected).mean() / np.square(expected).mean()) < -90


@pytest.mark.parametrize("rate", [22254, 50001, 44101, 11127, 383997])
def test_odd_rates_take_little_time_and_memory(rate, tmp_path):
    """Two seconds took 23 s and 1.9 GB at 22,254 Hz, when all output samples had filters as long as a period."""
    at_rate = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)).astype(np.float32)
    soundfile.write(tmp_path / "odd.wav", at_rate, rate, "FLOAT")
    began = time.process_time()
    tracemalloc.start()
    found = read_audio(tmp_path / "odd.wav")
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 32000
    np.testing.assert_allclose(found[200:16000], TONE[200:], atol=1e-3, rtol=0)
    assert time.process_time() - began < 5
    assert memory < 250e6


def test_reading_uses_no_operator_of_torch(tmp_path):
    """Its threads would wait for each other on a busy machine, and autocast would resample in half precision."""
    soundfile.write(tmp_path / "fine.wav", np.stack([TONE, TONE], 1), 44100)
    used: list[str] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            used.append(str(func))
            return func(*args, **(kwargs or {}))

    with Recorder():
        read_audio(tmp_path / "fine.wav")
    assert set(used) <= {"aten.lift_fresh.default"}  # of from_numpy, which computes nothing


@pytest.mark.parametrize(
    ("rate", "seconds", "message"),
    [
        (1, 16_000, r"16,000\.0 s long; expected at most 360 s"),
        (16_000, 361, r"361\.0 s long"),
        (2_000_000_000, 0.000_01, "sample rate: expected a whole number from 1 to 384000, found 2000000000"),
    ],
)
def test_headers_that_claim_the_impossible_are_refused_undecoded(rate, seconds, message, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "odd.wav", np.zeros(int(rate * seconds), np.int16), rate)
    monkeypatch.setattr(soundfile.SoundFile, "blocks", lambda *_, **__: pytest.fail("decoded it"))
    for read in (read_audio, lambda path: count_samples(path, 16000, "")):
        with pytest.raises(UserError, match=rf"odd\.wav: {message}"):
            read(tmp_path / "odd.wav")


@pytest.mark.parametrize("form", ["mp3", "wav"])
@pytest.mark.parametrize("seconds", [1, 20])
def test_a_file_that_is_cut_off_is_refused(seconds, form, tmp_path):
    noise = np.random.default_rng(0).standard_normal(16000 * seconds) / 10
    soundfile.write(tmp_path / f"complete.{form}", noise, 16000)
    data = (tmp_path / f"complete.{form}").read_bytes()
    assert len(read_audio(tmp_path / f"complete.{form}")) == len(noise)
    (tmp_path / f"cut.{form}").write_bytes(data[: len(data) // 2])
    message = rf"the file is damaged or cut off: its header says {seconds}\.0 s, and it ends after"
    with pytest.raises(UserError, match=rf"cut\.{form}: {message}"):
        read_audio(tmp_path / f"cut.{form}")
    with pytest.raises(UserError, match=message):
        read_audio(io.BytesIO(data[: len(data) // 2]), "a file in memory")


@pytest.mark.parametrize("size", [0, 40, 2_000_000])
def test_only_the_samples_of_a_wav_file_must_be_complete(size):
    """Other chunks may lie before and after the samples, the size of the whole file may be wrong, and tags cut off."""
    file = io.BytesIO()
    soundfile.write(file, TONE, 16000, format="WAV")
    data = file.getvalue()
    assert data[36:40] == b"data"
    before = b"JUNK" + (9).to_bytes(4, "little") + bytes(10)  # an odd number of bytes is padded
    after = b"LIST" + (10_000).to_bytes(4, "little") + b"INFO"
    tagged = data[:4] + size.to_bytes(4, "little") + data[8:36] + before + data[36:] + after
    assert np.array_equal(read_audio(io.BytesIO(tagged)), read_audio(file))
    with pytest.raises(UserError, match=r"its header says 1\.0 s, and it ends after 0\.5 s"):
        read_audio(io.BytesIO(tagged[: len(data) // 2]), "cut")


def test_a_wav_file_is_read_from_a_pipe(tmp_path):
    soundfile.write(tmp_path / "complete.wav", TONE, 16000)
    os.mkfifo(tmp_path / "pipe.wav")
    writer = Thread(target=lambda: (tmp_path / "pipe.wav").write_bytes((tmp_path / "complete.wav").read_bytes()))
    writer.start()
    assert np.array_equal(read_audio(tmp_path / "pipe.wav"), read_audio(tmp_path / "complete.wav"))
    writer.join()


@pytest.mark.parametrize("stated", [2**31 - 1, 2**32 - 1])
def test_a_wav_file_whose_writer_did_not_know_its_size_is_read(stated):
    file = io.BytesIO()
    soundfile.write(file, TONE, 16000, format="WAV")
    data = bytearray(file.getvalue())
    for place in (4, 40):  # the sizes of the file and of its samples
        data[place : place + 4] = stated.to_bytes(4, "little")
    assert np.array_equal(read_audio(io.BytesIO(bytes(data))), read_audio(file))


def test_long_files_are_decoded_to_their_last_sample(tmp_path):
    noise = np.random.default_rng(0).standard_normal(3 * 2**16 + 123).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", noise, 16000, "FLOAT")
    assert np.array_equal(read_audio(tmp_path / "long.wav"), noise)


def test_a_header_without_a_length_is_refused():
    with pytest.raises(UserError, match="its header does not say how long it is; encode it again"):
        check_length(2**63 - 1, 16000, "audio stream.flac")


def test_arrays_and_tensors_of_any_type_give_the_same_waveform():
    expected = torch.from_numpy(TONE)
    kinds = (TONE, TONE.astype(np.float64), TONE.astype(">f4"), TONE[::-1][::-1], expected, TONE.tolist())
    for given in kinds:
        assert torch.equal(as_waveform(given, 16000, "tone"), expected)
    assert torch.equal(as_waveform(torch.stack([expected, 0 * expected]), 16000, "tone"), expected / 2)
    for full, kind in ((2**15, np.int16), (2**31, np.int32)):
        whole = np.array([0, full // 2, -full, full // 4], kind)
        for given in (whole, torch.from_numpy(whole)):
            assert as_waveform(given, 16000, "steps").tolist() == [0, 0.5, -1, 0.25]


def test_unusable_recordings_are_user_errors(tmp_path):
    (tmp_path / "text.wav").write_text("not a recording")
    soundfile.write(tmp_path / "empty.wav", TONE[:0], 16000)
    (tmp_path / "headless.raw").write_bytes((tmp_path / "empty.wav").read_bytes())
    broken = TONE.copy()
    broken[[3, 5]] = np.nan
    for given, message in (
        (tmp_path / "text.wav", r"audio .*text\.wav: cannot be read"),
        (tmp_path / "none.wav", r"audio .*none\.wav: no such file"),
        (tmp_path / "empty.wav", r"audio .*empty\.wav: no samples"),
        (tmp_path / "headless.raw", r"audio .*headless\.raw: cannot be read"),
        (broken, "row 7: 2 samples are infinite or not a number"),
        ({"array": TONE}, r"row 7: expected a path, or samples as floats, int16 or int32; found dict"),
        (TONE.reshape(-1, 2), r"row 7: expected \(samples,\) or \(channels, samples\), found \(8000, 2\)"),
        ([1, 2, 3], "found list of int64"),
        (torch.zeros(9, dtype=torch.uint8), "found Tensor of uint8"),
        (np.zeros((1, 2, 3)), r"row 7: expected \(samples,\) or \(channels, samples\), found \(1, 2, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            as_waveform(given, 16000, "row 7")
    for rate in (0, -1, 44100.5):
        with pytest.raises(UserError, match="sample rate: expected a whole number"):
            as_waveform(TONE, rate, "row 7")
