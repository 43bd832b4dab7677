"""CIF and the quantiser beside other ways to do the same."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.bench.cases import FRAMES_A_SECOND, Case, Row, Sizes
from sclip.bench.machine import Machine
from sclip.bench.timing import compare
from sclip.heads.cif import FIRING_MARGIN, integrate_and_fire
from sclip.heads.keywords import Quantizer
from sclip.padded import Padded

FRAMES_PER_SLOT = 20  # as the published configurations have it
PIECE = 64  # tokens of the vocabulary that the slow way is timed on
LOOPED = 4  # utterances of a batch that the loop over frames is timed on


def cif_case(sizes: Sizes, width: int, machine: Machine, device: torch.device) -> Case:
    """Forward and backward of a batch, in training: α scaled to a target."""
    frames = int(sizes.seconds[1] * FRAMES_A_SECOND)
    batch = _frames(sizes.batch, frames, width, device)
    few = tuple(tensor[:LOOPED] for tensor in batch)
    twice = _frames(sizes.batch, 2 * frames, width, device)
    alternatives: dict[str, Callable[[], object]] = {
        "one matrix product a batch row (ours)": partial(_both_ways, integrate_and_fire_slots, *batch),
        "scattered into slots": partial(_both_ways, scattered, *batch),
        "a loop over frames": partial(_both_ways, looped, *few),
        "ours, utterances twice as long": partial(_both_ways, integrate_and_fire_slots, *twice),
    }
    found = compare(alternatives, device, parts={"a loop over frames": LOOPED / sizes.batch})
    # Frames are read in both passes, and their gradient is written.
    floor = 3 * batch[0].nbytes / machine.bandwidth
    ours, scatter = integrate_and_fire_slots(*few), scattered(*few)
    return Case(
        "cif",
        f"Integrate-and-fire, forward and backward: {sizes.batch} utterances of {frames} frames of {width} numbers",
        [Row(timed, floor=floor if i == 0 else None) for i, timed in enumerate(found)],
        {
            "largest difference to scattering": (ours - scatter).abs().max().item(),
            "largest difference to the loop": (ours - looped(*few)).abs().max().item(),
        },
    )


def _frames(batch: int, frames: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (B, T, D), α (B, T), targets (B,)"""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(batch, frames, width, generator=generator).to(device).requires_grad_()
    alpha = torch.rand(batch, frames, generator=generator).to(device).mul_(0.2).requires_grad_()
    return values, alpha, torch.full((batch,), frames // FRAMES_PER_SLOT, device=device)


def _both_ways(slots_of: Callable[[Tensor, Tensor, Tensor], Tensor], *batch: Tensor) -> None:
    slots = slots_of(*batch)
    torch.autograd.grad(slots.sum(), batch[:2])


def integrate_and_fire_slots(frames: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    return integrate_and_fire(frames, alpha, target=target).slots.values


def _scaled(alpha: Tensor, target: Tensor) -> Tensor:
    """In fp64, as ours are: where a sum ends decides what fires."""
    alpha = alpha.double()
    return alpha * ((target + FIRING_MARGIN) / alpha.sum(-1))[:, None]


def scattered(frames: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    """Each frame added to the slot that it closes and to the one that it opens; none fills two."""
    alpha = _scaled(alpha, target)
    total = alpha.cumsum(-1)
    after = total.detach().floor()
    before = F.pad(after, (1, 0))[:, :-1]
    opens = torch.where(after > before, total - after, 0.0)
    count = int(target.max())
    slots = frames.new_zeros(len(frames), count + 2, frames.shape[2])
    for slot, share in ((before, alpha - opens), (after, opens)):
        place = slot.long().clamp(max=count + 1)[..., None].expand_as(frames)
        slots = slots.scatter_add(1, place, share.float()[..., None] * frames)
    return slots[:, :count]


def looped(frames: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    """As a recurrent network would: frame after frame, slot after slot."""
    alpha, count = _scaled(alpha, target), int(target.max())
    rows = []
    for row, weights in zip(frames, alpha, strict=True):
        slots: list[Tensor] = []
        held, weight = torch.zeros_like(row[0]), weights.new_zeros(())
        for frame, own in zip(row, weights, strict=True):
            if weight + own < 1:
                held, weight = held + own.float() * frame, weight + own
                continue
            closing = 1 - weight
            slots.append(held + closing.float() * frame)
            weight = own - closing
            held = weight.float() * frame
        rows.append(torch.stack(slots[:count]))
    return torch.stack(rows)


def vocabulary_case(sizes: Sizes, words: int, width: int, machine: Machine, device: torch.device) -> Case:
    """Slots to keywords, forward and backward."""
    slots_each = int(sizes.seconds[1] * FRAMES_A_SECOND) // FRAMES_PER_SLOT
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(words, width, generator=generator).to(device)
    slots = torch.randn(sizes.batch, slots_each, width, generator=generator).to(device).requires_grad_()
    quantize = Quantizer(table, [0, 1, 2], temperature=0.1).to(device).train()
    lengths = torch.full((sizes.batch,), slots_each, device=device)

    def ours() -> Tensor:
        return quantize(Padded(slots, lengths)).embeddings.values

    def one_by_one() -> Tensor:
        """A cosine similarity a token of the vocabulary, tables normalised each time."""
        cosines = torch.stack([F.cosine_similarity(slots, token, dim=-1) for token in table[:PIECE]], -1)
        return (cosines / 0.1).softmax(-1) @ table[:PIECE]

    piece = {"a cosine a token": min(1.0, PIECE / words)}
    alternatives: dict[str, Callable[[], object]] = {
        "one product with a normalised table (ours)": lambda: torch.autograd.grad(ours().sum(), slots),
        "a cosine a token": lambda: torch.autograd.grad(one_by_one().sum(), slots),
    }
    operations = 2 * sizes.batch * slots_each * words * width * 4  # both products, and one of each backwards
    found = compare(alternatives, device, parts=piece)
    question = f"Keywords, forward and backward: {sizes.batch} x {slots_each} slots among {words} tokens of {width}"
    return Case("vocabulary", question, [Row(found[0], floor=operations / machine.fp32), Row(found[1])])
