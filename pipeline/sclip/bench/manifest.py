"""Time reading the manifest of a large corpus, and measure the memory of it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sclip.bench.cases import Case, Measurement
from sclip.bench.evaluation import peak_memory
from sclip.bench.timing import compare
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.corpora.rows import Draft, Row, check_rows
from sclip.errors import Problems
from sclip.parsing import parse_json, read_text

VOCABULARY = ("a", "man", "riding", "the", "wave", "on", "surfboard", "two", "people", "standing", "dog")
ROWS, CAPTIONS, WORDS = 600_000, 5, 10  # of SpokenCOCO: utterances, utterances of a picture, words of an utterance
PARSED = 10_000  # rows that the parser is timed on
OURS, PARSER = "compared with its digest (ours)", "parsed one by one, all kept"


def manifest_case(folder: Path, device: torch.device) -> Case:
    """Time our reader and the parser of params.yaml, which earlier versions used for the manifest."""
    folder.mkdir(parents=True)
    plain, timed, given, part = (folder / f"{name}.jsonl" for name in ("plain", "timed", "given", "part"))
    for path, count, has_words in ((plain, ROWS, False), (timed, ROWS, True), (part, PARSED, False)):
        _write(path, count, has_words)
    given.hardlink_to(plain)  # without a digest, as a user may write it
    alternatives: dict[str, Callable[[], object]] = {
        OURS: lambda: read_manifest(plain, Problems()),
        "ours, with word times": lambda: read_manifest(timed, Problems()),
        "ours, without a digest: every row checked": lambda: read_manifest(given, Problems()),
        "ours, then the id of each row": lambda: list(read_manifest(plain, Problems()).values("id")),
        PARSER: lambda: parse_rows(part),
    }
    memory = {name: peak_memory(run) / 1e6 for name, run in alternatives.items()}
    memory[PARSER] *= ROWS / PARSED
    times = compare(alternatives, device, rounds=3, parts={PARSER: PARSED / ROWS})
    rows = [Measurement(time, f"{memory[time.name]:,.0f} MB") for time in times]
    same = list(read_manifest(part, Problems())) == parse_rows(part)
    question = f"A manifest of {ROWS:,} rows, {plain.stat().st_size / 1e6:,.0f} MB, with memory above the process's own"
    return Case("manifest", question, rows, {"the same rows": same})


def parse_rows(path: Path) -> list[Row]:
    """Read a manifest by parsing every row like a table of params.yaml."""
    lines = enumerate(read_text(path).splitlines(), 1)
    drafts = (Draft(f"manifest row {line}", parse_json(text)) for line, text in lines)
    return check_rows(drafts, path.parent, Problems())


def _write(path: Path, count: int, has_words: bool) -> None:
    """Write rows with ids, paths and captions as long as SpokenCOCO's."""
    write_manifest(path, _rows(count, has_words))


def _rows(count: int, has_words: bool) -> Iterator[dict[str, Any]]:
    chosen = random.Random(0)
    for i in range(count):
        name, picture = f"m1vjq8cayvs6c9-32KTQ2V7RDFP25PU1AP8KXEZU8I9MO_{i}", f"COCO_train2014_{i // CAPTIONS:012}"
        caption = chosen.choices(VOCABULARY, k=WORDS)
        row = {
            "id": name,
            "split": "train",
            "audio": f"/data/SpokenCOCO/wavs/train/{i % 80}/{name}.wav",
            "image": f"/data/coco/train2014/{picture}.jpg",
            "image_id": picture,
            "text": " ".join(caption),
            "speaker": f"m{i % 2353}",
        }
        words = [[word, 0.3 * k, 0.3 * k + 0.25] for k, word in enumerate(caption)]
        yield {**row, "words": words} if has_words else row
