"""Continuous Integrate-and-Fire: how many keywords an utterance has, and where each of them lies.

Every frame gets a weight α between 0 and 1. The weights are summed along time; each time the sum passes the
threshold a slot fires, and what it holds is the α-weighted sum of the frames since the last firing. A frame that
passes the threshold is shared between the slot that it closes and the next.

- all of it is one small matrix a batch row, `slot_weights` (S, T), whose columns sum to α; slots are its product
  with the frames: no loop, no scatter, one result in whatever batch
- sums along time are in fp64: the last firing in training rests on 1e-5 in a sum of up to 75
- training: α may be scaled to meet a target length; what is left at the end never counts as a slot
- evaluation: a leftover of at least `tail` becomes a whole slot, a smaller one is dropped
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip import distributed
from sclip.config import CifConfig
from sclip.padded import Padded

# Added to a scaled sum so that rounding never costs the last slot.
FIRING_MARGIN = 1e-5


@dataclass(frozen=True)
class Firing:
    """Slots and where they come from."""

    slots: Padded  # (B, S, D)
    weights: Tensor  # (B, S, T): how much of each frame went into each slot
    alpha: Tensor  # (B, T), as integrated: scaled, where a target was given
    fired: Tensor  # (B, T), true at the frames that closed at least one slot
    truncated: Tensor  # (B,), true where more slots would have fired than there may be


@dataclass(frozen=True)
class CifOutput:
    firing: Firing
    quantity: Tensor  # (B,), the sum of α before scaling
    target: Tensor  # (B,), whole numbers


class TimeConvolution(nn.Conv1d):
    """Of frames (B, T, D) along time, zeros around them -> (B, T, D). One product of each frame and its neighbours: on
    a CPU CIF's weights take a seventh less time so than through torch's own convolution, both ways."""

    def forward(self, frames: Tensor) -> Tensor:
        (size,), count, kind = self.kernel_size, frames.shape[1], frames.device.type
        if torch.is_autocast_enabled(kind):  # before frames are laid out K times
            frames = frames.to(torch.get_autocast_dtype(kind))
        around = F.pad(frames, (0, 0, size // 2, size // 2))
        near = torch.cat([around[:, i : i + count] for i in range(size)], -1)  # (B, T, K * D)
        return F.linear(near, self.weight.transpose(1, 2).flatten(1), self.bias)


class Cif(nn.Module):
    def __init__(self, width: int, config: CifConfig):
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList(TimeConvolution(width, width, config.kernel) for _ in range(config.layers))
        self.score = nn.Linear(width, 1)

    def alpha(self, frames: Padded) -> Tensor:
        """(B, T, D) -> (B, T), zero on padding"""
        x, valid = frames.values, frames.valid[..., None]
        for i, convolution in enumerate(self.convolutions, 1):
            if not self.config.convolves_padding:
                x = x * valid
            # As published, a dropout behind each layer and one more in front of the score: the last does both at once.
            keeps = (1 - self.config.dropout) ** (2 if i == len(self.convolutions) else 1)
            x = F.dropout(convolution(x).relu(), 1 - keeps, self.training)
        return self.score(x).squeeze(-1).float().sigmoid() * frames.valid

    def forward(self, frames: Padded, step: int = 0) -> CifOutput:
        """(B, T, D) -> slots. `step` counts training steps and means nothing in evaluation."""
        config = self.config
        target = (frames.lengths / config.frames_per_slot).round()  # half to even, as published
        alpha = self.alpha(frames)
        firing = integrate_and_fire(
            frames.values,
            alpha,
            config.threshold,
            config.max_slots,
            tail=None if self.training else config.tail,
            target=target if self.training and step < config.scaled_steps else None,
        )
        return CifOutput(firing, alpha.sum(-1), target.long())


def integrate_and_fire(
    frames: Tensor,
    alpha: Tensor,
    threshold: float = 1.0,
    max_slots: int = 75,
    tail: float | None = None,
    target: Tensor | None = None,
) -> Firing:
    """frames (B, T, D) and α (B, T), zero on padding -> slots (B, S, D), at least one an utterance.

    With `tail` as in evaluation. Without, what is left after the last firing stays, uncounted, in the next slot if
    another utterance makes the batch wide enough for it. With `target` (B,) α is scaled so that as many slots fire.
    """
    # Apple's GPUs have no fp64: there the weights are worked out on the CPU.
    total = (alpha.cpu() if alpha.device.type == "mps" else alpha).double().cumsum(-1)
    if target is not None:
        wanted, last = threshold * target.to(total) + FIRING_MARGIN, total[:, -1]
        total = total * (wanted / torch.where(last > 0, last, 1.0))[:, None]
    firings = (total[:, -1] / threshold).floor().nan_to_num(0)  # not a number where training diverges
    truncated, lengths = firings > max_slots, firings.clamp(1, max_slots).long()
    integrated = torch.diff(total, prepend=torch.zeros_like(total[:, :1]))
    slots = int(lengths.max())
    if tail is None:  # the batch is as wide in every process
        slots = distributed.all_max(slots, frames.device)
    weights, fired = slot_weights(total, integrated, threshold, slots)
    if tail is not None:
        weights, lengths, truncated = _fire_tail(weights, lengths, threshold, max_slots, tail)
        slots = int(lengths.max())
    found = (weights[:, :slots].float(), lengths, integrated.float(), fired, truncated)
    weights, lengths, integrated, fired, truncated = (t.to(frames.device) for t in found)
    with torch.autocast(frames.device.type, enabled=False):
        gathered = weights @ frames.float()
    return Firing(Padded(gathered, lengths), weights, integrated, fired, truncated)


def slot_weights(total: Tensor, alpha: Tensor, threshold: float, slots: int) -> tuple[Tensor, Tensor]:
    """Running sums (B, T) of α -> weights (B, slots + 1, T) whose columns sum to α, and which frames fire (B, T).

    The last row takes whatever does not fit into the slots.
    """
    with torch.no_grad():
        after = (total / threshold).floor().clamp(max=slots)  # the slot that is open behind each frame
        before = F.pad(after, (1, 0))[:, :-1]  # and in front of it
        fires = after - before
    opens = torch.where(fires > 0, total - after * threshold, 0.0)  # the share of the slot that it opens
    closes = alpha - opens - (fires - 1).clamp(min=0) * threshold  # and of the one that it found open
    slot = torch.arange(slots + 1, device=total.device, dtype=total.dtype)[:, None]  # (S+1, 1)
    before, after = before[:, None], after[:, None]  # (B, 1, T)
    weights = (slot == before) * closes[:, None] + (slot == after) * opens[:, None]
    weights = weights + ((before < slot) & (slot < after)) * threshold  # slots filled by this frame alone
    return weights, fires > 0


def _fire_tail(
    weights: Tensor, lengths: Tensor, threshold: float, max_slots: int, tail: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale a large leftover up to a slot and drop a small one. Where nothing fired, the one slot stays as it is.

    Returns weights, lengths (B,), and (B,) where a slot more did not fit.
    """
    slot = torch.arange(weights.shape[1], device=weights.device)  # (S+1,)
    rest = weights.sum(-1).gather(1, lengths[:, None])  # (B, 1), what lies in the slot behind the last
    large = rest >= tail
    scale = torch.where(large, threshold / torch.where(large, rest, 1.0), 1.0)
    is_rest = slot == lengths[:, None]  # (B, S+1)
    weights = weights * torch.where(is_rest, scale, 1.0)[..., None]
    wanted = lengths + large[:, 0]
    lengths = wanted.clamp(max=max_slots)
    return weights * (slot < lengths[:, None])[..., None], lengths, wanted > max_slots
