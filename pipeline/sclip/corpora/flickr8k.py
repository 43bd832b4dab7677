"""Flickr8k and the recordings of the Flickr Audio Caption Corpus, as they are unpacked.

FOLDER/Images/NAME.jpg                          or Flicker8k_Dataset/, as its archive spells it
FOLDER/Flickr_8k.{train,dev,test}Images.txt     NAME.jpg a line
FOLDER/Flickr8k.token.txt                       NAME.jpg#N<tab>caption, or
FOLDER/captions.txt                             image,caption under that heading, a picture's captions in order
FOLDER/flickr_audio/wav2capt.txt                NAME_N.wav NAME.jpg #N
FOLDER/flickr_audio/wav2spk.txt                 NAME_N.wav SPEAKER
FOLDER/flickr_audio/wavs/NAME_N.wav
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from sclip.config import Flickr8kConfig
from sclip.corpora.gathered import Expected, Gathered, first_of, lines_of, require_fetched, split_of_pictures
from sclip.corpora.manifest import SPLITS, Draft
from sclip.errors import UserError
from sclip.parsing import read_text

EXPECTED = Expected(
    pictures={"train": 6_000, "dev": 1_000, "test": 1_000},
    utterances={"train": 30_000, "dev": 5_000, "test": 5_000},
)

Caption = tuple[str, int]  # a picture's file, and which of its captions, from 0


def gather_flickr8k(config: Flickr8kConfig) -> Gathered:
    folder = Path(config.path).resolve()
    require_fetched(folder / "Flickr_8k.trainImages.txt", "flickr8k", config.path)
    audio, images = folder / "flickr_audio", first_of(folder, ["Images", "Flicker8k_Dataset"])
    gathered = Gathered(expected=EXPECTED)
    listed = {split: [line for _, line in lines_of(folder / f"Flickr_8k.{split}Images.txt")] for split in SPLITS}
    splits = split_of_pictures(listed, gathered)
    captions = dict(_captions(folder))
    speakers = {recording: speaker for _, (recording, speaker) in _fields(audio / "wav2spk.txt", 2)}
    spoken: dict[Caption, str] = {}
    for where, (recording, picture, mark) in _fields(audio / "wav2capt.txt", 3):
        if not re.fullmatch(r"#\d+", mark):
            raise UserError(f"{where}: expected a caption's number, such as #0, found {mark!r}")
        caption = (picture, int(mark.removeprefix("#")))
        spoken[caption] = recording
        if picture not in splits:
            gathered.leave_out("recordings of a picture in no split", recording)
        elif caption not in captions:
            gathered.leave_out("recordings of no caption", recording)
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
            gathered.rows.append(Draft(where, row))
    for picture, number in captions.keys() - spoken.keys():
        gathered.leave_out("captions that nobody speaks", f"{picture}#{number}")
    for name in _files(audio / "wavs", "*.wav") - set(spoken.values()):
        gathered.leave_out("recordings of no caption", name)
    for name in _files(images, "*.jpg") - {picture for pictures in listed.values() for picture in pictures}:
        gathered.leave_out("pictures in no split", name)
    return gathered


def _files(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def _captions(folder: Path) -> Iterator[tuple[Caption, str]]:
    path = first_of(folder, ["Flickr8k.token.txt", "captions.txt"])
    if path.name == "captions.txt":
        seen: Counter[str] = Counter()
        reader = csv.reader(StringIO(read_text(path)))
        for fields in reader:
            if reader.line_num == 1 or not fields:
                continue  # the header; an empty line
            if len(fields) != 2:
                raise UserError(f"{path.name} line {reader.line_num}: expected a picture and a caption, found {fields}")
            picture, text = fields
            yield (picture, seen[picture]), text.strip()
            seen[picture] += 1
        return
    for where, line in lines_of(path):
        name, tab, text = line.partition("\t")
        picture, mark, number = name.rpartition("#")
        if not tab or not mark or not number.isdigit():
            raise UserError(f"{where}: expected NAME.jpg#N, a tab and a caption, found {line!r}")
        yield (picture, int(number)), text.strip()


def _fields(path: Path, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for where, line in lines_of(path):
        fields = tuple(line.split())
        if len(fields) != count:
            raise UserError(f"{where}: expected {count} fields, found {line!r}")
        yield where, fields
