"""A folder of pairs: recordings and pictures with the same name, in any folders below.

    FOLDER/train/a.wav  a.jpg                           a pair
    FOLDER/train/a.txt                                  its caption, if there is one
    FOLDER/train/a.TextGrid                             its word times, if there are any

A folder below FOLDER with the name of a split (`splits` may translate it) decides the split of what is in it. If no
folder has such a name, a hash of the picture's name assigns a tenth of the pictures to development and a tenth to the
test.
"""

from collections.abc import Mapping
from pathlib import Path

from sclip.config import PairsConfig
from sclip.corpora.alignments import read_word_tier, try_words
from sclip.corpora.listing import Listing, split_by_hash
from sclip.corpora.manifest import SPLITS, Draft
from sclip.errors import Problems, UserError
from sclip.parsing import read_text

RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def list_pairs(config: PairsConfig, problems: Problems) -> Listing:
    """Find the pairs. A recording or a picture without the other is left out, and so is a pair without a split."""
    folder, listing = Path(config.path).resolve(), Listing()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files: dict[str, dict[str, Path]] = {}  # of each name: the path of each ending
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files.setdefault(str(path.relative_to(folder).with_suffix("")), {})[path.suffix] = path
    splits = {name: _split(name, config.splits) for name in files}
    for name, endings in files.items():
        recordings = [path for ending, path in endings.items() if ending.lower() in RECORDINGS]
        pictures = [path for ending, path in endings.items() if ending.lower() in PICTURES]
        if len(recordings) > 1 or len(pictures) > 1:
            several = " and ".join(path.name for path in (recordings if len(recordings) > 1 else pictures))
            problems.add(name, f"{several} have the same name; leave one, or give each a pair of its own")
        elif recordings and not pictures:
            listing.leave_out("recordings without a picture", str(recordings[0].relative_to(folder)))
        elif pictures and not recordings:
            listing.leave_out("pictures without a recording", str(pictures[0].relative_to(folder)))
        elif recordings and any(splits.values()) and splits[name] is None:
            listing.leave_out("pairs outside the folders of the splits", name)
        elif recordings:
            try:
                caption = " ".join(read_text(endings[".txt"]).split()) if ".txt" in endings else None
            except UserError as error:
                problems.add(name, str(error))
                continue
            row = {
                "id": name,
                "split": splits[name] or split_by_hash(name),
                "audio": str(recordings[0]),
                "image": str(pictures[0]),
                "image_id": name,
                "text": caption,
            }
            listing.rows.append(Draft(name, row))
            if ".TextGrid" in endings:
                try_words(listing, name, read_word_tier, endings[".TextGrid"])
    return listing


def _split(name: str, splits: Mapping[str, str]) -> str | None:
    """Return the split that a folder of this name decides, if any: that of the outermost one."""
    named = dict(zip(SPLITS, SPLITS, strict=True)) | dict(splits)
    return next((named[part] for part in Path(name).parts[:-1] if part in named), None)
