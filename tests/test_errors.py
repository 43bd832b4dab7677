"""Problems of rows are printed by kind: how many, the first by name, and how many more there are."""

from sclip.errors import LONGEST_LINE, MAX_CASES, Problems, UserError


def printed(problems: Problems, caplog) -> list[str]:
    problems.report()
    return caplog.messages


def test_notes_of_a_kind_are_counted_and_the_first_are_named(caplog):
    problems = Problems()
    for i in range(7000):
        problems.note("recordings that are resampled", f"row {i}: 44.1 kHz")
    problems.note("captions that are cut", "row 3: 100 tokens")
    lines = printed(problems, caplog)
    assert lines[:2] == ["note     7,000 recordings that are resampled", "         - row 0: 44.1 kHz"]
    assert lines[MAX_CASES] == f"         - row {MAX_CASES - 1}: 44.1 kHz"
    assert lines[MAX_CASES + 1 :] == [
        f"         and {7000 - MAX_CASES:,} more",
        "note     captions that are cut: row 3: 100 tokens",
    ]


def test_a_brief_note_is_one_line(caplog):
    problems = Problems()
    for i in range(7000):
        problems.note("recordings that are resampled", f"row {i}: 44.1 kHz", brief=True)
    assert printed(problems, caplog) == ["note     7,000 recordings that are resampled; the first: row 0: 44.1 kHz"]


def test_skipped_rows_are_grouped_by_reason(caplog):
    problems = Problems(skip=True)
    for i in range(3):
        problems.add(f"row {i}", f"audio {i}.wav: silent")
    problems.add("row 8", "audio 8.wav: no samples")
    problems.add("row 9", "image 9.png: no such file")
    assert printed(problems, caplog) == [
        "skipped  3 rows: audio: silent",
        "         - row 0: audio 0.wav",
        "         - row 1: audio 1.wav",
        "         - row 2: audio 2.wav",
        "skipped  2 rows: other reasons",
        "         - row 8: audio 8.wav: no samples",
        "         - row 9: image 9.png: no such file",
        "5 rows skipped",
    ]


def test_a_single_row_is_counted_too(caplog):
    problems = Problems(skip=True)
    problems.add("row 8", "audio 8.wav: no samples")
    assert printed(problems, caplog)[0] == "skipped  1 row: row 8: audio 8.wav: no samples"
    caplog.clear()
    for i in range(2):
        problems.add(f"row {i}", f"audio {i}.wav: silent")
    assert "skipped  1 row: other reasons: row 8: audio 8.wav: no samples" in printed(problems, caplog)


def test_skipped_rows_are_few_lines_and_none_is_hidden(caplog):
    problems = Problems(skip=True)
    for i in range(1000):  # pairs of rows with one reason
        problems.add(f"row {i}", f"audio {i}.wav: {i // 2} samples")
    lines = printed(problems, caplog)
    assert len(lines) < 50
    shown = sum(line.startswith("         - ") for line in lines)
    more = [int(line.split()[1].replace(",", "")) for line in lines if line.startswith("         and ")]
    assert shown + sum(more) == 1000
    assert lines[-1] == "1,000 rows skipped"


def test_the_middle_of_a_very_long_line_is_left_out():
    first, second = str(UserError(f"a.csv: no column {'x' * 100_000}; rename it\nsecond")).split("\n")
    assert first.startswith("a.csv: no column xxx") and first.endswith("xxx; rename it")
    assert len(first) < LONGEST_LINE + 10
    assert second == "second"
