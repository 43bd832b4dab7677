"""Find the peak and the span of each keyword slot in time.

A slot takes its frames with weights: CIF's own weights, or for a fixed slot the attention weights of its learned token,
averaged over the heads. Its peak is the middle of the frame with the greatest weight. Its span is all frames of a CIF
slot, and for a fixed slot the frames around the peak with at least half of the peak's weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-6  # a smaller weight is the rounding error of a frame that fills a CIF slot exactly


@dataclass(frozen=True)
class Places:
    """Hold where the slots of N utterances lie, in seconds."""

    peaks: Tensor  # (N, S)
    spans: Tensor  # (N, S, 2): start and end


def find_places(weights: Tensor, is_cif: bool, frame_seconds: float) -> Places:
    """Return the places of slots with the weights (B, S, T) of their frames. The weights must be on the CPU."""
    count = weights.shape[-1]
    frame = torch.arange(count)
    greatest, peak = weights.max(-1, keepdim=True)
    if is_cif:
        belongs = weights > LEAST_WEIGHT
        first = torch.where(belongs, frame, count).amin(-1)
        last = torch.where(belongs, frame + 1, 0).amax(-1)
    else:  # from the last gap before the peak to the first gap after it
        gap = (weights < greatest / 2) | (weights == 0)
        first = torch.where(gap & (frame < peak), frame + 1, 0).amax(-1)
        last = torch.where(gap & (frame > peak), frame, count).amin(-1)
    spans = torch.stack([first.minimum(last), last], -1).double() * frame_seconds
    return Places((peak[..., 0] + 0.5).double() * frame_seconds, spans)
