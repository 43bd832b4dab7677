"""The vocabulary's product, the quantiser's two faces, and what BatchNorm counts."""

import pytest
import torch
import torch.nn.functional as F

from sclip.config import CifConfig, KeywordConfig
from sclip.heads.keywords import KeywordBranch, Quantizer, SlotNorm
from sclip.padded import Padded

TABLE = torch.randn(11, 6, generator=torch.Generator().manual_seed(3))
CIF = KeywordConfig(cif=CifConfig())


def slots(*lengths: int, width: int = 6) -> Padded:
    values = torch.randn(len(lengths), max(lengths), width, generator=torch.Generator().manual_seed(4))
    return Padded(values, torch.tensor(lengths))


def test_the_keyword_is_the_nearest_allowed_token():
    quantizer = Quantizer(TABLE, [0, 2], 0.1).eval()
    asked = Padded(torch.stack([3 * TABLE[5], TABLE[2] + 0.01 * TABLE[7]])[None], torch.tensor([2]))
    keywords = quantizer(asked)
    allowed = [i for i in range(11) if i not in (0, 2)]
    nearest = max(allowed, key=lambda i: float(F.cosine_similarity(asked.values[0, 1], TABLE[i], 0)))
    assert keywords.rows.tolist() == [[5, nearest]]
    assert torch.equal(keywords.embeddings.values[0, 0], TABLE[5])
    torch.testing.assert_close(keywords.cosines[0, 1, 2], F.cosine_similarity(asked.values[0, 1], TABLE[2], 0))


def test_training_has_the_value_of_the_token_and_the_gradient_of_the_softmax():
    quantizer = Quantizer(TABLE, [0], 0.1).train()
    values = torch.randn(2, 3, 6, requires_grad=True)
    found = quantizer(Padded(values, torch.tensor([3, 3])))
    torch.testing.assert_close(found.embeddings.values, TABLE[found.rows])
    cosines = F.normalize(values, dim=-1) @ F.normalize(TABLE, dim=-1).T
    soft = (cosines[..., 1:] / 0.1).softmax(-1) @ TABLE[1:]
    probe = torch.randn(2, 3, 6)
    gradients = [torch.autograd.grad((x * probe).sum(), values)[0] for x in (found.embeddings.values, soft)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_vocabulary_is_compared_in_fp32(dtype):
    branch = KeywordBranch(6, TABLE, [0], CIF).eval()
    given = slots(4, 4)
    with torch.autocast("cpu", dtype):
        found = branch(given)
    assert found.cosines.dtype == found.embeddings.values.dtype == torch.float32
    normed = branch.norm(Padded(branch.project(given.values).to(dtype), given.lengths))
    assert normed.values.dtype == torch.float32
    expected = F.normalize(normed.values.float(), dim=-1) @ F.normalize(TABLE, dim=-1).T
    assert (found.cosines - expected).abs().max() < 0.02


def test_norms_start_at_the_statistics_of_the_table():
    shared = SlotNorm(TABLE, CIF).norm
    torch.testing.assert_close(shared.weight.detach(), TABLE.std(0))
    torch.testing.assert_close(shared.bias.detach(), TABLE.mean(0))
    each = SlotNorm(TABLE, KeywordConfig(slots=3)).norm
    torch.testing.assert_close(each.bias.detach().view(3, 6), TABLE.mean(0).expand(3, 6))


def test_the_scrambled_start_is_the_published_one():
    """Laid out as `repeat(slots)`, read by channels that run width by width."""
    scrambled = SlotNorm(TABLE, KeywordConfig(slots=3, scrambled_norm_start=True)).norm
    laid_out = TABLE.mean(0).repeat(3)  # (slots · width)
    for slot in range(3):
        for channel in range(6):
            assert scrambled.bias[slot * 6 + channel] == laid_out[channel * 3 + slot]


def test_fixed_slots_are_normalised_each_by_itself():
    norm = SlotNorm(TABLE, KeywordConfig(slots=2)).train()
    torch.nn.init.ones_(norm.norm.weight)
    torch.nn.init.zeros_(norm.norm.bias)
    given = Padded(torch.randn(64, 2, 6) * torch.tensor([1.0, 100.0])[:, None] + 7, torch.full((64,), 2))
    found = norm(given).values
    torch.testing.assert_close(found.mean(0), torch.zeros(2, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(2, 6), atol=1e-3, rtol=0)


@pytest.mark.parametrize("counts", [False, True])
def test_what_the_shared_norm_counts(counts):
    norm = SlotNorm(TABLE, KeywordConfig(cif=CifConfig(), norm_counts_padding=counts)).train()
    given = slots(5, 1, 3)
    found = norm(given).values
    counted = given.values.flatten(0, 1) if counts else given.values[given.valid]
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * counted.mean(0))
    reference = (counted - counted.mean(0)) / (counted.var(0, correction=0) + 1e-5).sqrt()
    reference = reference * TABLE.std(0) + TABLE.mean(0)
    torch.testing.assert_close(found.flatten(0, 1) if counts else found[given.valid], reference)
