"""SpokenCOCO and MSCOCO's pictures, in the layout of their archives.

    FOLDER/SpokenCOCO/SpokenCOCO_{train,val}.json          SpokenCOCO's own split
    FOLDER/SpokenCOCO/SpokenCOCO_ksplit_{train,val,test}.json   Karpathy's split, or
    FOLDER/SpokenCOCO/**/SpokenCOCO_{train,val,test}_unrolled_karpathy{,_with_alignments}.json
    FOLDER/SpokenCOCO/wavs/…
    FOLDER/SpokenCOCO/**/*alignment*.json                       word times, if they are there
    FOLDER/mscoco_img/{train2014,val2014}/COCO_….jpg            (** is this folder or one below)

A file holds {"data": [{"image", "captions": [{"text", "speaker", "uttid", "wav"}]}]}. A caption may have a
"text_alignment": the times of its words. VG-HuBERT's authors write one entry for each caption instead, {"image",
"caption": {...}, "text_alignment"}. SpokenCOCO's own split has no test set, so a hash divides the pictures of val: a
fifth go to development, the others to the test.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sclip.config import SpokenCocoConfig
from sclip.corpora.alignments import read_text_alignment, try_words
from sclip.corpora.listing import (
    Listing,
    PublishedCounts,
    fifth_to_dev,
    numbered_entries,
    require_fetched,
    split_of_pictures,
)
from sclip.corpora.rows import Draft
from sclip.errors import UserError
from sclip.parsing import shortened

ALIGNMENT = "text_alignment"
KARPATHY = PublishedCounts(pictures={"train": 113_287, "dev": 5_000, "test": 5_000})
# The names that a file may have. All but the first are those of VG-HuBERT's authors.
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "own": {"train": ("SpokenCOCO_train.json",), "val": ("SpokenCOCO_val.json",)},
    "karpathy": {
        split: (
            f"SpokenCOCO_ksplit_{name}.json",
            f"SpokenCOCO_{name}_unrolled_karpathy.json",
            f"SpokenCOCO_{name}_unrolled_karpathy_with_alignments.json",
        )
        for split, name in (("train", "train"), ("dev", "val"), ("test", "test"))
    },
}


def list_spokencoco(config: SpokenCocoConfig) -> Listing:
    """Read the corpus's JSON files. A row needs a picture in exactly one split."""
    folder = Path(config.path).resolve()
    listing = Listing(published=KARPATHY if config.split == "karpathy" else None)
    entries = [
        (fifth_to_dev(data["image"]) if part == "val" else part, where, data)
        for part, names in FILES[config.split].items()
        for where, data in _read(_find(folder / "SpokenCOCO", names, config.path))
    ]
    splits = split_of_pictures(((split, data["image"]) for split, _, data in entries), listing)
    for split, where, data in entries:
        if data["image"] not in splits:
            continue
        if not data["captions"]:
            listing.leave_out("pictures without a recording", data["image"])
        for caption in data["captions"]:
            row = {
                "id": caption["uttid"],
                "split": split,
                "audio": str(folder / "SpokenCOCO" / caption["wav"]),
                "image": str(folder / "mscoco_img" / data["image"]),
                "image_id": Path(data["image"]).stem,
                "text": caption["text"],
                "speaker": caption["speaker"],
            }
            listing.rows.append(Draft(where, row))
            if ALIGNMENT in caption:
                _add_alignment(caption, where, listing)
    _add_alignment_files(folder / "SpokenCOCO", listing)
    return listing


def _find(folder: Path, names: Sequence[str], path: str) -> Path:
    """Return the first file that exists in the folder or one folder below."""
    found = [file for name in names for file in (folder / name, *sorted(folder.glob(f"*/{name}"))) if file.exists()]
    if not found:
        require_fetched(folder / names[0], "spokencoco", path)
    return found[0]


def _add_alignment_files(folder: Path, listing: Listing) -> None:
    """Add the word times of files that have only these, for rows that have none yet."""
    ids = {draft.data["id"] for draft in listing.rows}
    for path in sorted((*folder.glob("*alignment*.json"), *folder.glob("*/*alignment*.json"))):
        for where, data in _read(path):
            for caption in data["captions"]:
                if ALIGNMENT in caption and caption["uttid"] in ids and caption["uttid"] not in listing.words:
                    _add_alignment(caption, where, listing)


def _add_alignment(caption: dict[str, str], where: str, listing: Listing) -> None:
    name = f"{where} ({caption['uttid']})"
    try_words(listing, caption["uttid"], read_text_alignment, caption[ALIGNMENT], name)


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each picture's place in the file and its checked entry."""
    for where, entry in numbered_entries(path):
        try:
            captions = entry["captions"] if "captions" in entry else [entry["caption"] | _alignment(entry)]
            picture = {"image": _text(entry, "image"), "captions": list(map(_caption, captions))}
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{where}: expected an image and captions of text, speaker, uttid, wav: {error!r}"
            ) from None
        yield where, picture


def _caption(data: dict[str, Any]) -> dict[str, str]:
    return {key: _text(data, key) for key in ("text", "speaker", "uttid", "wav")} | _alignment(data)


def _text(data: dict[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {shortened(value)}")
    return value


def _alignment(data: dict[str, Any]) -> dict[str, str]:
    """Return the alignment of a caption as a table, which is empty if there is none."""
    return {ALIGNMENT: _text(data, ALIGNMENT)} if data.get(ALIGNMENT) else {}
