"""Continuous Integrate-and-Fire (CIF): find the number of keywords in an utterance and the position of each.

Every frame gets a weight α between 0 and 1. The weights are summed along time. Each time the sum reaches a multiple of
the threshold, a slot fires. The slot is the α-weighted sum of the frames since the previous firing. A frame that makes
a slot fire is shared between that slot and the next one.

- `slot_weights` computes one small matrix (S, T) per utterance, whose columns sum to α. The slots are the product of
  this matrix and the frames. There is no loop and no scatter, and the result does not depend on the batch.
- Sums along time are in fp64, because a scaled sum of up to 75 passes its last multiple by only FIRING_MARGIN.
- In training, α may be scaled to reach a target length. The remainder after the last firing is not a slot, unless
  nothing fired.
- In evaluation, a remainder of at least `tail` is scaled up to a full slot. A smaller one is dropped.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip import distributed
from sclip.config import CifConfig
from sclip.device import as_autocast, fp64
from sclip.padded import Padded

# This margin is added to a scaled sum. Without it, rounding could lose the last slot.
FIRING_MARGIN = 1e-5


@dataclass(frozen=True)
class Firing:
    """Slots, and the weights of the frames that they are made of."""

    slots: Padded  # (B, S, D)
    weights: Tensor  # (B, S, T): the weight of each frame in each slot
    alpha: Tensor  # (B, T): the integrated weights, scaled if there was a target
    fired: Tensor  # (B, T): true for frames that made at least one slot fire
    truncated: Tensor  # (B,): true for utterances with more than `max_slots` firings


@dataclass(frozen=True)
class CifOutput:
    firing: Firing
    quantity: Tensor  # (B,): the sum of α before scaling
    target: Tensor  # (B,): integers


class TimeConvolution(nn.Conv1d):
    """A convolution along time with zero padding.

    On a CPU it is one matrix product of each frame and its neighbours. Computing CIF's weights this way takes a seventh
    less time, forward and backward, than with torch's convolution. On a GPU, cuDNN convolves the frames as they lie in
    memory if they are given as an image with one row.
    """

    def forward(self, frames: Tensor) -> Tensor:
        """Convolve the frames: (B, T, D) -> (B, T, D)."""
        (size,), count = self.kernel_size, frames.shape[1]
        if frames.is_cuda:
            image, weight = frames.mT[:, :, None], self.weight[:, :, None]  # (B, D, 1, T), (D, D, 1, K)
            weight = weight.contiguous(memory_format=torch.channels_last)
            return F.conv2d(image, weight, self.bias, padding=(0, size // 2)).squeeze(2).mT
        padded = F.pad(frames, (0, 0, size // 2, size // 2))
        neighbours = torch.cat([padded[:, i : i + count] for i in range(size)], -1)  # (B, T, K * D)
        return F.linear(neighbours, self.weight.transpose(1, 2).flatten(1), self.bias)


class Cif(nn.Module):
    def __init__(self, width: int, config: CifConfig):
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList(TimeConvolution(width, width, config.kernel) for _ in range(config.layers))
        self.score = nn.Linear(width, 1)

    def alpha(self, frames: Padded) -> Tensor:
        """Return the weight of each frame, zero for padding: (B, T, D) -> (B, T)."""
        x, valid = as_autocast(frames.values), frames.valid[..., None]  # cast before it is copied, which saves memory
        for i, convolution in enumerate(self.convolutions, 1):
            if not self.config.convolves_padding:
                x = torch.where(valid, x, 0.0)
            # The published code has a dropout after each layer and one more before the score. One dropout does both.
            retained = (1 - self.config.dropout) ** (2 if i == len(self.convolutions) else 1)
            x = F.dropout(convolution(x).relu(), 1 - retained, self.training)
        return self.score(x).squeeze(-1).float().sigmoid() * frames.valid

    def forward(self, frames: Padded, step: int = 0) -> CifOutput:
        """Compute the slots of frames (B, T, D). `step` is the training step; evaluation ignores it."""
        config = self.config
        # On a GPU, torch divides by a Python number by multiplying with its inverse, which is not exact: some halves
        # would be rounded to another integer than on a CPU.
        target = (frames.lengths / torch.full_like(frames.lengths, config.frames_per_slot)).round()  # half to even
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
    """Compute slots (B, S, D), at least one per utterance, from frames (B, T, D) and α (B, T), zero for padding.

    Evaluation passes `tail`: a remainder of at least this much fires too. Training passes None: the remainder does not
    fire. It stays in the row after the utterance's last slot, as padding, if the batch has such a row. `target` (B,)
    scales α so that this number of slots fires.
    """
    total = fp64(alpha).cumsum(-1)  # on the CPU if the device has no fp64; the results go back to the device
    if target is not None:
        scaled_sum, last = threshold * target.to(total) + FIRING_MARGIN, total[:, -1]
        total = total * (scaled_sum / torch.where(last > 0, last, 1.0))[:, None]
    firings = (total[:, -1] / threshold).floor().nan_to_num(0)  # the sum is NaN if training diverges
    truncated, lengths = firings > max_slots, firings.clamp(1, max_slots).long()
    integrated = torch.diff(total, prepend=torch.zeros_like(total[:, :1]))
    slots = int(lengths.max())
    if tail is None:  # in training, batches have the same number of slots in every process
        slots = distributed.all_max(slots)
    weights, fired = slot_weights(total, integrated, threshold, slots)
    if tail is not None:
        weights, lengths, truncated = _fire_tail(weights, lengths, threshold, max_slots, tail)
        slots = int(lengths.max())
    results = (weights[:, :slots].float(), lengths, integrated.float(), fired, truncated)
    weights, lengths, integrated, fired, truncated = (t.to(frames.device) for t in results)
    with torch.autocast(frames.device.type, enabled=False):
        values = weights @ frames.float()
    return Firing(Padded(values, lengths), weights, integrated, fired, truncated)


def slot_weights(total: Tensor, alpha: Tensor, threshold: float, slots: int) -> tuple[Tensor, Tensor]:
    """Compute the weight of each frame in each slot, from the running sums (B, T) of α.

    Return weights (B, slots + 1, T), whose columns sum to α, and a mask (B, T) of the frames that fire. The last row
    holds the weight that does not fit into the slots.
    """
    with torch.no_grad():
        after = (total / threshold).floor().clamp(max=slots)  # the slot that is open after each frame
        before = F.pad(after, (1, 0))[:, :-1]  # the slot that is open before each frame
        fires = after - before
    opens = torch.where(fires > 0, total - after * threshold, 0.0)  # the weight in the slot that the frame opens
    closes = alpha - opens - (fires - 1).clamp(min=0) * threshold  # the weight in the slot that was open before it
    slot = torch.arange(slots + 1, device=total.device, dtype=total.dtype)[:, None]  # (S+1, 1)
    before, after = before[:, None], after[:, None]  # (B, 1, T)
    weights = (slot == before) * closes[:, None] + (slot == after) * opens[:, None]
    weights = weights + ((before < slot) & (slot < after)) * threshold  # slots that this frame fills completely
    return weights, fires > 0


def _fire_tail(
    weights: Tensor, lengths: Tensor, threshold: float, max_slots: int, tail: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale a large remainder up to a full slot and drop a small one. If nothing fired, leave the one slot unchanged.

    Return the weights, the lengths (B,), and a mask (B,) of the utterances whose last slot does not fit.
    """
    slot = torch.arange(weights.shape[1], device=weights.device)  # (S+1,)
    rest = weights.sum(-1).gather(1, lengths[:, None])  # (B, 1), the weight in the slot after the last one that fired
    large = rest >= tail
    scale = torch.where(large, threshold / torch.where(large, rest, 1.0), 1.0)
    is_rest = slot == lengths[:, None]  # (B, S+1)
    weights = weights * torch.where(is_rest, scale, 1.0)[..., None]
    fired_slots = lengths + large[:, 0]
    lengths = fired_slots.clamp(max=max_slots)
    return weights * (slot < lengths[:, None])[..., None], lengths, fired_slots > max_slots
