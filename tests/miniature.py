"""The corpora that sclip reads, with a few pictures, laid out as published, odd cases included."""

import json
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

PICTURES = {"train": 6, "dev": 3, "test": 4}
WORDS = ["a", "brown", "dog", "runs", "along", "the", "beach", "while", "two", "children", "play", "in", "snow"]
_seeds = count()


def wav(path: Path, seconds: float = 0.4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(next(_seeds)).standard_normal(int(16_000 * seconds)) / 10
    soundfile.write(path, noise, 16_000, subtype="PCM_16")


def jpg(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(_seeds)).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def caption(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, 6)) + " ."


def flickr8k(
    folder: Path, captions: str = "Flickr8k.token.txt", odd: bool = False, seconds: Sequence[float] = (0.4,)
) -> None:
    """`seconds`: recordings' lengths, in turn. `odd`: the captions' file has CRLF, one recording no caption and one
    caption no recording, one picture is in no split and one in two, one file is missing, one recording is there
    twice."""
    audio = folder / "flickr_audio"
    spoken, speakers, written = [], [], []
    lengths = cycle(seconds)
    for i, (split, number) in enumerate((split, n) for split, total in PICTURES.items() for n in range(total)):
        name = f"{split}{number}_abc"
        jpg(folder / "Images" / f"{name}.jpg")
        for k in range(5):
            wav(audio / "wavs" / f"{name}_{k}.wav", next(lengths))
            spoken.append(f"{name}_{k}.wav {name}.jpg #{k}")
            speakers.append(f"{name}_{k}.wav {i % 3}")
            written.append((f"{name}.jpg", k, caption(10 * i + k)))
    splits = {split: [f"{split}{n}_abc.jpg" for n in range(total)] for split, total in PICTURES.items()}
    end = "\r\n" if odd else "\n"
    if odd:
        jpg(folder / "Images" / "alone_abc.jpg")
        wav(audio / "wavs" / "nobody_0.wav")
        spoken.remove("train0_abc_3.wav train0_abc.jpg #3")
        (audio / "wavs" / "train0_abc_3.wav").unlink()
        (audio / "wavs" / "train1_abc_0.wav").unlink()
        same = (audio / "wavs" / "train2_abc_0.wav").read_bytes()
        (audio / "wavs" / "train2_abc_1.wav").write_bytes(same)
        (audio / "wavs" / "train2_abc_2.wav").write_bytes(same[:20])
        splits["test"].append("train5_abc.jpg")
    for split, names in splits.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
    if captions == "captions.txt":
        lines = ["image,caption", *(f'{name},"{text[:-1]}, it says"' for name, _, text in written)]
    else:
        lines = [f"{name}#{k}\t{text}" for name, k, text in written]
    (folder / captions).write_bytes((end.join(lines) + end).encode())
    (audio / "wav2capt.txt").write_text("\n".join(spoken) + "\n")
    (audio / "wav2spk.txt").write_text("\n".join(speakers) + "\n")


def spokencoco(folder: Path, odd: bool = False, seconds: Sequence[float] = (0.4,)) -> None:
    """Both splits. The first two captions of a picture have word times.

    `odd`: one caption's recording is missing, one picture has none, one is a text file, one is in two splits, two
    captions share an id, one alignment is of another caption and one cannot be read."""
    lengths = cycle(seconds)
    for part, names in {
        "SpokenCOCO_train": ["train", "dev"],
        "SpokenCOCO_val": ["test", "more"],
        "SpokenCOCO_ksplit_train": ["train"],
        "SpokenCOCO_ksplit_val": ["dev"],
        "SpokenCOCO_ksplit_test": ["test"],
    }.items():
        data = [_coco_picture(folder, name, n, lengths) for name in names for n in range(PICTURES.get(name, 9))]
        if odd and part == "SpokenCOCO_ksplit_train":
            (folder / "SpokenCOCO" / data[0]["captions"][2]["wav"]).unlink()
            data[1]["captions"] = []
            (folder / "mscoco_img" / data[2]["image"]).write_text("not a picture")
            data[5]["captions"][0]["text_alignment"] = "0.02__NOTHING__0.10"
            data[5]["captions"][1]["text_alignment"] = "0.02__A_0.10"
            data[3]["captions"][1]["uttid"] = data[3]["captions"][0]["uttid"]
        if odd and part == "SpokenCOCO_ksplit_test":
            data.append(_coco_picture(folder, "train", 4, lengths))
        (folder / "SpokenCOCO" / f"{part}.json").write_text(json.dumps({"data": data}))


def _coco_picture(folder: Path, name: str, number: int, lengths: Iterator[float]) -> dict:
    image = f"{'train' if name == 'train' else 'val'}2014/COCO_{name}_{number:012}.jpg"
    if not (folder / "mscoco_img" / image).exists():
        jpg(folder / "mscoco_img" / image)
    captions = []
    for k in range(3):
        uttid = f"m07{number}-{name}_{k}"
        path = f"wavs/{name}/0/{uttid}.wav"
        if not (folder / "SpokenCOCO" / path).exists():
            wav(folder / "SpokenCOCO" / path, next(lengths))
        text = caption(100 + 3 * number + k).upper()
        data = {"text": text, "speaker": f"m07{number}", "uttid": uttid, "wav": path}
        captions.append(data | ({"text_alignment": text_alignment(text)} if k < 2 else {}))
    return {"image": image, "captions": captions, "reassign_id": number}


def spread(text: str, seconds: float = 0.4) -> list[tuple[str, float, float]]:
    """Return the words of a caption, each as long as the others, between pauses of 20 ms at both ends."""
    words = [word for word in text.split() if word != "."]
    step = (seconds - 0.04) / len(words)
    return [(word, round(0.02 + step * i, 4), round(0.02 + step * (i + 1), 4)) for i, word in enumerate(words)]


def ctm(folder: Path, odd: bool = False) -> None:
    """Write word times of `flickr8k`.

    `odd`: one caption has none, one has another's, one has a mark of noise, one ends after its recording, and one has
    overlapping words; a line is of no recording."""
    lines = []
    for line in (folder / "Flickr8k.token.txt").read_text().splitlines():
        name, text = line.split("\t")
        words = spread(text)
        if odd:
            words = {
                "dev0_abc.jpg#0": [],
                "dev0_abc.jpg#1": spread("a dog that nobody mentions"),
                "dev0_abc.jpg#2": [("<SPOKEN_NOISE>", *words[0][1:]), *words[1:]],
                "dev0_abc.jpg#3": [*words[:-1], (words[-1][0], words[-1][1], 0.7)],
                "dev0_abc.jpg#4": [(words[0][0], 0.02, 0.3), *words[1:]],
            }.get(name, words)
        lines += [f"{name.replace('#', '_#')} 1 {start} {end - start:.4f} {word.upper()}" for word, start, end in words]
    lines += ["nobody_abc.jpg_#0 1 0.1 0.2 DOG"] * odd
    (folder / "Flickr_8k.ctm").write_text("\n".join(lines) + "\n")


def text_alignment(text: str) -> str:
    return " ".join(f"{start:.2f}__{word}__{end:.2f}" for word, start, end in spread(text))


def textgrid(path: Path, tiers: dict[str, list[tuple[str, float, float]]], short: bool = False, code: str = "utf-8"):
    """Write a TextGrid, with pauses as empty intervals, in Praat's long or short form."""
    end = max(end for words in tiers.values() for _, _, end in words) + 0.02
    values: list[tuple[str, Any]] = [("xmin = ", 0), ("xmax = ", end), ("tiers? ", "<exists>"), ("size = ", len(tiers))]
    values.append(("item []:", None))
    for number, (name, words) in enumerate(tiers.items(), 1):
        intervals, last = [], 0.0
        for word, start, stop in [*words, ("", end, end)]:
            intervals += [("", last, start)] * (start > last) + [(word, start, stop)] * (stop > start)
            last = stop
        values += [(f"item [{number}]:", None), ("class = ", '"IntervalTier"'), ("name = ", f'"{name}"')]
        values += [("xmin = ", 0), ("xmax = ", end), ("intervals: size = ", len(intervals))]
        for i, (word, start, stop) in enumerate(intervals, 1):
            values += [(f"intervals [{i}]:", None), ("xmin = ", start), ("xmax = ", stop)]
            values.append(("text = ", '"' + word.replace('"', '""') + '"'))
    lines = [str(value) if short else f"    {key}{'' if value is None else value} " for key, value in values]
    lines = [line for line, (_, value) in zip(lines, values, strict=True) if not short or value is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(['File type = "ooTextFile"', 'Object class = "TextGrid"', "", *lines, ""]), encoding=code)


def keyword_labels(folder: Path) -> None:
    """Write labels of the first caption of each test picture of `flickr8k`, in semantic_flickraudio's layout."""
    lines = (folder / "Flickr8k.token.txt").read_text().splitlines()
    captions = dict(line.removesuffix(" .").split("\t") for line in lines)
    rows = ["utt_key,transcription,keywords"]
    for n in range(PICTURES["test"]):
        text = captions[f"test{n}_abc.jpg#0"]
        rows.append(f'test{n}_abc_0,"{text}","{"|".join(word for word in ("dog", "snow", "beach") if word in text)}"')
    place = folder / "semantic_flickraudio"
    place.mkdir()
    (place / "keywords.txt").write_text("beach\ndog\nsnow\n")
    (place / "semantic_flickraudio_labels.csv").write_text("\n".join([*rows, ""]))


def places(folder: Path, odd: bool = False) -> None:
    """Write the splits of 2020 and the original one.

    `odd`: one recording is missing, one picture is in two splits, one has no file, and an id is there twice."""
    entries = {}
    for part in ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen", "val"):
        rows = []
        for n in range(4):
            wav(folder / f"PlacesAudio_400k_distro/wavs/{part}/utterance_{n}.wav")
            jpg(folder / f"images/{part[0]}/{part}_place/gsun_{n}.jpg")
            row = {"uttid": f"{part}_{n}", "speaker": f"A{n}", "asr_text": caption(n)[:-2]}
            files = {"wav": f"wavs/{part}/utterance_{n}.wav", "image": f"{part[0]}/{part}_place/gsun_{n}.jpg"}
            rows.append(row | files)
        entries[part] = rows
    if odd:
        (folder / "PlacesAudio_400k_distro" / entries["train"][0]["wav"]).unlink()
        (folder / "images" / entries["train"][1]["image"]).unlink()
        entries["train"][3]["uttid"] = entries["train"][2]["uttid"]
        entries["test_seen"].append(entries["dev_seen"][0] | {"uttid": "again"})
    (folder / "metadata").mkdir()
    for part, rows in entries.items():
        for name in [part] * (part in ("train", "val")) + [f"{part}_2020"] * (part != "val"):
            (folder / f"metadata/{name}.json").write_text(json.dumps({"data": rows}))


TIMECODE = [  # of "um , a white dog": milliseconds, kind, value; the comma is a pause
    [0.0, "SYL", ""],
    [20.0, "WORD", "um"],
    [20.0, "PHO", "@"],
    [60.0, "SYL", ""],
    [60.0, "SEPR", " "],
    [60.0, "SIL", ""],
    [100.0, "SYL", ""],
    [100.0, "WORD", ","],
    [100.0, "SYL", ""],
    [100.0, "WORD", "a"],
    [100.0, "PHO", "@"],
    [130.0, "PHO", "_"],
    [150.0, "SIL", ""],
    [150.0, "SYL", ""],
    [150.0, "WORD", "white"],
    [150.0, "PHO", "w"],
    [220.0, "PHO", "ai"],
    [260.0, "SYL", ""],
    [260.0, "SEPR", " "],
    [260.0, "WORD", "dog"],
    [260.0, "PHO", "d"],
    [380.0, "SYL", ""],
    [380.0, "SEPR", " "],
]


def speech_coco(folder: Path, odd: bool = False) -> None:
    """Write three pictures with two captions for each part.

    `odd`: one recording has no JSON file, one JSON file no recording, one is damaged, one lacks a key, one picture is
    missing, one timecode is of another caption and one cannot be read."""
    for part, first in (("train2014", 100), ("val2014", 200)):
        for image in range(first, first + 3):
            jpg(folder / f"mscoco_img/{part}/COCO_{part}_{image:012}.jpg")
            for k in range(2):
                name = f"{image}_{10 * image + k}_Phil_None_0-9"
                wav(folder / f"{part}/wav/{name}.wav")
                entry = {
                    "duration": 0.4,
                    "speaker": "Phil",
                    "synthesisedCaption": "Um, a white dog. ",
                    "timecode": TIMECODE,
                    "speed": 0.9,
                    "wavFilename": f"{name}.wav",
                    "captionID": 10 * image + k,
                    "imgID": image,
                    "disfluency": ["um"],
                }
                (folder / part / "json").mkdir(exist_ok=True)
                (folder / f"{part}/json/{name}.json").write_text(json.dumps(entry))
    if odd:
        files = sorted((folder / "train2014/json").glob("*.json"))
        files[0].unlink()
        (folder / f"train2014/wav/{files[1].stem}.wav").unlink()
        files[2].write_text("{")
        (folder / "mscoco_img/val2014/COCO_val2014_000000000202.jpg").unlink()
        files = sorted((folder / "val2014/json").glob("*.json"))
        for file, change in zip(
            files,
            ({"imgID": None}, {"timecode": TIMECODE[:-3]}, {"timecode": [[1, "WORD"]]}),
            strict=False,
        ):
            file.write_text(json.dumps(json.loads(file.read_text()) | change))


def pairs(folder: Path, odd: bool = False) -> None:
    """Write pairs in folders of the splits, some with captions and word times.

    `odd`: a pair is in no folder of a split, a recording and a picture are alone, two pictures have one name, one
    caption is empty and one is not UTF-8, and one has other words than its TextGrid."""
    for part, total in (("train", 3), ("validation", 2), ("test", 2)):
        for n in range(total):
            place = folder / part / f"speaker{n}"
            wav(place / "a.wav")
            jpg(place / "a.jpg")
            if n < 2:
                (place / "a.txt").write_text(f"{caption(n)}\n")
                textgrid(place / "a.TextGrid", {"words": spread(caption(n))}, short=bool(n))
    if odd:
        wav(folder / "top.wav")
        jpg(folder / "top.jpg")
        wav(folder / "train/alone.wav")
        jpg(folder / "alone.png")
        jpg(folder / "train/speaker2/a.png")
        (folder / "test/speaker0/a.txt").write_text("\n")
        (folder / "test/speaker1/a.txt").write_bytes("Bäume".encode("latin-1"))
        (folder / "train/speaker1/a.txt").write_text("something else")


def hub(folder: Path, odd: bool = False) -> None:
    """Write Parquet files with the layouts of `datasets`' Audio and Image.

    `odd`: one recording is damaged, one cell is empty, one path leads nowhere, one picture is damaged, and one caption
    is not that of the word times."""
    import pyarrow
    from pyarrow import parquet

    for part, total in (("train", 4), ("validation", 2), ("test", 2)):
        rows = []
        for n in range(total):
            recording, picture = folder / "source.wav", folder / "source.jpg"
            wav(recording)
            jpg(picture)
            words = [{"word": word, "start": start, "end": end} for word, start, end in spread(caption(n))]
            rows.append(
                {
                    "audio": {"bytes": recording.read_bytes(), "path": f"{n}.wav"},
                    "image": {"bytes": picture.read_bytes(), "path": f"{n}.jpg"},
                    "caption": caption(n),
                    "who": n % 2,
                    "timed": words if n != 1 else None,
                }
            )
            recording.unlink()
            picture.unlink()
        if part == "train":
            rows[2]["image"] = rows[0]["image"]  # a second caption of the same picture
        if odd and part == "train":
            rows[0]["audio"]["bytes"] = rows[0]["audio"]["bytes"][:20]
            rows[1]["audio"] = None
            rows[2]["caption"] = "something else"
            rows[3]["audio"] = {"bytes": None, "path": "nowhere.wav"}
        if odd and part == "test":
            rows[0]["image"] = {"bytes": b"not a picture", "path": None}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"data/{part}-00000-of-00001.parquet")
