"""CLIP's text tower as CUDA graphs, for training.

The tower is frozen, and its sentences are short: a training step runs hundreds of kernels that take less time on a GPU
than their launches on the CPU. A CUDA graph launches all of them at once. There is one graph of the forward pass and
one of the backward pass for each batch size and length. The longest sentence of a batch decides the length, and lengths
are rounded up to even numbers, so a training needs few.

- Padding behind a sentence's end changes nothing, because the tower's attention is causal.
- **The output and the gradient lie in memory that the next pass overwrites.** So a forward pass must be followed by its
  backward pass before the next forward pass, as the Trainer does, also where it accumulates gradients.
- All graphs share memory: a pair of passes is finished before the next one begins. But larger tensors cannot use what
  the tensors of a smaller graph left. So a size above all earlier ones discards their graphs, with their memory.
- A graph holds the addresses of the weights. They must not move to another device after the first step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sclip.encoders.clip import TextTower

MULTIPLE = 2  # positions; lengths are rounded up to a multiple of it
WARM_UPS = 3  # passes before a capture, in which libraries choose their kernels and allocate memory


class GraphedTextTower(TextTower):
    """A text tower whose passes with a gradient are CUDA graphs. Without a gradient it computes as usual."""

    def __init__(self, plain: TextTower):
        super().__init__(plain.tower, plain.start, plain.end, plain.special_tokens)
        self._passes: dict[tuple[int, int, torch.dtype | None], _Passes] = {}
        self._largest = 0  # positions in a batch

    def run(self, x: Tensor, last: Tensor) -> Tensor:
        """Encode token embeddings (B, N, W) as TextTower does. Capture the graphs of this size if they are new."""
        if not x.requires_grad:
            return super().run(x, last)
        batch, count, _ = x.shape
        size = padded_size(count, self.context_length)
        precision = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
        key = (batch, size, precision)
        if key not in self._passes:
            self._passes[key] = self._capture(x, last, size)
        return _Replay.apply(x, last, self._passes[key])  # type: ignore[no-untyped-call]

    def _capture(self, x: Tensor, last: Tensor, size: int) -> "_Passes":
        with torch.cuda.device(x.device):
            if len(x) * size > self._largest:
                torch.cuda.synchronize()
                self._passes.clear()
                self._largest, self._pool = len(x) * size, torch.cuda.graph_pool_handle()
                self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            static_x = x.new_zeros(len(x), size, x.shape[2]).requires_grad_()
            return _Passes(super().run, static_x, last.clone(), self._stream, self._pool)


def padded_size(count: int, context_length: int) -> int:
    """Return the number of positions that `count` positions are padded to."""
    return min(-(-count // MULTIPLE) * MULTIPLE, context_length)


class _Passes:
    """The graphs of a forward and a backward pass, and the tensors that they read and write."""

    def __init__(self, run: Any, x: Tensor, last: Tensor, stream: torch.cuda.Stream, pool: Any):
        """Capture `run(x, last)`, in the current precision, and the gradient of `x`."""
        self.x, self.last = x, last
        kind, enabled = x.device.type, torch.is_autocast_enabled(x.device.type)
        # A cached cast of a weight would be freed, or come from outside of the graph.
        precision = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled, cache_enabled=False)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                with precision:
                    output = run(x, last)
                torch.autograd.grad(output, x, torch.zeros_like(output))
        del output
        torch.cuda.synchronize()
        self.forward_graph, self.backward_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # A thread that prefetches batches may allocate memory during a capture, hence `thread_local`.
        options: dict[str, Any] = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self.forward_graph, **options), precision:
            output = run(x, last)
        self.output_gradient = torch.zeros_like(output)
        with torch.cuda.graph(self.backward_graph, **options):
            (self.x_gradient,) = torch.autograd.grad(output, x, self.output_gradient)
        self.output = output.detach()

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        count = x.shape[1]
        self.x[:, :count].copy_(x)
        self.x[:, count:].zero_()
        self.last.copy_(last)
        self.forward_graph.replay()
        return self.output.detach()

    def backward(self, gradient: Tensor) -> Tensor:
        self.output_gradient.copy_(gradient)
        self.backward_graph.replay()
        return self.x_gradient.detach()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, last: Tensor, passes: _Passes) -> Tensor:
        ctx.passes, ctx.count = passes, x.shape[1]
        return passes.forward(x, last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.passes.backward(gradient)[:, : ctx.count], None, None
