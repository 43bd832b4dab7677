"""The losses equal a computation by hand."""

import math
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F

from sclip.config import ObjectiveConfig
from sclip.contrastive import contrastive_loss
from sclip.heads.head import HeadOutput
from sclip.objective import Objective

ONE = torch.tensor(1.0)


def loop_over_examples(speech, images, ids, scale, margin) -> float:
    """Compute the contrastive loss in a loop over examples, with both directions."""
    a, b = F.normalize(speech, dim=-1), F.normalize(images, dim=-1)
    total = 0.0
    for rows, columns in ((a, b), (b, a)):
        for i in range(len(rows)):
            own = float(scale * rows[i] @ columns[i]) - margin
            others = [float(scale * rows[i] @ columns[j]) for j in range(len(rows)) if ids[j] != ids[i]]
            total += -own + math.log(math.exp(own) + sum(map(math.exp, others)))
    return total / 2 / len(a)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_contrastive_loss_equals_the_loop(margin):
    speech, images, ids = torch.randn(7, 5), torch.randn(7, 5), torch.tensor([1, 2, 2, 3, 1, 1, 4])
    images[4] = images[5] = images[0]
    images[2] = images[1]
    loss = contrastive_loss(speech, images, ids, torch.tensor(5.0), margin)
    assert float(loss) == pytest.approx(loop_over_examples(speech, images, ids.tolist(), 5.0, margin), rel=1e-5)


def test_a_batch_of_one_image_has_no_loss():
    vectors = torch.randn(3, 4)
    assert float(contrastive_loss(vectors[:1], vectors[1:2], torch.tensor([5]), ONE)) == pytest.approx(0, abs=1e-6)
    assert float(contrastive_loss(vectors, vectors, torch.tensor([5, 5, 5]), ONE)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_fp32_loss_without_overflow(dtype):
    """exp(1000) overflows even in fp32."""
    speech, images = torch.randn(300, 8).to(dtype), torch.randn(300, 8).to(dtype)
    speech[0] *= 100
    with torch.autocast("cpu", dtype):
        loss = contrastive_loss(speech.requires_grad_(), images, torch.arange(300), torch.tensor(1000.0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert speech.grad.isfinite().all()
    expected = contrastive_loss(speech.float(), images.float(), torch.arange(300), torch.tensor(1000.0))
    torch.testing.assert_close(loss, expected)


def test_the_temperature_is_learned_or_fixed():
    learned, fixed = (
        Objective(ObjectiveConfig(parallel=1)),
        Objective(ObjectiveConfig(parallel=1, learn_temperature=False)),
    )
    assert [o.log_scale.item() for o in (learned, fixed)] == pytest.approx([math.log(1 / 0.07)] * 2)
    assert [len(list(o.parameters())) for o in (learned, fixed)] == [1, 0]
    assert not fixed.state_dict()


def test_the_total_is_the_weighted_sum():
    output, images, ids = HeadOutput(torch.randn(4, 3), torch.randn(4, 3)), torch.randn(4, 3), torch.arange(4)
    losses = Objective(ObjectiveConfig(parallel=0.5, cascaded=1.5))(output, images, ids)
    torch.testing.assert_close(losses.total, 0.5 * losses.parallel + 1.5 * losses.cascaded)
    assert losses.quantity is None


def test_both_contrastive_losses_have_the_margin():
    speech, sentences, images = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    ids = torch.arange(4)
    objective = Objective(ObjectiveConfig(parallel=1, cascaded=1, margin=0.5))
    losses, scale = objective(HeadOutput(speech, sentences), images, ids), objective.log_scale.exp()
    torch.testing.assert_close(losses.parallel, contrastive_loss(speech, images, ids, scale, 0.5))
    torch.testing.assert_close(losses.cascaded, contrastive_loss(sentences, images, ids, scale, 0.5))


def test_losses_of_visual_words_have_their_weights():
    output, images = HeadOutput(torch.randn(4, 3), keywords=Mock()), torch.randn(4, 3)
    visual_words = Mock()
    visual_words.retrieval_loss.return_value = torch.tensor(5.0)
    visual_words.balance_loss.return_value = torch.tensor(7.0)
    config = ObjectiveConfig(parallel=1, visual_words=2, token_balance=3)
    losses = Objective(config)(output, images, torch.arange(4), visual_words)
    assert (losses.total - losses.parallel).item() == pytest.approx(2 * 5 + 3 * 7)
