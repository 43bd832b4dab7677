"""SpokenCOCO and MSCOCO's pictures, in the layout of their archives.

    FOLDER/SpokenCOCO/SpokenCOCO_{train,val}.json          SpokenCOCO's own split
    FOLDER/SpokenCOCO/SpokenCOCO_ksplit_{train,val,test}.json   Karpathy's split
    FOLDER/SpokenCOCO/wavs/…
    FOLDER/mscoco_img/{train2014,val2014}/COCO_….jpg

A file holds {"data": [{"image", "captions": [{"text", "speaker", "uttid", "wav"}]}]}. SpokenCOCO's own split has no
test set, so a hash divides the pictures of val: a fifth go to development, the others to the test.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from sclip.config import SpokenCocoConfig
from sclip.corpora.listing import Listing, PublishedCounts, require_fetched, split_of_pictures
from sclip.corpora.manifest import Draft
from sclip.errors import UserError
from sclip.parsing import read_json

KARPATHY = PublishedCounts(pictures={"train": 113_287, "dev": 5_000, "test": 5_000})
FILES = {
    "own": {"train": "SpokenCOCO_train.json", "val": "SpokenCOCO_val.json"},
    "karpathy": {
        "train": "SpokenCOCO_ksplit_train.json",
        "dev": "SpokenCOCO_ksplit_val.json",
        "test": "SpokenCOCO_ksplit_test.json",
    },
}


def list_spokencoco(config: SpokenCocoConfig) -> Listing:
    """Read the corpus's JSON files. A row needs a picture in exactly one split."""
    folder = Path(config.path).resolve()
    require_fetched(folder / "SpokenCOCO" / next(iter(FILES[config.split].values())), "spokencoco", config.path)
    listing = Listing(published=KARPATHY if config.split == "karpathy" else None)
    entries = [
        (_split(part, data["image"]), where, data)
        for part, name in FILES[config.split].items()
        for where, data in _read(folder / "SpokenCOCO" / name)
    ]
    pictures = {
        split: [data["image"] for of_split, _, data in entries if of_split == split]
        for split in ("train", "dev", "test")
    }
    splits = split_of_pictures(pictures, listing)
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
    return listing


def _split(part: str, image: str) -> str:
    """Return the split of a picture in a file: val is divided, the others are splits themselves."""
    if part != "val":
        return part
    return "dev" if sha256(image.encode()).digest()[0] < 256 / 5 else "test"


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each picture's place in the file and its checked entry."""
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise UserError(f"{path}: expected {{'data': [...]}}")
    for number, entry in enumerate(data["data"]):
        where = f"{path.name} data[{number}]"
        try:
            picture = {"image": entry["image"], "captions": list(map(_caption, entry["captions"]))}
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{where}: expected an image and captions of text, speaker, uttid, wav: {error!r}"
            ) from None
        yield where, picture


def _caption(data: dict[str, Any]) -> dict[str, str]:
    return {key: data[key] for key in ("text", "speaker", "uttid", "wav")}
