"""The columns of inspected recordings give the recordings back, however many processes inspected them."""

import pytest

from sclip.corpora.recordings import Inspected, Recording, Recordings
from sclip.errors import Fault

ROWS = [f"row {i}" for i in range(7)]  # the columns do not look at the rows
RECORDINGS = [
    Recording(ROWS[0], "00" * 31 + "07", 160),
    Recording(ROWS[1], "", fault=Fault("no such file")),
    Recording(ROWS[2], "ab" * 32, 2**40, "48 kHz mono, resampled to 16 kHz"),
    Recording(ROWS[3], "cd" * 32, fault=Fault("cannot be read")),
    *(Recording(row, "ef" * 32, 5) for row in ROWS[4:]),
]


@pytest.mark.parametrize("processes", [1, 2, 3, 10])
def test_the_shares_of_any_number_of_processes_give_the_recordings_back(processes):
    shares = [Inspected() for _ in range(processes)]
    for i, recording in enumerate(RECORDINGS):
        shares[i % processes].append(recording)
    recordings = Recordings(ROWS, shares)
    assert list(recordings) == RECORDINGS
    assert (recordings[-1], len(recordings)) == (RECORDINGS[-1], 7)
    assert list(recordings[1:6][2:]) == RECORDINGS[3:6]
    assert recordings.samples().tolist() == [recording.samples for recording in RECORDINGS]
    assert recordings[2:5].samples().tolist() == [2**40, 0, 5]
    with pytest.raises(IndexError):
        recordings[7]
