"""A folder of pairs: recordings and pictures with the same name, in any folders below.

    FOLDER/train/a.wav  a.jpg                           a pair
    FOLDER/train/a.txt                                  its caption, if there is one; lines are joined
    FOLDER/train/a.TextGrid                             its word times, if there are any

A name ends before its last dot, and endings may be in capitals. Links to files and folders are followed. Hidden files,
such as the ._a.jpg of macOS, are left out.

A folder below FOLDER with the name of a split, also in capitals, decides the split of the pairs in it (`splits` may
translate names). If no pair is in such a folder, a hash of the picture's name assigns a tenth of the pictures to
development and a tenth to the test.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sclip.config import PairsConfig
from sclip.corpora.alignments import read_word_tier, try_words
from sclip.corpora.listing import Listing, find_split, split_by_hash
from sclip.corpora.rows import Draft
from sclip.errors import Problems, UserError, counted
from sclip.files import walk_folder
from sclip.parsing import read_text

ENDINGS = {
    "recordings": (".wav", ".flac", ".ogg", ".mp3"),
    "pictures": (".jpg", ".jpeg", ".png", ".webp"),
    "captions": (".txt",),
    "word times": (".textgrid",),
}
OUTSIDE = "pairs outside the folders train, dev and test, and of those that corpus.splits translates"


class _Pair(NamedTuple):
    """The files of a recording and its picture."""

    name: str
    recording: Path
    picture: Path
    caption: Path | None
    words: Path | None


def list_pairs(config: PairsConfig, problems: Problems) -> Listing:
    """Find the pairs. A recording or a picture without the other is left out, and so is a pair without a split."""
    folder, listing = Path(config.path).resolve(), Listing()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    pairs = _find_pairs(folder, listing, problems)
    splits = {pair.name: _split(pair.name, config.splits) for pair in pairs}
    has_split_folders = any(splits.values())
    for pair in pairs:
        if has_split_folders and splits[pair.name] is None:
            listing.leave_out(OUTSIDE, pair.name)
            continue
        try:
            caption = None if pair.caption is None else " ".join(read_text(pair.caption).split())
        except UserError as error:
            problems.add(pair.name, str(error))
            continue
        except OSError as error:
            problems.add(pair.name, f"{pair.caption}: cannot be read: {error.strerror}")
            continue
        row = {
            "id": pair.name,
            "split": splits[pair.name] or split_by_hash(pair.name),
            "audio": str(pair.recording),
            "image": str(pair.picture),
            "image_id": pair.name,
            "text": caption,
        }
        listing.rows.append(Draft(pair.name, row))
        if pair.words is not None:
            try_words(listing, pair.name, read_word_tier, pair.words)
    return listing


def _find_pairs(folder: Path, listing: Listing, problems: Problems) -> list[_Pair]:
    """Return the pairs, and record the files that belong to none."""
    groups = _group_files(folder)
    pairs = []
    for name, files in groups.items():
        several = next((paths for paths in files.values() if len(paths) > 1), None)
        first = {kind: paths[0] for kind, paths in files.items()}
        if not _is_unicode(name):
            problems.add(name, "the name is not UTF-8, which a manifest needs; rename the files")
        elif several is not None:
            names = " and ".join(path.name for path in several)
            problems.add(name, f"{names} have the same name; leave one, or give each a pair of its own")
        elif "recordings" in files and "pictures" in files:
            pairs.append(
                _Pair(name, first["recordings"], first["pictures"], first.get("captions"), first.get("word times"))
            )
        elif "recordings" in files:
            listing.leave_out("recordings without a picture", str(first["recordings"].relative_to(folder)))
        elif "pictures" in files:
            listing.leave_out("pictures without a recording", str(first["pictures"].relative_to(folder)))
        else:
            for path in first.values():
                listing.note("text files and TextGrids without a pair", str(path.relative_to(folder)))
    if not pairs and not problems.skipped:
        recordings, pictures = (sum(kind in files for files in groups.values()) for kind in ("recordings", "pictures"))
        raise UserError(
            f"{folder}: no pairs: found {counted(recordings, 'recordings')} and {counted(pictures, 'pictures')}; "
            "expected files with the same name side by side, such as a.wav and a.jpg; if your names differ, write a "
            "table (`kind: table`)"
        )
    return pairs


def _group_files(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Return the files of each name, by what their endings stand for. Other files are left out."""
    kinds = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
    groups: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(map(Path, walk_folder(str(folder)))):
        kind = kinds.get(path.suffix.lower())
        if kind is not None and (path.is_file() or not path.exists()):  # a pipe would be read for ever
            groups.setdefault(str(path.relative_to(folder).with_suffix("")), {}).setdefault(kind, []).append(path)
    return groups


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _split(name: str, splits: Mapping[str, str]) -> str | None:
    """Return the split that a folder of this name decides, if any: that of the outermost one."""
    found = (find_split(part, splits) for part in Path(name).parts[:-1])
    return next(filter(None, found), None)
