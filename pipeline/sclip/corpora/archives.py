"""The archives of the published corpora: where to get them, and how to know that they are complete.

The sources of an archive are tried in order. Copies that need a client or an account of their own are not tried;
`by_hand` says what to run. Sizes and checksums are those that the authors or several users published.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Archive:
    """A file to download. A .zip, .tar or .tar.gz is unpacked, any other file is only moved to its place."""

    part: Literal["recordings", "captions", "pictures", "splits", "alignments", "keyword-labels"]
    name: str  # of the file
    sources: tuple[str, ...]
    by_hand: str  # what to do if no source works, as the end of a sentence
    subfolder: str = ""  # of the corpus folder
    top_folder: str = ""  # top-level folder of a tar, which unpacking omits
    size: int | None = None  # in bytes
    checksum: str | None = None  # md5:… or git:…, the hash of a git blob

    @property
    def is_packed(self) -> bool:
        return self.name.endswith((".zip", ".tar", ".tar.gz"))

    def describe(self) -> str:
        """Return the lines that `sclip fetch --list` prints."""
        size = "size not published" if self.size is None else f"{self.size:,} bytes"
        checksum = "no checksum published" if self.checksum is None else self.checksum.replace(":", " ", 1)
        lines = [f"{self.part}: {self.name}, {size}, {checksum}", *self.sources, f"otherwise: {self.by_hand}"]
        return "\n    ".join(lines)


def _at(name: str, *places: str) -> tuple[str, ...]:
    return tuple(f"{place}/{name}" for place in places)


FLICKR8K_FORM = "fill in its authors' form, https://forms.illinois.edu/sec/1713398"
FLICKR_AUDIO = "downloads/flickraudio/downloads"
# Pinned, because the checksum is that of this version.
LABELS = "kamperh/semantic_flickraudio/32c4f8f9850b3515b29201e062b6ea3535b2f359/data"
CTM = "kamperh/recipe_semantic_flickraudio/4158171b074fd6e68089311e3606fc6ae68559ae/data"
GITHUB = "https://raw.githubusercontent.com"
COPY = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"  # the original host is gone
COCO = ("http://images.cocodataset.org/zips", "https://s3.amazonaws.com/images.cocodataset.org/zips")
COCO_PAGE = "get it from https://cocodataset.org/#download"
PLACES_AUDIO = "ask its authors, https://groups.csail.mit.edu/sls/downloads/placesaudio/"
PLACES_PICTURES = "register at http://places.csail.mit.edu/downloadData.html, get Places205 and unpack it into images/"
SPEECH_COCO = "get the archives from https://zenodo.org/records/4282267, and unpack them into the corpus folder"


def _coco_pictures() -> list[Archive]:
    return [
        Archive(
            "pictures",
            f"{name}.zip",
            _at(f"{name}.zip", *COCO),
            COCO_PAGE,
            "mscoco_img",
            size=size,
            checksum=checksum,
        )
        for name, size, checksum in (
            ("val2014", 6_645_013_297, "md5:a3d79f5ed8d289b7a7554ce06a5782b3"),
            ("train2014", 13_510_573_713, "md5:0da8c0bd3d6becc4dcb32757491aca88"),
        )
    ]


def _labels(name: str, size: int, md5: str) -> Archive:
    page = "get it from https://github.com/kamperh/semantic_flickraudio"
    sources = _at(name, f"{GITHUB}/{LABELS}")
    return Archive("keyword-labels", name, sources, page, "semantic_flickraudio", size=size, checksum=f"md5:{md5}")


ARCHIVES = {
    "flickr8k": [
        Archive(
            "captions",
            "Flickr8k_text.zip",
            _at("Flickr8k_text.zip", COPY),
            FLICKR8K_FORM,
            checksum="md5:bf6c1abcb8e4a833b7f922104de18627",
        ),
        Archive(
            "pictures",
            "Flickr8k_Dataset.zip",
            _at("Flickr8k_Dataset.zip", COPY),
            f"{FLICKR8K_FORM}; Parquet files with the pictures inside come with `hf download jxie/flickr8k "
            "--repo-type dataset`",
            checksum="md5:f18a1e2920de5bd84dae7cf08ec78978",
        ),
        Archive(
            "recordings",
            "flickr_audio.tar.gz",
            _at(
                "flickr_audio.tar.gz",
                f"https://groups.csail.mit.edu/sls/{FLICKR_AUDIO}",
                f"https://sls.csail.mit.edu/{FLICKR_AUDIO}",
            ),
            "with the client and a token of Kaggle, run `kaggle datasets download --unzip "
            "warcoder/flickr-8k-audio-caption-corpus`, and move the recordings to flickr_audio/wavs; or get the "
            "archive with the same MD5 from https://dagshub.com/michizhou/Flickr-Audio-Caption-Corpus",
            checksum="md5:9d078f1f150c26e864aa64d1d733779a",
        ),
        Archive(
            "alignments",
            "flickr_8k.ctm",
            _at("flickr_8k.ctm", f"{GITHUB}/{CTM}"),
            "get it from https://github.com/kamperh/recipe_semantic_flickraudio",
            checksum="git:6e41b616c347d6c8be27da50b21189f7299f0e30",
        ),
        _labels("keywords.txt", 417, "9b6b818006cb4717d2d998e25e95fed2"),
        _labels("semantic_flickraudio_labels.csv", 109_581, "cd5c2d8f9ac20269057421bb24a6642e"),
    ],
    "spokencoco": [
        Archive(
            "recordings",
            "SpokenCOCO.tar.gz",
            ("https://data.csail.mit.edu/placesaudio/SpokenCOCO.tar.gz",),
            PLACES_AUDIO,
        ),
        Archive(
            "splits",
            "ksplit.tar.gz",
            ("https://huggingface.co/speechclip/models/resolve/main/ksplit.tar.gz",),
            "run `hf download speechclip/models ksplit.tar.gz --local-dir FOLDER`; the alignments have the split too",
            subfolder="SpokenCOCO",
            top_folder="ksplit",
        ),
        Archive(
            "alignments",
            "karpathy_json.tar",
            ("https://www.cs.utexas.edu/~harwath/model_checkpoints/vg_hubert/karpathy_json.tar",),
            "ask VG-HuBERT's authors, https://github.com/jasonppy/word-discovery",
            subfolder="SpokenCOCO",
        ),
        *_coco_pictures(),
    ],
    "places": [
        Archive(
            "recordings",
            "placesaudio_2020_splits.tar.gz",
            ("https://data.csail.mit.edu/placesaudio/placesaudio_2020_splits.tar.gz",),
            PLACES_AUDIO,
        ),
        Archive("pictures", "Places205", (), PLACES_PICTURES),
    ],
    "speech-coco": [
        Archive("recordings", "CORPUS-MSCOCO", (), SPEECH_COCO),
        *_coco_pictures(),
    ],
}
