"""Flickr8k and SpokenCOCO with a few pictures, laid out as published, odd cases included."""

import json
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path

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
    """Both splits. `odd`: one caption's recording is missing, one picture has none, one is a text file, one is in two
    splits, two captions share an id."""
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
        captions.append(
            {"text": caption(100 + 3 * number + k).upper(), "speaker": f"m07{number}", "uttid": uttid, "wav": path}
        )
    return {"image": image, "captions": captions, "reassign_id": number}
