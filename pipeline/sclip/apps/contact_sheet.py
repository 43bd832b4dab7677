"""A page with the results of a search. Pictures and recordings are in it, so it needs no other file and no network."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sclip.apps.search import Ranking
from sclip.errors import printable
from sclip.files import write_text
from sclip.report.page import templates
from sclip.report.utterances import data_url, picture_url

SIDE = 256  # pixels of a thumbnail
SECONDS = 30  # of each recording


def contact_sheet(rankings: Sequence[Ranking], path: Path) -> Path:
    """Write the page. The template escapes every name and sentence."""
    template = templates(Path(__file__).parent).get_template("contact_sheet.html")
    page = template.render(rankings=[_view(ranking) for ranking in rankings])
    write_text(path, page)
    return path


def _view(ranking: Ranking) -> dict[str, Any]:
    matches = [
        {
            "rank": match.rank,
            "score": match.score,
            "path": printable(match.path),
            "name": printable(Path(match.path).name),
            **_media(ranking.files, match.path),
        }
        for match in ranking.matches
    ]
    return {"query": printable(ranking.query), "matches": matches, **_media(ranking.kind, ranking.query)}


def _media(kind: str, path: str) -> dict[str, str | None]:
    """Return a file's content as URLs: a thumbnail of a picture, the beginning of a recording."""
    return {
        "picture": _thumbnail(path) if kind == "image" else None,
        "sound": _beginning(path) if kind == "audio" else None,
    }


def _thumbnail(path: str) -> str | None:
    """Return a small copy of a picture, or None if the file cannot be read any more."""
    try:
        return picture_url(Path(path), SIDE)
    except Exception:  # a damaged picture can raise any exception
        return None


def _beginning(path: str) -> str | None:
    """Return the first seconds of a recording as FLAC, or None if the file cannot be read any more."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            samples, rate = file.read(SECONDS * file.samplerate, dtype="float32", always_2d=True), file.samplerate
        data = io.BytesIO()
        soundfile.write(data, samples.mean(1), rate, format="FLAC", subtype="PCM_16")
    except (OSError, RuntimeError, TypeError, ValueError):
        return None
    return data_url("audio/flac", data)
