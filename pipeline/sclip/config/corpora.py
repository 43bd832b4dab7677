"""The settings of a corpus: one class for each kind."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sclip.config.checks import require, require_seed

# The languages with a list of stop words, by ISO 639-1 code. Keywords are tokens of CLIP's English vocabulary, in which
# stop words of other languages are often several tokens or single bytes, so figures for other languages would be wrong.
LANGUAGES = {"en": "English"}


def _require_language(language: str | None) -> None:
    require(
        language is None or language in LANGUAGES,
        f"language: expected one of {', '.join(LANGUAGES)}, found {language!r}; leave it out to use no stop words",
    )


def _require_splits(splits: dict[str, str]) -> None:
    for name, split in splits.items():
        require(split in ("train", "dev", "test"), f"splits: {name}: expected one of train, dev, test, found {split!r}")


@dataclass(frozen=True)
class Splits:
    """A number for each split."""

    train: int
    dev: int
    test: int


@dataclass(frozen=True)
class ScenesConfig:
    """The corpus that ships with the project: pictures of emoji, captions of a grammar, synthetic voices."""

    language: ClassVar[str] = "en"

    kind: Literal["scenes"]
    seed: int
    pictures: Splits
    captions: Splits  # for each picture, each spoken once
    voices: Splits  # no voice is in two splits
    nouns: int  # the number of kinds of things

    def __post_init__(self) -> None:
        require_seed("seed", self.seed)
        for split in ("train", "dev", "test"):
            pictures, captions = getattr(self.pictures, split), getattr(self.captions, split)
            require(pictures >= 1, f"pictures.{split}: expected at least 1, found {pictures}")
            require(1 <= captions <= 5, f"captions.{split}: expected 1 to 5, found {captions}")


@dataclass(frozen=True)
class ManifestConfig:
    """A user's corpus as a manifest; corpora/rows.py describes its rows."""

    kind: Literal["manifest"]
    path: str
    language: str | None = None  # of the captions, one of LANGUAGES: decides the stop words

    def __post_init__(self) -> None:
        _require_language(self.language)


@dataclass(frozen=True)
class Flickr8kConfig:
    """Flickr8k in the folder `path`; corpora/flickr8k.py shows its layout."""

    language: ClassVar[str] = "en"

    kind: Literal["flickr8k"]
    path: str


@dataclass(frozen=True)
class SpokenCocoConfig:
    """SpokenCOCO in the folder `path`; corpora/spokencoco.py shows its layout."""

    language: ClassVar[str] = "en"

    kind: Literal["spokencoco"]
    path: str
    split: Literal["karpathy", "own"]


@dataclass(frozen=True)
class PlacesConfig:
    """The Places Audio Captions in the folder `path`; corpora/places.py shows its layout."""

    language: ClassVar[str] = "en"

    kind: Literal["places"]
    path: str
    split: Literal["seen", "unseen", "original"]  # the speakers of development and test, or the split before 2020


@dataclass(frozen=True)
class SpeechCocoConfig:
    """SPEECH-COCO in the folder `path`; corpora/speech_coco.py shows its layout."""

    language: ClassVar[str] = "en"

    kind: Literal["speech-coco"]
    path: str


@dataclass(frozen=True)
class PairsConfig:
    """A folder of recordings and pictures with equal names; corpora/pairs.py shows its layout."""

    kind: Literal["pairs"]
    path: str
    splits: dict[str, str] = field(default_factory=dict)  # from the folders' names to train, dev and test
    language: str | None = None  # of the captions, one of LANGUAGES: decides the stop words

    def __post_init__(self) -> None:
        _require_language(self.language)
        _require_splits(self.splits)


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns. The default of `id` is the recording, and of `image_id` the picture."""

    audio: str
    image: str
    text: str | None = None
    split: str | None = None
    speaker: str | None = None
    id: str | None = None
    image_id: str | None = None
    language: str | None = None  # that is spoken
    words: str | None = None  # [[word, start, end], ...] in seconds
    transcript: str | None = None  # what a speech recogniser wrote; an empty cell means that it found no word


@dataclass(frozen=True)
class TableConfig:
    """A user's corpus as a CSV, TSV, JSONL or Parquet file with one row for each utterance."""

    kind: Literal["table"]
    path: str
    columns: Columns
    splits: dict[str, str] = field(default_factory=dict)  # from the table's names to train, dev and test
    alignments: str | None = None  # a pattern of TextGrids or CTM files, relative to the table's folder
    language: str | None = None  # of the captions, one of LANGUAGES: decides the stop words

    def __post_init__(self) -> None:
        _require_language(self.language)
        _require_splits(self.splits)


@dataclass(frozen=True)
class HubConfig:
    """A data set of Parquet files with recordings and pictures inside; corpora/hub.py describes the layouts."""

    kind: Literal["hub"]
    path: str  # a file, a folder or a pattern, here or as hf://datasets/ORG/NAME
    columns: Columns
    splits: dict[str, str] = field(default_factory=dict)  # from the names of files or cells to train, dev and test
    language: str | None = None  # of the captions, one of LANGUAGES: decides the stop words

    def __post_init__(self) -> None:
        _require_language(self.language)
        _require_splits(self.splits)


CorpusConfig = (
    ScenesConfig
    | ManifestConfig
    | Flickr8kConfig
    | SpokenCocoConfig
    | PlacesConfig
    | SpeechCocoConfig
    | PairsConfig
    | HubConfig
    | TableConfig
)
