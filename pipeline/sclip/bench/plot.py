"""The ratios as bars, on a scale of powers of ten; the hair line is the spread between rounds."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from sclip.bench.cases import Case

LABELS, BARS, LINE, MARGIN = 330, 420, 18, 16  # widths, the height of a bar's line, the margin
LEAST, MOST = 1e-3, 1e3


def drawing(cases: Sequence[Case], machine: str) -> str:
    height = 2 * MARGIN + sum((len(case.rows) + 2) * LINE for case in cases) + LINE
    parts = list(_parts(cases))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + BARS + 90} {height}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<text x="{MARGIN}" y="{MARGIN}">{escape(machine)}: how many times as fast as the first of each</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _parts(cases: Sequence[Case]) -> Iterator[str]:
    y = MARGIN + LINE
    for case in cases:
        y += LINE
        yield f'<text x="{MARGIN}" y="{y}" font-weight="bold">{escape(case.question)}</text>'
        for row in case.rows:
            y += LINE
            timed = row.timed
            start, end = sorted((_place(1.0), _place(timed.ratio)))
            yield f'<text x="{MARGIN}" y="{y}">{escape(timed.name)}</text>'
            yield f'<rect x="{start}" y="{y - 9}" width="{max(1.0, end - start)}" height="10" fill="#4c78a8"/>'
            low, high = _place(timed.ratio_low), _place(timed.ratio_high)
            yield f'<line x1="{low}" x2="{high}" y1="{y - 4}" y2="{y - 4}" stroke="#000"/>'
            yield f'<text x="{max(end, high) + 6}" y="{y}">{timed.ratio:.3g}</text>'
        y += LINE


def _place(ratio: float) -> float:
    share = (math.log10(min(MOST, max(LEAST, ratio))) - math.log10(LEAST)) / math.log10(MOST / LEAST)
    return round(LABELS + share * BARS, 1)
