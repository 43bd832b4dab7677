"""The five architectures: results do not depend on the batch, and unused outputs are not computed."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import QuickGELU, TextTransformer
from small import ARCHITECTURES

from sclip.encoders.clip import TextTower
from sclip.errors import UserError
from sclip.heads.head import EncoderSizes, SpeechHead
from sclip.objective import Objective
from sclip.padded import Padded

SIZES = EncoderSizes(states=3, speech_width=16, token_width=12, joint_width=10)


def head_and_tower(arch: str) -> tuple[SpeechHead, TextTower]:
    torch.manual_seed(0)
    text = TextTransformer(77, 40, 12, 2, 2, output_dim=10, act_layer=QuickGELU).eval()
    torch.nn.init.normal_(text.token_embedding.weight)
    tower = TextTower(text.requires_grad_(False), 38, 39)
    head = SpeechHead(ARCHITECTURES[arch].head, SIZES, tower.table[:30], blocked=[0])
    torch.nn.init.normal_(head.weighting.logits)
    return head, tower


def test_params_yaml_has_the_five_architectures_of_the_papers():
    assert {"parallel", "cascaded", "cascaded-cif", "hybrid", "hybrid-cif"} <= ARCHITECTURES.keys()


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHITECTURES)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=5), st.integers(0, 7), st.randoms(use_true_random=False))
def test_a_result_does_not_depend_on_batch_or_padding(arch, lengths, extra_padding, random):
    head, tower = head_and_tower(arch)
    head.eval()
    generator = torch.Generator().manual_seed(random.randint(0, 99))
    utterances = [torch.randn(3, n, 16, generator=generator) for n in lengths]
    order = random.sample(range(len(lengths)), len(lengths))
    batch = Padded.stack([utterances[i] for i in order])
    padded = torch.randn(len(order), 3, max(lengths) + extra_padding, 16, generator=generator) * 9
    for row, i in zip(padded, order, strict=True):
        row[:, : lengths[i]] = utterances[i]
    batched = head(Padded(padded, batch.lengths), tower)
    for b, i in enumerate(order):
        single = head(Padded(utterances[i][None], torch.tensor([lengths[i]])), tower)
        for name in ("utterance", "sentence"):
            expected, actual = getattr(single, name), getattr(batched, name)
            assert (expected is None) == (actual is None)
            if expected is not None:
                torch.testing.assert_close(actual[b], expected[0], rtol=1e-4, atol=1e-5)
        if single.keywords is not None:
            slots = int(single.keywords.embeddings.lengths)
            assert slots == int(batched.keywords.embeddings.lengths[b])
            assert torch.equal(batched.keywords.rows[b, :slots], single.keywords.rows[0])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_parameter_gets_a_finite_gradient(arch, half):
    head, tower = head_and_tower(arch)
    objective = Objective(ARCHITECTURES[arch].objective)
    states = Padded(torch.randn(6, 3, 90, 16), torch.tensor([90, 80, 70, 60, 50, 41]))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = head.train()(states, tower, step=0)
        losses = objective(output, torch.randn(6, 10), torch.arange(6))
    losses.total.backward()
    for name, parameter in [*head.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(p.grad is None for p in tower.tower.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_empty_utterance_gives_finite_outputs_and_gradients(arch, training):
    head, tower = head_and_tower(arch)
    states = Padded(torch.randn(3, 3, 45, 16), torch.tensor([45, 0, 44]))
    output = head.train(training)(states, tower)
    for vectors in (output.utterance, output.sentence):
        if vectors is not None:
            assert vectors.isfinite().all()
    if training:
        sum(v.sum() for v in (output.utterance, output.sentence) if v is not None).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_unused_outputs_are_not_computed():
    """The text tower runs on the keywords and two more positions only. No frame is projected if there is no CIF."""
    for arch, positions in (("parallel", []), ("cascaded", [10]), ("hybrid", [10])):
        head, tower = head_and_tower(arch)
        lengths = []
        tower.tower.transformer.register_forward_hook(lambda _, args, out, to=lengths: to.append(out.shape[1]))
        head.attention.qkv.register_forward_hook(lambda *_: pytest.fail("frames were projected"))
        head.eval()(Padded(torch.randn(2, 3, 20, 16), torch.tensor([20, 9])), tower)
        assert lengths == positions


def test_decisive_sums_stay_fp32_under_autocast():
    """CIF's firings and the keywords' cosines are fp32 in every precision."""
    head, tower = head_and_tower("hybrid-cif")
    states = Padded(torch.randn(2, 3, 40, 16).half(), torch.tensor([40, 25]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = head.eval()(states, tower)
    firing = output.cif.firing
    assert output.cif.firing.alpha.dtype == firing.slots.values.dtype == output.keywords.cosines.dtype == torch.float32
    first_slot = firing.weights.sum(-1)[:, 0]
    torch.testing.assert_close(first_slot, torch.ones(2))


def test_heads_must_divide_the_width():
    config = ARCHITECTURES["parallel"].head
    config = dataclasses.replace(config, attention=dataclasses.replace(config.attention, heads=5))
    with pytest.raises(UserError, match=r"attention\.heads: 5 heads do not divide a width of 16"):
        SpeechHead(config, SIZES)
