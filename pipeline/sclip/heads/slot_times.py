"""Find the peak and the span of each keyword slot in time.

A slot takes its frames with weights: CIF's own weights, or for a fixed slot the attention weights of its learned token,
averaged over the heads. Its peak is the middle of the frame with the greatest weight. Its span is all frames of a CIF
slot, and for a fixed slot the frames around the peak with at least half of the peak's weight. The last frame may end
after the recording, if the head averages neighbouring frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_WEIGHT = 1e-6  # a smaller weight is the rounding error of a frame that fills a CIF slot exactly


@dataclass(frozen=True)
class SlotTimes:
    """Hold the peaks and spans of the slots of N utterances, in seconds."""

    peaks: Tensor  # (N, S)
    spans: Tensor  # (N, S, 2): start and end


def find_slot_times(weights: Tensor, is_cif: bool, frame_seconds: float) -> SlotTimes:
    """Return the peaks and spans of slots with weights (B, S, T) of their frames, which must be on the CPU."""
    count = weights.shape[-1]
    frame = torch.arange(count)
    greatest, peak = weights.max(-1, keepdim=True)
    if is_cif:
        belongs = weights > LEAST_WEIGHT
        first = torch.where(belongs, frame, count).amin(-1)
        last = torch.where(belongs, frame + 1, 0).amax(-1)
    else:  # the frames around the peak, up to the nearest one on each side that is below half of its weight
        below = (weights < greatest / 2) | (weights == 0)
        first = torch.where(below & (frame < peak), frame + 1, 0).amax(-1)
        last = torch.where(below & (frame > peak), frame, count).amin(-1)
    # A CIF slot without frames gets an empty span.
    spans = torch.stack([first.minimum(last), last], -1).double() * frame_seconds
    return SlotTimes((peak[..., 0] + 0.5).double() * frame_seconds, spans)
