"""Praat's TextGrid files, as the Montreal Forced Aligner writes them.

Praat defines what counts in such a file: texts in quotation marks, numbers and flags such as <exists> that stand alone.
Everything else (`xmin =`, `intervals [3]:`) is a comment, and the short form is the long form without comments. So one
reader of these values reads both forms.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from sclip.errors import UserError
from sclip.parsing import shortened

Interval = tuple[str, float, float]  # text, start, end

VALUE = re.compile(
    r"""  (?P<text>"(?:[^"]|"")*")    # "" inside a text is a quotation mark
        | ![^\n]*                   # a comment
        | (?P<flag><[^<>\s]*>)(?!\S)
        | (?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)
        | [^\s"]+                   # a word outside quotation marks: a comment""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Tier:
    name: str
    intervals: tuple[Interval, ...]


def read_textgrid(path: Path) -> list[Tier]:
    """Return the interval tiers of a TextGrid in UTF-8 or UTF-16. Tiers of points are left out."""
    try:
        return _read_tiers(_Values(_decode(path.read_bytes())))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: neither UTF-8 nor UTF-16: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a complete TextGrid: {error}; align the recording again") from None


def _decode(data: bytes) -> str:
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


class _Values:
    """The texts, numbers and flags of a file, in order."""

    def __init__(self, content: str):
        self.matches = (match for match in VALUE.finditer(content) if match.lastgroup is not None)

    def next(self, kind: str) -> str:
        match = next(self.matches, None)
        if match is None or match.lastgroup != kind:
            found = "the end of the file" if match is None else shortened(match[0])
            raise ValueError(f"expected a {kind}, found {found}")
        return match[0]

    def text(self) -> str:
        return self.next("text")[1:-1].replace('""', '"')

    def number(self) -> float:
        number = float(self.next("number"))
        if not math.isfinite(number):
            raise ValueError("expected a finite number")
        return number

    def end(self) -> None:
        """Refuse further values: a number of tiers or intervals before was too small."""
        match = next(self.matches, None)
        if match is not None:
            ending = "a number of tiers or intervals is too small"
            raise ValueError(f"expected the end of the file, found {shortened(match[0])}; {ending}")


def _read_tiers(values: _Values) -> list[Tier]:
    header = values.text(), values.text()
    if header != ("ooTextFile", "TextGrid"):
        raise ValueError(f"expected ooTextFile and TextGrid, found {header[0]!r} and {header[1]!r}")
    values.number(), values.number()  # start and end of the recording
    if values.next("flag") == "<absent>":
        return []
    tiers = []
    for _ in range(int(values.number())):
        kind, name = values.text(), values.text()
        values.number(), values.number()  # start and end of the tier
        count = int(values.number())
        if kind == "IntervalTier":
            tiers.append(Tier(name, tuple(_read_interval(values) for _ in range(count))))
        elif kind == "TextTier":
            for _ in range(count):
                values.number(), values.text()
        else:
            raise ValueError(f"expected an IntervalTier or a TextTier, found {kind!r}")
    values.end()
    return tiers


def _read_interval(values: _Values) -> Interval:
    start, end = values.number(), values.number()
    return values.text(), start, end
