"""Flickr8k and the recordings of the Flickr Audio Caption Corpus, in the layout of their archives.

FOLDER/Images/NAME.jpg                          or Flicker8k_Dataset/, the archive's own spelling
FOLDER/Flickr_8k.{train,dev,test}Images.txt     one NAME.jpg per line
FOLDER/Flickr8k.token.txt                       NAME.jpg#N<tab>caption, or
FOLDER/captions.txt                             image,caption below a header; a picture's captions in order
FOLDER/flickr_audio/wav2capt.txt                NAME_N.wav NAME.jpg #N
FOLDER/flickr_audio/wav2spk.txt                 NAME_N.wav SPEAKER
FOLDER/flickr_audio/wavs/NAME_N.wav
FOLDER/Flickr_8k.ctm                            NAME.jpg_#N CHANNEL START DURATION WORD, if there are word times;
                                                also as flickr_8k.ctm, and in flickr_audio/
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sclip.config import Flickr8kConfig
from sclip.corpora.alignments import read_ctm
from sclip.corpora.listing import (
    Listing,
    PublishedCounts,
    first_existing,
    numbered_lines,
    require_fetched,
    split_of_pictures,
)
from sclip.corpora.rows import SPLITS, Draft, TimedWords
from sclip.errors import UserError
from sclip.parsing import csv_records

PUBLISHED = PublishedCounts(
    pictures={"train": 6_000, "dev": 1_000, "test": 1_000},
    utterances={"train": 30_000, "dev": 5_000, "test": 5_000},
)

ALIGNMENTS = ("Flickr_8k.ctm", "flickr_8k.ctm")
NUMBER = "[0-9]{1,9}"  # of a caption

Caption = tuple[str, int]  # a picture's file, and the caption's number, from 0


def list_flickr8k(config: Flickr8kConfig) -> Listing:
    """Read the corpus's lists. A row needs a caption, its recording, and a picture in exactly one split."""
    folder = Path(config.path).resolve()
    require_fetched(folder / "Flickr_8k.trainImages.txt", "flickr8k", config.path)
    audio, images = folder / "flickr_audio", first_existing(folder, ["Images", "Flicker8k_Dataset"])
    listing = Listing(published=PUBLISHED)
    uses = [(split, line) for split in SPLITS for _, line in numbered_lines(folder / f"Flickr_8k.{split}Images.txt")]
    splits = split_of_pictures(uses, listing)
    captions = dict(_captions(folder))
    speakers = {recording: speaker for _, (recording, speaker) in _fields(audio / "wav2spk.txt", 2)}
    recordings: dict[Caption, str] = {}
    for where, caption, recording in _spoken_captions(audio / "wav2capt.txt"):
        picture, _ = caption
        recordings[caption] = recording
        if picture not in splits:
            listing.leave_out("recordings of a picture in no split", recording, harmless=True)
        elif caption not in captions:
            listing.leave_out("recordings without a caption", recording)
        else:
            row = {
                "id": Path(recording).stem,
                "split": splits[picture],
                "audio": str(audio / "wavs" / recording),
                "image": str(images / picture),
                "image_id": Path(picture).stem,
                "text": captions[caption],
                "speaker": speakers.get(recording),
            }
            listing.rows.append(Draft(where, row))
    listing.words = _word_times(folder)
    for picture, number in sorted(captions.keys() - recordings.keys()):
        listing.leave_out("captions without a recording", f"{picture}#{number}")
    for name in sorted(_files(audio / "wavs", "*.wav") - set(recordings.values())):
        listing.leave_out("recordings without a caption", name)
    for name in sorted(_files(images, "*.jpg") - {picture for _, picture in uses}):
        listing.leave_out("pictures in no split", name, harmless=True)  # the published corpus has such pictures
    return listing


def _spoken_captions(path: Path) -> Iterator[tuple[str, Caption, str]]:
    """Yield each line's place, caption and recording."""
    for where, (recording, picture, mark) in _fields(path, 3):
        if not re.fullmatch(f"#{NUMBER}", mark):
            raise UserError(f"{where}: expected a caption's number, such as #0, found {mark!r}")
        yield where, (picture, int(mark.removeprefix("#"))), recording


def _word_times(folder: Path) -> dict[str, TimedWords]:
    """Return the words of each recording that the CTM file has; its utterance NAME.jpg_#N is the recording NAME_N."""
    places = [folder / subfolder / name for subfolder in ("", "flickr_audio") for name in ALIGNMENTS]
    for path in places:
        if path.is_file():
            return {re.sub(r"\.jpg_#(\d+)$", r"_\1", name): words for name, words in read_ctm(path).items()}
    return {}


def _files(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def _captions(folder: Path) -> Iterator[tuple[Caption, str]]:
    """Yield each caption and its text."""
    path = first_existing(folder, ["Flickr8k.token.txt", "captions.txt"])
    return _captions_of_csv(path) if path.name == "captions.txt" else _captions_of_tokens(path)


def _captions_of_csv(path: Path) -> Iterator[tuple[Caption, str]]:
    counts: Counter[str] = Counter()
    for number, fields in csv_records(path):
        if number == 1 or not fields:
            continue  # the header, or an empty line
        if len(fields) != 2:
            raise UserError(f"{path.name} line {number}: expected a picture and a caption, found {fields}")
        picture, text = fields
        yield (picture, counts[picture]), text.strip()
        counts[picture] += 1


def _captions_of_tokens(path: Path) -> Iterator[tuple[Caption, str]]:
    for where, line in numbered_lines(path):
        name, tab, text = line.partition("\t")
        picture, mark, number = name.rpartition("#")
        if not tab or not mark or not re.fullmatch(NUMBER, number):
            raise UserError(f"{where}: expected NAME.jpg#N, a tab and a caption, found {line!r}")
        yield (picture, int(number)), text.strip()


def _fields(path: Path, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each line's place and its fields, which must be `count`."""
    for where, line in numbered_lines(path):
        fields = tuple(line.split())
        if len(fields) != count:
            raise UserError(f"{where}: expected {count} fields, found {line!r}")
        yield where, fields
