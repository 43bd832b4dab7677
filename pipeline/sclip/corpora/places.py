"""The Places Audio Captions (400k, English) and the pictures of Places205, in the layout of their archives.

    FOLDER/metadata/{train,dev_seen,dev_unseen,test_seen,test_unseen}_2020.json     the splits of 2020, or
    FOLDER/metadata/{train,val}.json                                                the original split
    FOLDER/PlacesAudio_400k_distro/wavs/…
    FOLDER/images/a/abbey/….jpg          also in PlacesAudio_400k_distro/, or as the archive unpacks, in data/vision/…

metadata/ may be in FOLDER, in PlacesAudio_400k_distro/ or in placesaudio_2020_splits/. A file holds {"data": [{"uttid",
"speaker", "asr_text", "wav", "image"}]}. The captions are the output of a speech recogniser. The speakers of `seen` are
in the training set, those of `unseen` are not. The original split has no test set, so a hash divides the pictures of
val: a fifth go to development, the others to the test.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sclip.config import PlacesConfig
from sclip.corpora.listing import Listing, fifth_to_dev, numbered_entries, require_fetched, split_of_pictures
from sclip.corpora.rows import Draft
from sclip.errors import UserError

RECORDINGS = "PlacesAudio_400k_distro"
METADATA = ("metadata", f"{RECORDINGS}/metadata", "placesaudio_2020_splits", "placesaudio_2020_splits/metadata")
PICTURES = ("images", f"{RECORDINGS}/images", "data/vision/torralba/deeplearning/images256")
KEYS = ("uttid", "speaker", "wav", "image")


def list_places(config: PlacesConfig) -> Listing:
    """Read the corpus's JSON files. A row needs a picture in exactly one split."""
    folder = Path(config.path).resolve()
    if config.split == "original":
        files = {"train": "train.json", "val": "val.json"}
    else:
        files = {"train": "train_2020.json"} | {part: f"{part}_{config.split}_2020.json" for part in ("dev", "test")}
    places = (folder / place for place in METADATA)
    metadata = next((place for place in places if (place / files["train"]).is_file()), folder / METADATA[0])
    require_fetched(metadata / files["train"], "places", config.path)
    pictures = next((folder / name for name in PICTURES if (folder / name).exists()), None)
    if pictures is None:
        raise UserError(
            f"{folder / PICTURES[0]}: no such folder; `sclip fetch places {config.path} pictures` says where to get "
            "those of Places205, which you unpack there"
        )
    listing = Listing()
    entries = [
        (fifth_to_dev(entry["image"]) if part == "val" else part, where, entry)
        for part, name in files.items()
        for where, entry in _read(metadata / name)
    ]
    splits = split_of_pictures(((split, entry["image"]) for split, _, entry in entries), listing)
    for split, where, entry in entries:
        if entry["image"] in splits:
            row = {
                "id": entry["uttid"],
                "split": split,
                "audio": str(folder / RECORDINGS / entry["wav"]),
                "image": str(pictures / entry["image"]),
                "image_id": str(Path(entry["image"]).with_suffix("")),
                "text": entry.get("asr_text") or None,
                "speaker": entry["speaker"],
            }
            listing.rows.append(Draft(where, row))
    return listing


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each utterance's place in a file and its entry."""
    for where, entry in numbered_entries(path):
        missing = [key for key in KEYS if not isinstance(entry, dict) or not isinstance(entry.get(key), str)]
        if missing:
            raise UserError(f"{where}: expected texts {', '.join(KEYS)}, found no {missing[0]}")
        yield where, entry
