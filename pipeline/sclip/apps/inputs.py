"""The files that a command is given: folders, patterns and lists, as single files without duplicates.

- A folder gives the pictures or recordings in it and below it. Hidden files are left out.
- A pattern such as `'photos/**/*.png'` gives what it matches; most shells expand patterns themselves.
- `@list.txt` gives the files that the list names, one a line. A relative name starts at the list's folder.
- Any other argument is a file, whatever its name ends with.
"""

import glob
import hashlib
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sclip.errors import UserError, counted
from sclip.files import missing_file_reason, walk_folder
from sclip.parsing import read_text

if TYPE_CHECKING:
    from sclip.model.inputs import AudioInput

STANDARD_INPUT = "-"
STANDARD_INPUT_NAME = "standard input"  # in messages and results
MOST_BYTES = 2**29  # of a recording on standard input
Kind = Literal["image", "audio"]
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    "audio": (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav", ".wave"),
}
NOUNS: dict[str, str] = {"image": "pictures", "audio": "recordings", "text": "sentences"}
UNKNOWN = -1  # size and time of a file that is to be read again, such as one that does not exist


@dataclass(frozen=True, slots=True)
class Item:
    """A file or a sentence, with what tells whether it has changed."""

    name: str
    size: int = UNKNOWN
    mtime: int = UNKNOWN  # in nanoseconds; for a sentence, a hash of its text
    text: str | None = None


@dataclass(frozen=True)
class Listing:
    """Files of one kind, each once."""

    kind: Kind
    files: list[str]  # absolute paths


def list_files(arguments: Sequence[str | Path] | str | Path, kind: Kind | None = None) -> Listing:
    """List the files that arguments name. Without `kind`, the suffixes of all files must agree on one."""
    if isinstance(arguments, str | Path):
        arguments = [arguments]
    if kind is not None and kind not in SUFFIXES:
        raise UserError(f"kind: expected one of {', '.join(SUFFIXES)}, found {kind!r}")
    found = _expanded(arguments)
    nouns, endings = "pictures or recordings", SUFFIXES["image"] + SUFFIXES["audio"]
    if kind is not None:
        nouns, endings = NOUNS[kind], SUFFIXES[kind]
    kind = kind or _common_kind(found)
    files = [path for path, explicit in found if explicit or kind_of(path) == kind]
    if not files:
        places = ", ".join(map(str, arguments[:3])) + (", …" if len(arguments) > 3 else "")
        raise UserError(f"{places or 'no files were given'}: no {nouns} there; expected one of {' '.join(endings)}")
    return Listing(kind, files)


def file_items(files: Sequence[str]) -> list[Item]:
    """Return files with their sizes and times. A file that does not exist is reported when it is read."""
    return [_file_item(name) for name in files]


def _file_item(name: str) -> Item:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return Item(name)
    return Item(name, status.st_size, status.st_mtime_ns)


def sentence_items(arguments: Sequence[str | Path] | str | Path) -> list[Item]:
    """Return the sentences of text files, one a line, named FILE:LINE. Empty lines are left out."""
    arguments = [arguments] if isinstance(arguments, str | Path) else arguments
    items = []
    for path, explicit in _expanded(arguments):
        if explicit or path.endswith(".txt"):
            for number, line in enumerate(read_text(Path(path)).split("\n"), 1):
                if text := line.strip():
                    mtime = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
                    items.append(Item(f"{path}:{number}", len(text), mtime, text))
    if not items:
        raise UserError(f"{', '.join(map(str, arguments)) or 'no files were given'}: no sentences there")
    return items


def kind_of(path: str) -> Kind | None:
    """Return which kind of file a name's suffix stands for."""
    suffix = os.path.splitext(path)[1].lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), None)


def _expand(argument: str | Path) -> Iterator[tuple[str, bool]]:
    """Yield the files of an argument, and whether each was named itself, not only the folder that it is in."""
    name = str(argument)
    if name.startswith("@"):
        yield from _read_list(name[1:])
    elif os.path.isdir(name):
        yield from ((path, False) for path in walk_folder(name))
    elif os.path.lexists(name) or not glob.has_magic(name):
        if not os.path.exists(name):
            raise UserError(f"{name}: {missing_file_reason(name, 'file or folder')}")
        yield name, True
    else:
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise UserError(f"{name}: no file matches this pattern")
        for match in matches:
            yield from ((path, False) for path in walk_folder(match)) if os.path.isdir(match) else [(match, True)]


def _read_list(name: str) -> Iterator[tuple[str, bool]]:
    """Yield the files that a list names. One that does not exist is reported later, with the files that are damaged."""
    try:
        with open(name, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise UserError(f"@{name}: the list cannot be read: {error.strerror}") from None
    for line in filter(str.strip, lines):
        if "\0" in line:
            raise UserError(f"@{name}: not a list of files; expected one name a line")
        path = os.path.join(os.path.dirname(name), line)
        yield from ((below, False) for below in walk_folder(path)) if os.path.isdir(path) else [(path, True)]


def _expanded(arguments: Sequence[str | Path]) -> list[tuple[str, bool]]:
    """Return each file of the arguments once, by its absolute path, and whether it was named itself at least once.

    A file with several names, such as a link, has the first of them.
    """
    first: dict[str, str] = {}
    explicit: set[str] = set()
    for name, is_explicit in (entry for argument in arguments for entry in _expand(argument)):
        real = os.path.realpath(name)
        first.setdefault(real, os.path.abspath(name))
        if is_explicit:
            explicit.add(real)
    return [(path, real in explicit) for real, path in first.items()]


def _common_kind(found: Sequence[tuple[str, bool]]) -> Kind:
    """Return the kind of most suffixes, and refuse a mixture."""
    counts = Counter(kind for path, _ in found if (kind := kind_of(path)) is not None)
    if len(counts) > 1:
        raise UserError(
            f"found {counted(counts['image'], 'pictures')} and {counted(counts['audio'], 'recordings')}; give "
            "--kind image or --kind audio"
        )
    if not counts and any(explicit for _, explicit in found):
        path = next(path for path, explicit in found if explicit)
        raise UserError(
            f"{path}: its name does not say whether it is a picture or a recording; give --kind image or --kind audio"
            " (a list of files is given as @LIST)"
        )
    return next(iter(counts), "image")


def check_standard_input(items: Sequence[object]) -> None:
    """Refuse to read standard input twice."""
    if sum(isinstance(item, str) and item == STANDARD_INPUT for item in items) > 1:
        raise UserError("-: standard input can only be read once")


def read_standard_input() -> "AudioInput":
    """Decode the recording on standard input. A pipe's wav file need not say how long it is."""
    import numpy as np

    from sclip.encoders.audio import BLOCK, check_header, open_audio, read_blocks
    from sclip.model.inputs import AudioInput

    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MOST_BYTES + 1)  # None: the shell has closed it
    if len(data) > MOST_BYTES:
        raise UserError(f"standard input: expected at most {MOST_BYTES / 2**20:.0f} MiB of a recording")
    if not data:
        raise UserError("standard input: found nothing; expected a recording, such as wav, flac, ogg or mp3")
    with open_audio(io.BytesIO(data), STANDARD_INPUT_NAME) as opened:
        check_header(opened.frames, opened.samplerate, STANDARD_INPUT_NAME)
        blocks = list(read_blocks(opened, BLOCK, STANDARD_INPUT_NAME))
        return AudioInput(np.concatenate([np.empty(0, np.float32), *blocks]), opened.samplerate, STANDARD_INPUT_NAME)
