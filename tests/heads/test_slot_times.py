"""Test the peaks and spans of slots, by hand."""

import pytest
import torch

from sclip.heads.slot_times import find_slot_times


def test_peak_and_span_of_a_slot():
    weights = torch.tensor([[[0.0, 0.2, 1.0, 0.6, 0.4, 0.9, 0.0]]])
    attended = find_slot_times(weights, is_cif=False, frame_seconds=0.1)
    assert attended.peaks.tolist() == [[pytest.approx(0.25)]]
    assert attended.spans[0, 0].tolist() == pytest.approx([0.2, 0.4])  # at least half of the peak, without a gap
    cif = find_slot_times(weights, is_cif=True, frame_seconds=0.1)
    assert cif.peaks.tolist() == attended.peaks.tolist()
    assert cif.spans[0, 0].tolist() == pytest.approx([0.1, 0.6])
    everything = find_slot_times(torch.ones(1, 1, 4), is_cif=True, frame_seconds=0.5)
    assert everything.spans[0, 0].tolist() == [0.0, 2.0]
    quiet_frame = find_slot_times(torch.tensor([[[0.5, 0.4, 1e-7, 0.1]]]), is_cif=True, frame_seconds=0.5)
    assert quiet_frame.spans[0, 0].tolist() == [0.0, 2.0]  # all frames of the slot
    for is_cif in (True, False):
        empty = find_slot_times(torch.zeros(1, 1, 4), is_cif, frame_seconds=0.5)
        assert empty.spans[0, 0, 1] <= 0.5  # padding is not a span


@pytest.mark.parametrize(
    ("weights", "is_cif", "span"),
    [
        ([0.5, 0.5, 1e-7], True, [0.0, 1.0]),  # the last weight is a rounding error
        ([0.995, 0.005], True, [0.0, 1.0]),  # the last weight is small, but no rounding error
        ([0.0, 0.0, 0.0, 0.0], True, [0.0, 0.0]),
        ([0.5, 1.0, 0.4], False, [0.0, 1.0]),  # the first weight is exactly half of the peak's
    ],
)
def test_a_span_has_only_the_frames_of_its_slot(weights, is_cif, span):
    times = find_slot_times(torch.tensor([[weights]]), is_cif, frame_seconds=0.5)
    assert times.spans[0, 0].tolist() == span
