"""Search for the vectors with the largest inner products: exactly, or approximately by faiss."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip.errors import UserError, one_line
from sclip.files import atomic_file

log = logging.getLogger(__name__)

BLOCK_BYTES = 2**27  # of the vectors that are multiplied at a time
QUERIES = 256  # that are multiplied at a time
# Settings of faiss. It compares a query with every vector if there are fewer than FLAT_BELOW. From there on, N vectors
# are divided into 4 √N lists, with one byte for each number. To train a list, faiss asks for 39 vectors or more, which
# FLAT_BELOW vectors give; it gets TRAINED_PER_LIST or fewer. A search reads PROBES lists or more, takes CANDIDATES
# times as many vectors as are asked for, but LEAST_CANDIDATES or more, and ranks them by exact products.
FLAT_BELOW, PROBES, CANDIDATES, LEAST_CANDIDATES, TRAINED_PER_LIST = 25_000, 64, 10, 100, 64
NOT_FINITE = "the vectors hold numbers that are not finite; make the index again"


def nearest(vectors: Tensor, queries: Tensor, top: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Return the `top` largest products of queries (Q, J) with vectors (N, J), and their rows: (Q, top) each."""
    parts = [_nearest(vectors, part.to(device, torch.float32), top) for part in torch.split(queries, QUERIES)]
    scores, rows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    if not bool(scores.isfinite().all()):
        raise UserError(NOT_FINITE)
    return scores, rows


def _nearest(vectors: Tensor, queries: Tensor, top: int) -> tuple[Tensor, Tensor]:
    best = torch.empty(len(queries), 0, device=queries.device)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    size, start = max(1, BLOCK_BYTES // (4 * vectors.shape[1])), 0
    for block in torch.split(vectors, size):
        block_best = (queries @ block.to(queries.device).T).topk(min(top, len(block)))  # (Q, top)
        best, chosen = torch.cat([best, block_best.values], 1).topk(min(top, start + len(block)))
        rows = torch.cat([rows, block_best.indices + start], 1).gather(1, chosen)
        start += len(block)
    return best.cpu(), rows.cpu()


def nearest_by_faiss(vectors: Tensor, queries: Tensor, top: int, file: Path) -> tuple[Tensor, Tensor]:
    """Do the same approximately, by a faiss index in `file`, which is built at the first search.

    Each query gets `top` rows, or all if there are fewer. They do not depend on the other queries.
    """
    faiss = _import_faiss()
    try:
        approximate = faiss.read_index(str(file)) if file.exists() else _build(faiss, vectors, file)
    except RuntimeError:
        if file.exists():
            raise UserError(f"{file}: damaged; delete it, and the next search builds it again") from None
        approximate = _build(faiss, vectors, file)  # `sclip index` has removed it meanwhile
    if (approximate.ntotal, approximate.d) != tuple(vectors.shape):
        raise UserError(f"{file}: not of these vectors; delete it, and the next search builds it again")
    wanted, queries = min(top, len(vectors)), queries.float().cpu()
    count = min(len(vectors), max(LEAST_CANDIDATES, CANDIDATES * top))
    scores, rows = torch.empty(len(queries), wanted), torch.empty(len(queries), wanted, dtype=torch.int64)
    waiting, lists = list(range(len(queries))), getattr(approximate, "nlist", 1)
    probes = min(PROBES, lists)
    while waiting:
        if lists > 1:
            approximate.nprobe = probes
        found = torch.from_numpy(approximate.search(queries[waiting].numpy(), count)[1])  # (W, count)
        short = []
        for query, candidates in zip(waiting, found, strict=True):
            candidates = candidates[candidates >= 0].sort().values  # fewer than asked for have the row -1
            if len(candidates) < wanted:
                short.append(query)
                continue
            best = (vectors[candidates] @ queries[query]).topk(wanted)
            scores[query], rows[query] = best.values, candidates[best.indices]
        if short and probes == lists:
            raise UserError(NOT_FINITE)
        waiting, probes = short, min(2 * probes, lists)
    return scores, rows


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("--engine faiss needs the package faiss-cpu; run pip install faiss-cpu") from None
    return faiss


def _build(faiss: Any, vectors: Tensor, file: Path) -> Any:
    """Build a faiss index of vectors (N, J), and write it atomically for the next search, if that is possible."""
    count, width = vectors.shape
    lists = 4 * math.isqrt(count)
    kind = "Flat" if count < FLAT_BELOW else f"IVF{lists},SQ8"
    log.info(f"building a faiss index ({kind}) of {count:,} vectors")
    index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        sample = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: TRAINED_PER_LIST * lists]
        index.train(vectors[sample.sort().values].numpy())
    for block in torch.split(vectors, max(1, BLOCK_BYTES // (4 * width))):
        index.add(block.contiguous().numpy())
    try:
        with atomic_file(file) as unfinished:
            faiss.write_index(index, str(unfinished))
    except (OSError, RuntimeError) as error:  # no permission, a full disk, or `sclip index` has replaced the vectors
        log.warning(f"{file}: cannot be written, so the next search builds it again: {one_line(error)}")
    return index
