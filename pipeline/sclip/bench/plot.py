"""Draw the ratios as bars on a logarithmic scale. A thin line shows the spread between rounds."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from sclip.bench.cases import Case

LABELS, BARS, LINE, MARGIN = 330, 420, 18, 16  # width of labels, width of bars, height of a line, margin
LEAST, MOST = 1e-3, 1e3  # ends of the scale


def draw(cases: Sequence[Case], machine: str) -> str:
    """Return the drawing as SVG."""
    height = 2 * MARGIN + sum((len(case.rows) + 2) * LINE for case in cases) + LINE
    elements = list(_elements(cases))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + BARS + 90} {height}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<text x="{MARGIN}" y="{MARGIN}">{escape(machine)}: speed relative to the first row of each group</text>\n'
        + "\n".join(elements)
        + "\n</svg>\n"
    )


def _elements(cases: Sequence[Case]) -> Iterator[str]:
    y = MARGIN + LINE
    for case in cases:
        y += LINE
        yield f'<text x="{MARGIN}" y="{y}" font-weight="bold">{escape(case.question)}</text>'
        for row in case.rows:
            y += LINE
            timed = row.timed
            start, end = sorted((_position(1.0), _position(timed.ratio)))
            yield f'<text x="{MARGIN}" y="{y}">{escape(timed.name)}</text>'
            yield f'<rect x="{start}" y="{y - 9}" width="{max(1.0, end - start)}" height="10" fill="#4c78a8"/>'
            low, high = _position(timed.ratio_low), _position(timed.ratio_high)
            yield f'<line x1="{low}" x2="{high}" y1="{y - 4}" y2="{y - 4}" stroke="#000"/>'
            yield f'<text x="{max(end, high) + 6}" y="{y}">{timed.ratio:.3g}</text>'
        y += LINE


def _position(ratio: float) -> float:
    share = (math.log10(min(MOST, max(LEAST, ratio))) - math.log10(LEAST)) / math.log10(MOST / LEAST)
    return round(LABELS + share * BARS, 1)
