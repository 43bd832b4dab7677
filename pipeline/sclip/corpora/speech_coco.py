"""SPEECH-COCO: MSCOCO's captions in eight synthetic voices, in the layout of its archives.

    FOLDER/{train2014,val2014}/json/NAME.json         also below CORPUS-MSCOCO/
    FOLDER/{train2014,val2014}/wav/NAME.wav
    FOLDER/mscoco_img/{train2014,val2014}/COCO_{train2014,val2014}_….jpg

NAME is IMAGE_CAPTION_SPEAKER_DISFLUENCY_SPEED. A JSON file holds "imgID", "synthesisedCaption" (with its disfluencies),
"speaker", "wavFilename" and "timecode": [[milliseconds, kind, value], …] of words, syllables, phones and silences. The
corpus has no test set, so a hash divides the pictures of val: a fifth go to development, the others to the test.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sclip.concurrency import chunks, prefetch_batches
from sclip.config import SpeechCocoConfig
from sclip.corpora.alignments import timed_words, try_words
from sclip.corpora.listing import Listing, fifth_to_dev, require_fetched
from sclip.corpora.rows import Draft, TimedWords
from sclip.errors import Problems, UserError
from sclip.parsing import read_json, shortened

PARTS = ("train2014", "val2014")
KEYS = ("imgID", "synthesisedCaption", "speaker", "wavFilename")


def list_speech_coco(config: SpeechCocoConfig, problems: Problems) -> Listing:
    """Read the JSON file of each recording."""
    folder, listing = Path(config.path).resolve(), Listing()
    recordings = folder / "CORPUS-MSCOCO" if (folder / "CORPUS-MSCOCO").is_dir() else folder
    for part in PARTS:
        require_fetched(recordings / part / "json", "speech-coco", config.path)
        named: set[str] = set()
        for batch, entries in prefetch_batches(chunks(sorted((recordings / part / "json").glob("*.json")), 256), _read):
            for path, entry in zip(batch, entries, strict=True):
                where = f"{part}/json/{path.name}"
                if isinstance(entry, UserError):
                    problems.add(where, str(entry))
                    continue
                named.add(entry["wavFilename"])
                row = _row(entry, part, recordings, folder / "mscoco_img")
                listing.rows.append(Draft(where, row))
                try_words(listing, row["id"], _words, entry, where)
        for recording in sorted({path.name for path in (recordings / part / "wav").glob("*.wav")} - named):
            listing.leave_out("recordings without a JSON file", recording)
    return listing


def _read(path: Path) -> dict[str, Any] | UserError:
    try:
        entry = read_json(path)
    except UserError as error:
        return error
    if not isinstance(entry, dict) or not all(entry.get(key) for key in KEYS):
        return UserError(f"expected {', '.join(KEYS)}, found {shortened(entry)}")
    if not all(isinstance(entry[key], str) for key in KEYS[1:]) or not re.fullmatch(r"\d{1,12}", str(entry["imgID"])):
        return UserError(f"expected the number imgID and texts {', '.join(KEYS[1:])}, found {shortened(entry)}")
    return entry


def _row(entry: dict[str, Any], part: str, recordings: Path, pictures: Path) -> dict[str, Any]:
    picture = f"COCO_{part}_{int(entry['imgID']):012}"
    return {
        "id": Path(entry["wavFilename"]).stem,
        "split": "train" if part == "train2014" else fifth_to_dev(picture),
        "audio": str(recordings / part / "wav" / entry["wavFilename"]),
        "image": str(pictures / part / f"{picture}.jpg"),
        "image_id": picture,
        "text": entry["synthesisedCaption"].strip(),
        "speaker": entry["speaker"],
    }


def _words(entry: dict[str, Any], where: str) -> TimedWords:
    """Return the words of a timecode. A word ends at the syllable mark before the next word, or before a silence."""
    words: list[tuple[str, float, float]] = []
    word: tuple[str, float] | None = None
    syllable = phone = 0.0
    is_empty = True  # the syllable so far

    def end_word(time: float) -> None:
        if word is not None and time > word[1]:
            words.append((word[0], word[1] / 1000, time / 1000))

    for time, kind, value in _timecode(entry, where):
        if kind == "WORD":
            end_word(syllable)
            word = (value, time)
        elif kind == "SYL":
            syllable, is_empty = time, True
        elif kind == "PHO":
            phone, is_empty = time, False
        elif kind == "SIL":  # the time is the silence's end; a silence inside a syllable is its last phone
            end_word(time if is_empty else phone)
            word = None
    end_word(syllable)
    return timed_words(words)


def _timecode(entry: dict[str, Any], where: str) -> Sequence[tuple[float, str, str]]:
    try:
        return [(float(time), str(kind), str(value)) for time, kind, value in entry.get("timecode") or ()]
    except (TypeError, ValueError):
        raise UserError(f"{where}: timecode: expected [[milliseconds, kind, value], ...]") from None
