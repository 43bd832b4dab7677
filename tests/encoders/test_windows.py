"""Test that a recording in windows is the recording, whatever its sample rate, and that no word is cut in two."""

import io
import itertools

import numpy as np
import pytest
import soundfile
import torch

from sclip.encoders.audio import resample, resample_blocks
from sclip.encoders.waveforms import as_waveform
from sclip.encoders.windows import JOINTS, read_windows
from sclip.errors import UserError

RATE, FRAME = 16_000, 640
NOISE = np.random.default_rng(0).standard_normal(8 * RATE).astype(np.float32) / 10


def windows(audio, rate=RATE, size=RATE):
    return list(read_windows(audio, rate, "noise", size, FRAME))


def joined(parts) -> np.ndarray:
    """Put windows one after the other, each up to the start of the next."""
    ends = [(part.joint or part.end) - part.start for part in parts]
    return np.concatenate([part.waveform.numpy()[:end] for part, end in zip(parts, ends, strict=True)])


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 15_999])
@pytest.mark.parametrize("block", [1, 7, 1_000, 50_000])
def test_blocks_are_resampled_as_the_whole_recording_is(rate, block):
    """There is no click at a joint: the pieces differ from the whole by rounding alone."""
    samples = NOISE[: 4_001 if block == 1 else 40_001]
    blocks = (samples[first : first + block] for first in range(0, len(samples), block))
    found = np.concatenate(list(resample_blocks(blocks, rate)))
    np.testing.assert_allclose(found, resample(samples, rate), atol=1e-6, rtol=0)
    assert len(found) == len(resample(samples, rate))


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
def test_windows_together_are_the_recording(rate, tmp_path):
    soundfile.write(tmp_path / "noise.wav", np.stack([NOISE, NOISE / 2], 1), rate, "FLOAT")
    expected = as_waveform(np.stack([NOISE, NOISE / 2]), rate, "noise").numpy()
    kinds = [tmp_path / "noise.wav", io.BytesIO((tmp_path / "noise.wav").read_bytes()), np.stack([NOISE, NOISE / 2])]
    for audio in kinds:
        parts = windows(audio, rate, 20_000)
        assert len(parts) >= 3
        np.testing.assert_allclose(joined(parts), expected, atol=1e-6, rtol=0)
        assert all(len(part.waveform) == 20_000 for part in parts[:-1])
        assert all(part.joint % FRAME == 0 for part in parts[:-1])
        for part, following in itertools.pairwise(parts):
            assert following.start == part.joint < part.end  # they overlap
            assert 0.5 < (part.joint - part.start) / 20_000 < JOINTS[1]
        assert parts[-1].joint is None
        assert len(parts[-1].waveform) > (1 - JOINTS[1]) * 20_000


def test_a_joint_lies_in_a_pause():
    samples = NOISE.copy()
    for pause in (0.85, 1.4, 2.2, 3.1, 3.9, 4.5, 5.2, 6.0, 6.7, 7.5):
        samples[int((pause - 0.1) * RATE) : int((pause + 0.1) * RATE)] = 0
    joints = [part.joint for part in windows(samples, size=RATE)[:-1]]
    assert joints
    loudness = [np.abs(samples[joint - 320 : joint + 320]).max() for joint in joints]
    assert sum(value == 0 for value in loudness) >= len(joints) / 2  # some windows have no whole pause to end in
    assert loudness[0] == 0


def test_a_recording_of_exactly_one_window_is_one_window():
    assert [part.joint for part in windows(NOISE[:RATE])] == [None]
    assert len(windows(NOISE[: RATE + 1])) == 2


@pytest.mark.parametrize(("rate", "seconds"), [(1, 300), (384_000, 3)])
def test_extreme_rates_need_no_more_memory_than_others(rate, seconds):
    samples = np.random.default_rng(0).standard_normal(rate * seconds).astype(np.float32)
    assert sum((part.joint or part.end) - part.start for part in windows(samples, rate)) == seconds * RATE


def test_faults_are_named(tmp_path):
    damaged = NOISE.copy()
    damaged[-5] = np.nan
    with pytest.raises(UserError, match="noise: 1 sample is infinite or not a number"):
        windows(damaged)
    with pytest.raises(UserError, match="noise: no samples"):
        windows(NOISE[:0])
    soundfile.write(tmp_path / "cut.flac", NOISE, RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"noise: (cannot be read|the file is damaged)"):
        windows(tmp_path / "cut.flac")
    for rate in (0, 10**6, "16000"):
        with pytest.raises(UserError, match="noise: sample rate: expected a whole number from 1 to 384000"):
            windows(NOISE, rate)
    assert isinstance(windows(NOISE)[0].waveform, torch.Tensor)
