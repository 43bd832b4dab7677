"""A preset's corpus, of whatever kind, as a manifest."""

import json
from pathlib import Path
from typing import Any

from sclip.config import CorpusConfig, GivenConfig
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.corpora.scenes.corpus import make_scenes
from sclip.errors import Problems


def make_corpus(config: CorpusConfig, manifest: Path, problems: Problems) -> int:
    """Write `manifest`; how many utterances it has."""
    if isinstance(config, GivenConfig):
        return _take(Path(config.path), manifest, problems)
    return make_scenes(config, manifest)


def _take(given: Path, manifest: Path, problems: Problems) -> int:
    """Somebody's manifest, its rows checked; audio and images stay where they are."""
    rows = read_manifest(given.resolve(), problems)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    written = [{key: value for key, value in vars(row).items() if key != "line"} for row in rows]
    write_manifest(manifest, (_plain(row) for row in written))
    return len(rows)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(row, default=str))
    return {key: value for key, value in plain.items() if value is not None}
