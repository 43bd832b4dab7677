"""Cepstra as a speech encoder: known numbers, and no dependence on the batch."""

import pytest
import torch
import torchaudio
from small import recordings

from sclip.encoders.mfcc import MfccEncoder
from sclip.errors import UserError


def test_frames_do_not_depend_on_the_batch():
    encoder = MfccEncoder()
    loud, quiet, *rest = recordings(16000, 9000, 560, 561, 879, 880)
    waveforms = [loud * 9, quiet / 100, *rest]
    batch = encoder(waveforms)
    assert batch.lengths.tolist() == [49, 27, 1, 1, 1, 2]
    assert batch.lengths.tolist() == encoder.frames(torch.tensor([len(w) for w in waveforms])).tolist()
    for together, waveform in zip(batch, waveforms, strict=True):
        alone = encoder([waveform]).values[0]
        assert alone.shape == together.shape == (1, len(alone[0]), 96)
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert bool(batch.values.isfinite().all())


def test_features_equal_torchaudio_s_mfccs_and_deltas():
    """Against torchaudio's own, unbatched: 16, 16 and 16, of one 10-ms frame and of the next."""
    encoder = MfccEncoder()
    (waveform,) = recordings(4000)
    cepstra = encoder.mfcc(waveform)  # (16, 23)
    slope = torchaudio.functional.compute_deltas(cepstra)
    expected = torch.cat([cepstra, slope, torchaudio.functional.compute_deltas(slope)])  # (48, 23)
    expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, correction=0, keepdim=True)
    expected = expected[:, :22].T.reshape(11, 96)
    torch.testing.assert_close(encoder([waveform]).values[0, 0], expected, rtol=1e-3, atol=1e-3)


def test_utterances_shorter_than_a_frame_are_refused():
    with pytest.raises(UserError, match=r"1: too short: 0\.0349 s, 559 samples at 16 kHz; .* at least 0\.035 s, 560 "):
        MfccEncoder()(recordings(560, 559))
