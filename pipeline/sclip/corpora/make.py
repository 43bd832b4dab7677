"""Writing the manifest of a preset's corpus, for every kind of corpus."""

import json
from pathlib import Path
from typing import Any

from sclip.config import CorpusConfig, Flickr8kConfig, GivenConfig, ScenesConfig, SpokenCocoConfig, TableConfig
from sclip.corpora.flickr8k import gather_flickr8k
from sclip.corpora.gathered import Gathered
from sclip.corpora.manifest import SPLITS, Row, check_rows, read_manifest, with_files, write_manifest
from sclip.corpora.scenes.corpus import make_scenes
from sclip.corpora.spokencoco import gather_spokencoco
from sclip.corpora.table import gather_table
from sclip.errors import Problems


def make_corpus(config: CorpusConfig, manifest: Path, problems: Problems) -> int:
    """Write the manifest, and return its number of utterances. A user's recordings and pictures are not copied."""
    if isinstance(config, ScenesConfig):
        return make_scenes(config, manifest)
    rows, gathered = find_rows(config, manifest, problems)
    for reason, names in gathered.left_out.items():
        for name in names:
            problems.note(f"{reason}, left out", name)
    for split in sorted(set(SPLITS) - {row.split for row in rows}):
        problems.note("splits without a row; commands that need these splits will fail", split)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, map(_plain, rows))
    return len(rows)


def find_rows(config: CorpusConfig, manifest: Path, problems: Problems) -> tuple[list[Row], Gathered]:
    """Return the rows whose files exist, from the corpus's own files, or from its manifest for scenes and manifests."""
    if isinstance(config, ScenesConfig | GivenConfig):
        path = Path(config.path).resolve() if isinstance(config, GivenConfig) else manifest
        named, gathered = read_manifest(path, problems), Gathered()
    else:
        path, gathered = Path(config.path), gather(config, problems)
        named = check_rows(gathered.rows, Path(), problems)
    rows = with_files(named, problems)
    if not rows:
        raise problems.nothing_left(f"{path}: no utterance can be used")
    return rows, gathered


def gather(config: Flickr8kConfig | SpokenCocoConfig | TableConfig, problems: Problems) -> Gathered:
    """Read the rows of a corpus from its own files."""
    if isinstance(config, Flickr8kConfig):
        return gather_flickr8k(config)
    if isinstance(config, SpokenCocoConfig):
        return gather_spokencoco(config)
    return gather_table(config, problems)


def _plain(row: Row) -> dict[str, Any]:
    """Return a row as it is written: without keys that have no value."""
    plain: dict[str, Any] = json.loads(json.dumps(vars(row), default=str))
    return {key: value for key, value in plain.items() if value is not None and key != "where"}
