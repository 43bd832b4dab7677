"""Whatever a recording comes as, it is heard as 16 kHz mono."""

import numpy as np
import pytest
import soundfile
import torch

from sclip.encoders.audio import as_waveform, read_audio
from sclip.errors import UserError

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)


def test_files(tmp_path):
    stereo = np.stack([TONE, 0 * TONE], 1)
    soundfile.write(tmp_path / "mono.wav", TONE, 16000, "FLOAT")
    soundfile.write(tmp_path / "stereo.flac", stereo, 16000)
    assert torch.equal(read_audio(tmp_path / "mono.wav"), torch.from_numpy(TONE))
    torch.testing.assert_close(read_audio(str(tmp_path / "stereo.flac")), torch.from_numpy(TONE / 2), atol=1e-4, rtol=0)


def test_44100_hz(tmp_path):
    fine = (0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)).astype(np.float32)
    soundfile.write(tmp_path / "fine.wav", fine, 44100, "FLOAT")
    for found in (read_audio(tmp_path / "fine.wav"), as_waveform(fine, 44100, "tone")):
        assert len(found) == 16000
        torch.testing.assert_close(found[200:-200], torch.from_numpy(TONE)[200:-200], atol=1e-3, rtol=0)


def test_arrays_and_tensors():
    expected = torch.from_numpy(TONE)
    kinds = (TONE, TONE.astype(np.float64), TONE.astype(">f4"), TONE[::-1][::-1], expected, TONE.tolist())
    for given in kinds:
        assert torch.equal(as_waveform(given, 16000, "tone"), expected)
    assert torch.equal(as_waveform(torch.stack([expected, 0 * expected]), 16000, "tone"), expected / 2)
    for full, kind in ((2**15, np.int16), (2**31, np.int32)):
        whole = np.array([0, full // 2, -full, full // 4], kind)
        for given in (whole, torch.from_numpy(whole)):
            assert as_waveform(given, 16000, "steps").tolist() == [0, 0.5, -1, 0.25]


def test_what_cannot_be_heard(tmp_path):
    (tmp_path / "text.wav").write_text("not a recording")
    soundfile.write(tmp_path / "empty.wav", TONE[:0], 16000)
    (tmp_path / "headless.raw").write_bytes((tmp_path / "empty.wav").read_bytes())
    broken = TONE.copy()
    broken[[3, 5]] = np.nan
    for given, message in (
        (tmp_path / "text.wav", r"audio .*text\.wav: cannot be read"),
        (tmp_path / "none.wav", r"audio .*none\.wav: cannot be read"),
        (tmp_path / "empty.wav", r"audio .*empty\.wav: no samples"),
        (tmp_path / "headless.raw", r"audio .*headless\.raw: cannot be read"),
        (broken, "row 7: 2 samples are not finite numbers"),
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
