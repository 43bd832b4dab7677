"""Time an index of small pictures, and a search among a million vectors."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sclip.apps.index import index
from sclip.apps.models import open_model
from sclip.apps.nearest import nearest
from sclip.bench.cases import Case, Measurement
from sclip.bench.timing import compare
from sclip.model.speechclip import SpeechCLIP

PICTURES, SIDE = 10_000, 96
LOOP_PICTURES = 200  # that the loop is timed on
VECTORS, WIDTH, TOP = 1_000_000, 512, 10
QUERIES = 16  # of the search for several queries
LOOP, SEVERAL = "encode_image, one at a time", f"ours, {QUERIES} queries together, time of one"


def index_cases(model: SpeechCLIP, folder: Path, device: torch.device) -> Iterator[Case]:
    """Time `sclip index` and the exact search."""
    yield _index_case(model.to(device), folder, device)
    yield _search_case(device)


def _index_case(model: SpeechCLIP, folder: Path, device: torch.device) -> Case:
    pictures = _write_pictures(folder / "pictures")
    opened, out = open_model(model), folder / "index"

    def new() -> None:
        shutil.rmtree(out, ignore_errors=True)
        index(folder / "pictures", out, model=opened)

    def unchanged() -> None:
        index(folder / "pictures", out, model=opened)

    def one_at_a_time() -> None:
        for picture in pictures[:LOOP_PICTURES]:
            model.encode_image([picture])

    alternatives: dict[str, Callable[[], object]] = {
        "sclip index, all pictures new": new,
        "sclip index, nothing changed": unchanged,
        LOOP: one_at_a_time,
    }
    times = compare(alternatives, device, rounds=1, parts={LOOP: min(1.0, LOOP_PICTURES / PICTURES)})
    rows = [Measurement(timed, f"{PICTURES / timed.seconds:,.0f} pictures a second") for timed in times]
    return Case("index", f"An index of {PICTURES:,} pictures of {SIDE} x {SIDE} pixels", rows)


def _write_pictures(folder: Path) -> list[Path]:
    """Write pictures of noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    paths = [folder / f"{i:05d}.jpg" for i in range(PICTURES)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return paths


def _search_case(device: torch.device) -> Case:
    vectors, queries = _random_vectors(VECTORS), _random_vectors(QUERIES)

    def ours() -> tuple[Tensor, Tensor]:
        return nearest(vectors, queries[:1], TOP, device)

    def sort() -> Tensor:
        return (queries[:1].to(device) @ vectors.to(device).T).argsort(descending=True)[:, :TOP].cpu()

    def several() -> None:
        nearest(vectors, queries, TOP, device)

    alternatives: dict[str, Callable[[], object]] = {
        "in blocks, the best of each merged (ours)": ours,
        "all scores sorted": sort,
        SEVERAL: several,
    }
    times = compare(alternatives, device, parts={SEVERAL: QUERIES})
    question = f"The {TOP} nearest of {VECTORS:,} vectors of {WIDTH} numbers"
    rows = [Measurement(timed) for timed in times]
    return Case("search", question, rows, {"the same pictures": torch.equal(ours()[1], sort())})


def _random_vectors(count: int) -> Tensor:
    """Draw vectors (count, WIDTH) of unit length."""
    vectors = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count))
    return vectors.div_(torch.linalg.vector_norm(vectors, dim=-1, keepdim=True))
