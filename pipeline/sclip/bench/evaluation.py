"""Time retrieval with confidence intervals against the published way: sort all candidates, and loop over rows."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import Case, Measurement
from sclip.bench.timing import compare
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.retrieval import AT, first_ranks, recalls
from sclip.evaluation.scores import scores

UTTERANCES, PICTURES, WIDTH = 25_000, 5_000, 512
SLICE = 200  # queries that the published way is timed on


def evaluation_case(device: torch.device) -> Case:
    """Time the evaluation of both directions, and measure its memory."""
    speech, images, owners = _random_vectors(device)
    pictures = torch.arange(PICTURES, device=device)

    def ours() -> None:
        bootstrap = Bootstrap(PICTURES, 0, device)
        for ranks, ids in zip(first_ranks(speech, owners, images, pictures), (owners, pictures), strict=True):
            scores(ranks, ids, bootstrap)

    def published() -> None:
        sort_and_loop(speech[:SLICE], owners[:SLICE], images, pictures)
        sort_and_loop(images[:SLICE], pictures[:SLICE], speech, owners)

    # The time of a query is proportional to the number of its candidates.
    share = SLICE * (PICTURES + UTTERANCES) / (2 * UTTERANCES * PICTURES)
    memory = peak_memory(ours)
    times = compare({"counted in blocks, with intervals (ours)": ours, "sorted, rows looped over": published}, device,
                    rounds=3, parts={"sorted, rows looped over": share})  # fmt: skip
    expected = sort_and_loop(speech[:SLICE], owners[:SLICE], images, pictures)
    actual = recalls(first_ranks(speech[:SLICE], owners[:SLICE], images, pictures)[0])
    return Case(
        "evaluation",
        f"{UTTERANCES:,} utterances and {PICTURES:,} pictures, both ways, with 1,000 resamplings",
        [Measurement(timed) for timed in times],
        {"the same recalls": expected == actual, "memory of the CPU above the vectors, GB": round(memory / 1e9, 2)},
    )


def _random_vectors(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw vectors of pictures, vectors of utterances near them, and the picture number of each utterance.

    Return the utterances' vectors, the pictures' vectors and the picture numbers.
    """
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(PICTURES, WIDTH, generator=generator), dim=-1)
    owners = torch.arange(UTTERANCES) % PICTURES
    noise = torch.randn(UTTERANCES, WIDTH, generator=generator) * 0.2
    speech = F.normalize(images[owners] + noise, dim=-1)
    return speech.to(device), images.to(device), owners.to(device)


def sort_and_loop(queries: Tensor, ids: Tensor, candidates: Tensor, candidate_ids: Tensor) -> dict[int, float]:
    """Compute recalls in % by sorting all candidates of each query and searching the first K of each row."""
    order = (queries @ candidates.T).argsort(dim=1, descending=True)
    hits = dict.fromkeys(AT, 0)
    for row, query_id in zip(order, ids.tolist(), strict=True):
        ranked = candidate_ids[row].tolist()
        for k in AT:
            hits[k] += query_id in ranked[:k]
    return {k: 100 * count / len(queries) for k, count in hits.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """Return by how many bytes a run raises the memory of this process at its peak."""
    ctypes.CDLL(None).malloc_trim(0)  # the run could reuse free memory of this process, which would not be counted
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    before = _process_peak()
    run()
    return _process_peak() - before


def _process_peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
