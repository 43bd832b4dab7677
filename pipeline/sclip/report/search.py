"""Prepare the test utterances that the page searches, and the commands that do the same in a terminal."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclip import paths
from sclip.report.results import EvaluatedRun, Results
from sclip.report.utterances import picture_url

THUMBNAIL_PIXELS = 56  # of a picture's longer side; a thousand of them must fit into the page
INDEX = "pictures.index"  # in the commands


@dataclass(frozen=True)
class Commands:
    """The commands for one architecture's model. Models without keywords have no command `keywords`."""

    arch: str
    audio: str  # the recording in the commands
    index: str
    search: str
    keywords: str | None
    demo: str


def searched_utterances(results: Results) -> list[dict[str, Any]]:
    """Return what the page's script searches and shows of each utterance, with the outputs of each architecture."""
    by_utterance = zip(*(run.examples["utterances"] for run in results.first_runs), strict=True)
    examples = {example["id"]: number for number, example in enumerate(results.first_run.examples["examples"], 1)}
    return [
        {
            "id": entries[0]["id"],
            "text": entries[0]["text"] or "",
            "speaker": entries[0]["speaker"] or "",
            "picture": entries[0]["image_id"],
            "audio": _argument(entries[0]["audio"]),
            "example": examples.get(entries[0]["id"]),  # its number on the page
            "outputs": {
                run.arch: {"rank": entry["rank"], "keywords": entry["keywords"]}
                for run, entry in zip(results.first_runs, entries, strict=True)
            },
        }
        for entries in by_utterance
    ]


def thumbnails(results: Results) -> dict[str, str]:
    """Return the data URL of a small copy of each listed picture, by name."""
    files = {entry["image_id"]: entry["image"] for entry in results.first_run.examples["utterances"]}
    return {name: picture_url(Path(file), THUMBNAIL_PIXELS) for name, file in sorted(files.items())}


def commands(results: Results) -> list[Commands]:
    return [_commands(results.preset, run) for run in results.first_runs]


def _commands(preset: str, run: EvaluatedRun) -> Commands:
    example = run.examples["examples"][0]
    model = paths.model_folder(preset, run.arch, run.seed).as_posix()
    pictures, audio = _argument(Path(example["image"]).parent), _argument(example["audio"])
    return Commands(
        run.arch,
        audio,
        index=f"sclip index {pictures} --model {model} --out {INDEX}",
        search=f"sclip search {INDEX} {audio}",
        keywords=f"sclip keywords {audio} --model {model}" if "keywords" in run.metrics else None,
        demo=f"sclip demo --model {model} --images {pictures}",
    )


def _argument(path: str | Path) -> str:
    """Return a path as an argument of a command: relative, without `..` where possible, and quoted."""
    return shlex.quote(os.path.relpath(Path(path).resolve()))
