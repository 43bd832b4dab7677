"""Time attention, CIF and the quantiser against other implementations."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import FRAMES_PER_SECOND, Case, Measurement, Workload, utterance_seconds
from sclip.bench.machine import Machine
from sclip.bench.timing import compare
from sclip.device import PRECISIONS, computes_bf16, plain_attention
from sclip.errors import counted
from sclip.heads.attention import (
    attend_by_products,
    attend_by_sequences,
    attend_with_mask,
    flash_attention_computes,
)
from sclip.heads.cif import FIRING_MARGIN, integrate_and_fire
from sclip.heads.keywords import Quantizer
from sclip.padded import Padded, valid_mask

FRAMES_PER_SLOT = 20  # the value of the published configurations
DROPOUT = 0.1  # of attention, in the published configurations
PIECE = 64  # tokens of the vocabulary that the slow implementation is timed on
LOOP_UTTERANCES = 4  # utterances of a batch that the loop over frames is timed on


def attention_case(workload: Workload, width: int, device: torch.device) -> Case:
    """Time the forward and backward pass of attention over all frames of a training batch.

    The published `cascaded-cif` has one head, as wide as a frame. Not every kernel is fast for heads that wide.
    """
    frames = int(workload.seconds[1] * FRAMES_PER_SECOND)
    lengths = (torch.tensor(utterance_seconds(workload, workload.batch)) * FRAMES_PER_SECOND).long().to(device)
    attended = valid_mask(lengths, frames)  # (B, T)
    states = torch.randn(3, workload.batch, frames, width, generator=torch.Generator().manual_seed(0))
    states = states.to(device, PRECISIONS[workload.precision] if computes_bf16(device) else torch.float32)
    implementations: dict[str, Callable[..., Tensor]] = {
        "torch's attention": attend_with_mask,
        "matrix products": attend_by_products,
    }
    alternatives: dict[str, Callable[[], object]] = {}
    differences = {}
    for heads in (1, 8):
        split = states.view(*states.shape[:3], heads, -1).clone().requires_grad_()  # (3, B, T, H, D/H)
        for name, attention in implementations.items():
            alternatives[f"{counted(heads, 'heads')}, {name}"] = partial(_attend, attention, split, attended)
        with torch.no_grad():
            exact = split.float().unbind()
            fused, products = (attention(*exact, attended, 0.0) for attention in implementations.values())
        differences[f"largest difference with {counted(heads, 'heads')}"] = (fused - products).abs().max().item()
    query, key, value = split.unbind()
    if flash_attention_computes(query, key, value, DROPOUT):
        alternatives["8 heads, sequences"] = partial(_attend, attend_by_sequences, split, attended)
        with torch.no_grad():
            rounded = attend_by_sequences(query, key, value, attended, 0.0).float()
        differences[f"largest difference of sequences in {workload.precision}"] = (rounded - fused).abs().max().item()
    with plain_attention(device):
        times = compare(alternatives, device)
    return Case(
        "attention",
        f"Attention, forward and backward: {workload.batch} utterances of {frames} frames of {width} numbers",
        [Measurement(timed) for timed in times],
        differences,
    )


def _attend(attention: Callable[..., Tensor], split: Tensor, attended: Tensor) -> None:
    """Run attention forward and backward, with queries, keys and values (3, B, T, H, D/H)."""
    torch.autograd.grad(attention(*split.unbind(), attended, DROPOUT).sum(), split)


def cif_case(workload: Workload, width: int, machine: Machine, device: torch.device) -> Case:
    """Time the forward and backward pass of a training batch, with α scaled to a target."""
    frames = int(workload.seconds[1] * FRAMES_PER_SECOND)
    batch = _random_frames(workload.batch, frames, width, device)
    small_batch = tuple(tensor[:LOOP_UTTERANCES] for tensor in batch)
    long_batch = _random_frames(workload.batch, 2 * frames, width, device)
    alternatives: dict[str, Callable[[], object]] = {
        "one matrix product for each batch row (ours)": partial(
            _forward_and_backward, integrate_and_fire_slots, *batch
        ),
        "scattered into slots": partial(_forward_and_backward, scatter_into_slots, *batch),
        "a loop over frames": partial(_forward_and_backward, loop_over_frames, *small_batch),
        "ours, utterances twice as long": partial(_forward_and_backward, integrate_and_fire_slots, *long_batch),
    }
    times = compare(alternatives, device, parts={"a loop over frames": LOOP_UTTERANCES / workload.batch})
    # Both passes read the frames, and the backward pass writes their gradient.
    floor = 3 * batch[0].nbytes / machine.bandwidth
    ours, scattered = integrate_and_fire_slots(*small_batch), scatter_into_slots(*small_batch)
    return Case(
        "cif",
        f"Integrate-and-fire, forward and backward: {workload.batch} utterances of {frames} frames of {width} numbers",
        [Measurement(timed, floor=floor if i == 0 else None) for i, timed in enumerate(times)],
        {
            "largest difference to scattering": (ours - scattered).abs().max().item(),
            "largest difference to the loop": (ours - loop_over_frames(*small_batch)).abs().max().item(),
        },
    )


def _random_frames(batch: int, frames: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw frames (B, T, D), α (B, T) and targets (B,)."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(batch, frames, width, generator=generator).to(device).requires_grad_()
    alpha = torch.rand(batch, frames, generator=generator).to(device).mul_(0.2).requires_grad_()
    return values, alpha, torch.full((batch,), frames // FRAMES_PER_SLOT, device=device)


def _forward_and_backward(slots_of: Callable[[Tensor, Tensor, Tensor], Tensor], *batch: Tensor) -> None:
    slots = slots_of(*batch)
    torch.autograd.grad(slots.sum(), batch[:2])


def integrate_and_fire_slots(frames: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    return integrate_and_fire(frames, alpha, target=target).slots.values


def _scale(alpha: Tensor, target: Tensor) -> Tensor:
    """Scale α in fp64, as CIF does, because the last digits of a sum decide what fires."""
    alpha = alpha.double()
    return alpha * ((target + FIRING_MARGIN) / alpha.sum(-1))[:, None]


def scatter_into_slots(frames: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    """Compute slots by adding each frame to the slot that it closes and to the one that it opens.

    This is correct only if no frame fills a slot completely.
    """
    alpha = _scale(alpha, target)
    total = alpha.cumsum(-1)
    after = total.detach().floor()
    before = F.pad(after, (1, 0))[:, :-1]
    opens = torch.where(after > before, total - after, 0.0)
    count = int(target.max())
    slots = frames.new_zeros(len(frames), count + 2, frames.shape[2])
    for slot, share in ((before, alpha - opens), (after, opens)):
        index = slot.long().clamp(max=count + 1)[..., None].expand_as(frames)
        slots = slots.scatter_add(1, index, share.float()[..., None] * frames)
    return slots[:, :count]


def loop_over_frames(frames: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    """Compute slots in a Python loop over frames."""
    alpha, count = _scale(alpha, target), int(target.max())
    rows = []
    for row, weights in zip(frames, alpha, strict=True):
        slots: list[Tensor] = []
        open_slot, weight = torch.zeros_like(row[0]), weights.new_zeros(())
        for frame, frame_weight in zip(row, weights, strict=True):
            if weight + frame_weight < 1:
                open_slot, weight = open_slot + frame_weight.float() * frame, weight + frame_weight
                continue
            closing = 1 - weight
            slots.append(open_slot + closing.float() * frame)
            weight = frame_weight - closing
            open_slot = weight.float() * frame
        rows.append(torch.stack(slots[:count]))
    return torch.stack(rows)


def vocabulary_case(workload: Workload, words: int, width: int, machine: Machine, device: torch.device) -> Case:
    """Time the forward and backward pass of the quantiser."""
    slot_count = int(workload.seconds[1] * FRAMES_PER_SECOND) // FRAMES_PER_SLOT
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(words, width, generator=generator).to(device)
    slots = torch.randn(workload.batch, slot_count, width, generator=generator).to(device).requires_grad_()
    quantize = Quantizer(table, [0, 1, 2], temperature=0.1).to(device).train()
    lengths = torch.full((workload.batch,), slot_count, device=device)

    def ours() -> Tensor:
        return quantize(Padded(slots, lengths)).embeddings.values

    def token_by_token() -> Tensor:
        """Compute the cosines of one token after the other, normalising the slots each time."""
        cosines = torch.stack([F.cosine_similarity(slots, token, dim=-1) for token in table[:PIECE]], -1)
        return (cosines / 0.1).softmax(-1) @ table[:PIECE]

    alternatives: dict[str, Callable[[], object]] = {
        "one product with a normalised table (ours)": lambda: torch.autograd.grad(ours().sum(), slots),
        "a cosine for each token": lambda: torch.autograd.grad(token_by_token().sum(), slots),
    }
    operations = 2 * workload.batch * slot_count * words * width * 4  # two products in each direction
    times = compare(alternatives, device, parts={"a cosine for each token": min(1.0, PIECE / words)})
    question = f"Keywords, forward and backward: {workload.batch} x {slot_count} slots among {words} tokens of {width}"
    return Case("vocabulary", question, [Measurement(times[0], floor=operations / machine.fp32), Measurement(times[1])])
