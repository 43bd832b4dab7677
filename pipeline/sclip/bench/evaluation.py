"""Retrieval with intervals beside the way it was published: everything sorted, and loops over rows."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import Case, Row
from sclip.bench.timing import compare
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.retrieval import AT, first_ranks, recalls, scores

UTTERANCES, PICTURES, WIDTH = 25_000, 5_000, 512
SLICE = 200  # queries that the slow way is timed on


def evaluation_case(device: torch.device) -> Case:
    """Both directions; the utterances of a picture lie near it."""
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(PICTURES, WIDTH, generator=generator), dim=-1)
    owners = torch.arange(UTTERANCES) % PICTURES
    noise = torch.randn(UTTERANCES, WIDTH, generator=generator) * 0.2
    speech = F.normalize(images[owners] + noise, dim=-1)
    speech, images, owners = speech.to(device), images.to(device), owners.to(device)
    pictures = torch.arange(PICTURES, device=device)

    def ours() -> None:
        for ranks, ids in zip(first_ranks(speech, owners, images, pictures), (owners, pictures), strict=True):
            scores(ranks.cpu(), ids.cpu(), Bootstrap(PICTURES, seed=0))

    def published() -> None:
        sorted_and_looped(speech[:SLICE], owners[:SLICE], images, pictures)
        sorted_and_looped(images[:SLICE], pictures[:SLICE], speech, owners)

    # The queries of either direction cost as much as its candidates are many.
    share = SLICE * (PICTURES + UTTERANCES) / (2 * UTTERANCES * PICTURES)
    above = _memory_above(ours)
    found = compare({"counted in blocks, with intervals (ours)": ours, "sorted, rows looped over": published}, device,
                    rounds=3, parts={"sorted, rows looped over": share})  # fmt: skip
    alike = sorted_and_looped(speech[:SLICE], owners[:SLICE], images, pictures)
    own = recalls(first_ranks(speech[:SLICE], owners[:SLICE], images, pictures)[0])
    return Case(
        "evaluation",
        f"{UTTERANCES:,} utterances and {PICTURES:,} pictures, both ways, with 1,000 resamplings",
        [Row(timed) for timed in found],
        {"the same recalls": alike == own, "memory above the vectors, GB": round(above / 1e9, 2)},
    )


def sorted_and_looped(queries: Tensor, ids: Tensor, candidates: Tensor, others: Tensor) -> dict[int, float]:
    """Recalls in %: all candidates of every query in order, and a look at the first K of each row."""
    order = (queries @ candidates.T).argsort(dim=1, descending=True)
    found = dict.fromkeys(AT, 0)
    for row, wanted in zip(order, ids.tolist(), strict=True):
        ranked = others[row].tolist()
        for k in AT:
            found[k] += wanted in ranked[:k]
    return {k: 100 * count / len(queries) for k, count in found.items()}


def _memory_above(run: Callable[[], object]) -> int:
    """The most bytes that a run holds at once on this machine, beyond what is there already."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free in this process would serve the run unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the highest so far
    before = _highest()
    run()
    return _highest() - before


def _highest() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
