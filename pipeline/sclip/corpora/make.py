"""Write the manifest of a preset's corpus, for every kind of corpus."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from soundfile import LibsndfileError

from sclip.config import (
    CorpusConfig,
    Flickr8kConfig,
    HubConfig,
    ManifestConfig,
    PairsConfig,
    PlacesConfig,
    ScenesConfig,
    SpeechCocoConfig,
    SpokenCocoConfig,
    TableConfig,
)
from sclip.corpora.alignments import add_words
from sclip.corpora.flickr8k import list_flickr8k
from sclip.corpora.hub import list_hub
from sclip.corpora.listing import Listing
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.corpora.pairs import list_pairs
from sclip.corpora.places import list_places
from sclip.corpora.rows import SPLITS, Row, check_rows, with_files
from sclip.corpora.scenes.corpus import make_scenes
from sclip.corpora.speech_coco import list_speech_coco
from sclip.corpora.spokencoco import list_spokencoco
from sclip.corpora.table import list_table
from sclip.errors import Problems, UserError

SourceConfig = Flickr8kConfig | SpokenCocoConfig | PlacesConfig | SpeechCocoConfig | PairsConfig | TableConfig

EMPTY_SPLITS = "splits without a row; `train` needs train and dev, and `evaluate` needs test"
NO_CAPTIONS = "splits without a caption; architectures with keywords cannot be trained"
SHARED_PICTURES = "pictures in several splits, so that a model is tested on what it has seen; give each one split"


def make_corpus(config: CorpusConfig, manifest: Path, problems: Problems) -> int:
    """Write the manifest, and return its number of rows. A user's recordings and pictures are not copied."""
    if isinstance(config, ScenesConfig):
        # Rows have paths ../scenes-…, and the .. of a link is the folder of its target.
        if manifest.parent.is_symlink():
            manifest = manifest.parent.resolve() / manifest.name
        try:
            return make_scenes(config, manifest)
        except LibsndfileError as error:  # its text does not say which file, nor that a disk is full
            folder = manifest.parent.parent
            raise UserError(f"{folder}: a recording cannot be written: {error} Is the disk full?") from None
    rows, listing = find_rows(config, manifest, problems)
    for reason, names in listing.left_out.items():
        for name in names:
            problems.note(f"{reason}, left out", name)
    for kind, cases in (*listing.notes.items(), *listing.faults.items()):
        for case in cases:
            problems.note(kind, case)
    for kind, split in unfit_splits(rows):
        problems.note(kind, split)
    for picture in shared_pictures(rows):
        problems.note(SHARED_PICTURES, picture)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, map(_plain, rows))
    return len(rows)


def find_rows(config: CorpusConfig, manifest: Path, problems: Problems) -> tuple[list[Row], Listing]:
    """Return the rows whose files exist, from the corpus's own files, or from its manifest for scenes and manifests."""
    if isinstance(config, ScenesConfig | ManifestConfig):
        path = Path(config.path).resolve() if isinstance(config, ManifestConfig) else manifest
        named: Sequence[Row] = read_manifest(path, problems)
        listing = Listing()
    else:
        if isinstance(config, HubConfig):
            listing = list_hub(config, manifest.parent.resolve() / "unpacked", problems)
        else:
            listing = read_listing(config, problems)
        path = Path(config.path)
        named = check_rows(listing.rows, Path(), problems)
    rows = with_files(named, problems)
    if not rows:
        raise problems.nothing_left(f"{path}: no utterance can be used")
    return (rows if isinstance(config, ScenesConfig) else add_words(rows, listing)), listing


def unfit_splits(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield each split that some command cannot use, after the reason."""
    for split in sorted(set(SPLITS) - {row.split for row in rows}):
        yield EMPTY_SPLITS, split
    train = [row for row in rows if row.split == "train"]
    if train and all(row.text is None for row in train):
        yield NO_CAPTIONS, "train"


def shared_pictures(rows: Sequence[Row]) -> list[str]:
    """Return the ids of the pictures that are in several splits, with these splits."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.image_id, set()).add(row.split)
    return [f"{picture} ({', '.join(sorted(names))})" for picture, names in splits.items() if len(names) > 1]


def read_listing(config: SourceConfig, problems: Problems) -> Listing:
    """Read the rows of a corpus from its own files."""
    match config:
        case Flickr8kConfig():
            return list_flickr8k(config)
        case SpokenCocoConfig():
            return list_spokencoco(config)
        case PlacesConfig():
            return list_places(config)
        case SpeechCocoConfig():
            return list_speech_coco(config, problems)
        case PairsConfig():
            return list_pairs(config, problems)
        case TableConfig():
            return list_table(config, problems)


def _plain(row: Row) -> dict[str, Any]:
    """Return a row as it is written: without keys that have no value."""
    values = dataclasses.asdict(row) | {"audio": str(row.audio), "image": str(row.image)}
    return {key: value for key, value in values.items() if value is not None and key != "where"}
