"""Errors that users can act on."""

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

log = logging.getLogger(__name__)

Findings = dict[str, list[str]]  # what was found: each case of it

LONGEST_LINE = 2000  # of an error; a file may hold names and texts of any length
MAX_CASES = 10  # cases of a finding that are printed, and reasons that get a group of their own


class UserError(ValueError):
    """An error that a user can act on: it names the file, row, key or tensor, what was found and what was expected.

    The middle of a very long line is left out, because its end says what to do.
    """

    def __init__(self, message: str):
        half = LONGEST_LINE // 2
        lines = message.split("\n")
        super().__init__(
            "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}" for line in lines)
        )


@dataclass(frozen=True)
class Fault:
    """Why a recording or a picture cannot be used."""

    reason: str


def printable(text: str) -> str:
    """Escape the characters that a terminal would obey instead of showing, such as those in a file's name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def one_line(error: BaseException) -> str:
    """Return the message of a library's error without line breaks."""
    return " ".join(str(error).split())


def counted(number: int, nouns: str) -> str:
    """Return a number with its noun, which is given in the plural, such as 1 picture and 7,000 pictures."""
    return f"{number:,} {nouns.removesuffix('s') if number == 1 else nouns}"


def size_text(size: float) -> str:
    """Return a number of bytes in megabytes, or in gigabytes from a tenth of one."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


class Problems:
    """Collects rows that cannot be used: raises at the first one, or with `skip` counts them."""

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.skipped: dict[str, str] = {}  # a row's name: what is wrong with it
        self.notes: Findings = {}
        self.brief: set[str] = set()  # kinds of notes of which one case says all

    def add(self, row: str, message: str) -> None:
        """Record a row that cannot be used."""
        if not self.skip:
            raise UserError(f"{row}: {message} (--on-error skip, or on_error: skip in the preset, goes on without it)")
        self.skipped[row] = message

    def note(self, kind: str, case: str, *, brief: bool = False) -> None:
        """Record something that a user should know and that stops nothing. `brief`: one case of this kind says all."""
        self.notes.setdefault(kind, []).append(case)
        if brief:
            self.brief.add(kind)

    def nothing_left(self, message: str) -> UserError:
        """Return an error for a corpus without a usable row, with the first faults; often all rows have the same."""
        reasons = [f"\n  {row}: {reason}" for row, reason in self.skipped.items()]
        return UserError(f"{message}{':' if reasons else ''}{''.join(reasons[:3])}")

    def report(self) -> None:
        """Log the skipped rows, grouped by reason, and the notes, grouped by kind."""
        for line in (*list_findings("skipped", self._by_reason()), *list_findings("note", self.notes, self.brief)):
            log.warning(line)
        if self.skipped:
            log.warning(f"{counted(len(self.skipped), 'rows')} skipped")

    def _by_reason(self) -> Findings:
        """Return the skipped rows: the commonest repeated reasons first, all other rows in one last group."""
        groups: dict[str, list[tuple[str, str]]] = {}  # reason: rows, each with the name of its file
        for row, message in self.skipped.items():
            file = re.match(r"(audio|image) .*?: ", message)
            reason = f"{file[1]}: {message[file.end() :]}" if file else message
            groups.setdefault(reason, []).append((row, f": {file[0][:-2]}" if file else ""))
        repeated = sorted((reason for reason in groups if len(groups[reason]) > 1), key=lambda kind: -len(groups[kind]))
        findings = {
            f"rows: {reason}": [f"{row}{file}" for row, file in groups.pop(reason)] for reason in repeated[:MAX_CASES]
        }
        if groups:
            others = [f"{row}: {self.skipped[row]}" for rows in groups.values() for row, _ in rows]
            number = "1 row" if len(others) == 1 else "rows"  # `list_findings` counts several
            findings[f"{number}: other reasons" if findings else number] = others
        return findings


def list_findings(title: str, findings: Findings, brief: Collection[str] = ()) -> Iterator[str]:
    """Yield lines: each finding with its count, the first cases of it, and how many more there are.

    A single case is one line, and so is a kind in `brief`, with the first case.
    """
    for kind, cases in findings.items():
        if len(cases) == 1:
            yield f"{title:9}{kind}: {cases[0]}"
            continue
        if kind in brief:
            yield f"{title:9}{len(cases):,} {kind}; the first: {cases[0]}"
            continue
        yield f"{title:9}{len(cases):,} {kind}"
        yield from (f"         - {case}" for case in cases[:MAX_CASES])
        if len(cases) > MAX_CASES:
            yield f"         and {len(cases) - MAX_CASES:,} more"
