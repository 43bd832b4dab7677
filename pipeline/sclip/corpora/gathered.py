"""What a corpus's own files say, before any recording or picture is looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sclip.corpora.manifest import SPLITS, Draft
from sclip.errors import UserError
from sclip.parsing import read_text


@dataclass(frozen=True)
class Expected:
    """What a published corpus has, whole, in each split."""

    pictures: dict[str, int]
    utterances: dict[str, int] | None = None


@dataclass
class Gathered:
    rows: list[Draft] = field(default_factory=list)  # utterances, their paths absolute
    left_out: dict[str, list[str]] = field(default_factory=dict)  # why: what
    expected: Expected | None = None

    def leave_out(self, why: str, what: str) -> None:
        self.left_out.setdefault(why, []).append(what)


def split_of_pictures(pictures: Mapping[str, Sequence[str]], gathered: Gathered) -> dict[str, str]:
    """The split of each picture, out of the pictures of each split. One that is in two belongs to none."""
    splits: dict[str, list[str]] = {}
    for split in SPLITS:
        for picture in dict.fromkeys(pictures[split]):
            splits.setdefault(picture, []).append(split)
    for picture, found in splits.items():
        if len(found) > 1:
            gathered.leave_out("pictures in two splits", f"{picture} ({', '.join(found)})")
    return {picture: found[0] for picture, found in splits.items() if len(found) == 1}


def require_fetched(path: Path, corpus: str, folder: str) -> None:
    """Refuse a corpus without one of its files, and name the command that downloads the corpus into its folder."""
    if not path.exists():
        raise UserError(
            f"{path}: no such file; `sclip fetch {corpus} {folder}` downloads the corpus. If you have it, set the "
            "preset's corpus.path to its folder"
        )


def first_of(folder: Path, names: Sequence[str]) -> Path:
    """The first that is there."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder / names[0]}: no such file" + "".join(f", nor {name}" for name in names[1:]))


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, whatever ends them, and where each stands."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name} line {number}", line.strip()
