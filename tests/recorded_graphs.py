"""CUDA graphs on the CPU: a capture records operations with their tensors, and a replay runs them on the same tensors.

As on a GPU, a replay reads what its input tensors hold then, and overwrites the results of the capture.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph:
    captures = 0

    def __init__(self):
        self.operations = []

    def replay(self):
        with torch.no_grad():
            for operation, args, kwargs, results in self.operations:
                again = operation(*args, **kwargs)
                for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        detached = torch.utils._pytree.tree_map(
            lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs or {}, results)
        )
        self.graph.operations.append((operation, *detached))
        return results


@contextmanager
def _capture(graph, pool, stream, capture_error_mode):
    assert (pool, stream, capture_error_mode) == ("pool", "stream", "thread_local")
    RecordedGraph.captures += 1
    with _Recording(graph):
        yield


def record_graphs(monkeypatch):
    """Let torch.cuda's graphs record on the CPU."""
    RecordedGraph.captures = 0
    for name, replacement in {
        "CUDAGraph": RecordedGraph,
        "graph": _capture,
        "Stream": lambda: "stream",
        "graph_pool_handle": lambda: "pool",
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
