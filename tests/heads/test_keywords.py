"""The product with the vocabulary, the quantiser in training and evaluation, and the statistics of BatchNorm."""

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
    queries = Padded(torch.stack([3 * TABLE[5], TABLE[2] + 0.01 * TABLE[7]])[None], torch.tensor([2]))
    keywords = quantizer(queries)
    allowed = [i for i in range(11) if i not in (0, 2)]
    nearest = max(allowed, key=lambda i: float(F.cosine_similarity(queries.values[0, 1], TABLE[i], 0)))
    assert keywords.rows.tolist() == [[5, nearest]]
    assert torch.equal(keywords.embeddings.values[0, 0], TABLE[5])
    torch.testing.assert_close(keywords.cosines[0, 1, 2], F.cosine_similarity(queries.values[0, 1], TABLE[2], 0))


def test_in_training_a_keyword_has_the_tokens_value_and_the_softmax_gradient():
    quantizer = Quantizer(TABLE, [0], 0.1).train()
    values = torch.randn(2, 3, 6, requires_grad=True)
    keywords = quantizer(Padded(values, torch.tensor([3, 3])))
    torch.testing.assert_close(keywords.embeddings.values, TABLE[keywords.rows])
    cosines = F.normalize(values, dim=-1) @ F.normalize(TABLE, dim=-1).T
    soft = (cosines[..., 1:] / 0.1).softmax(-1) @ TABLE[1:]
    probe = torch.randn(2, 3, 6)
    gradients = [torch.autograd.grad((x * probe).sum(), values)[0] for x in (keywords.embeddings.values, soft)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_vocabulary_is_compared_in_fp32(dtype):
    branch = KeywordBranch(6, TABLE, [0], CIF).eval()
    batch = slots(4, 4)
    with torch.autocast("cpu", dtype):
        keywords = branch(batch)
    assert keywords.cosines.dtype == keywords.embeddings.values.dtype == torch.float32
    normalized = branch.norm(Padded(branch.project(batch.values).to(dtype), batch.lengths))
    assert normalized.values.dtype == torch.float32
    expected = F.normalize(normalized.values.float(), dim=-1) @ F.normalize(TABLE, dim=-1).T
    assert (keywords.cosines - expected).abs().max() < 0.02


def test_norms_start_at_the_mean_and_deviation_of_the_table():
    shared = SlotNorm(TABLE, CIF).norm
    torch.testing.assert_close(shared.weight.detach(), TABLE.std(0))
    torch.testing.assert_close(shared.bias.detach(), TABLE.mean(0))
    per_slot = SlotNorm(TABLE, KeywordConfig(slots=3)).norm
    torch.testing.assert_close(per_slot.bias.detach().view(3, 6), TABLE.mean(0).expand(3, 6))


def test_the_scrambled_start_equals_the_published_one():
    """The published code writes the values slot by slot and reads them channel by channel."""
    scrambled = SlotNorm(TABLE, KeywordConfig(slots=3, scrambled_norm_start=True)).norm
    laid_out = TABLE.mean(0).repeat(3)  # (slots · width)
    for slot in range(3):
        for channel in range(6):
            assert scrambled.bias[slot * 6 + channel] == laid_out[channel * 3 + slot]


def test_each_fixed_slot_is_normalised_separately():
    norm = SlotNorm(TABLE, KeywordConfig(slots=2)).train()
    torch.nn.init.ones_(norm.norm.weight)
    torch.nn.init.zeros_(norm.norm.bias)
    batch = Padded(torch.randn(64, 2, 6) * torch.tensor([1.0, 100.0])[:, None] + 7, torch.full((64,), 2))
    normalized = norm(batch).values
    torch.testing.assert_close(normalized.mean(0), torch.zeros(2, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std(0, correction=0), torch.ones(2, 6), atol=1e-3, rtol=0)


@pytest.mark.parametrize("counts", [False, True])
def test_the_shared_norm_counts_padding_only_if_configured(counts):
    norm = SlotNorm(TABLE, KeywordConfig(cif=CifConfig(), norm_counts_padding=counts)).train()
    batch = slots(5, 1, 3)
    normalized = norm(batch).values
    counted = batch.values.flatten(0, 1) if counts else batch.values[batch.valid]
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * counted.mean(0))
    reference = (counted - counted.mean(0)) / (counted.var(0, correction=0) + 1e-5).sqrt()
    reference = reference * TABLE.std(0) + TABLE.mean(0)
    torch.testing.assert_close(normalized.flatten(0, 1) if counts else normalized[batch.valid], reference)


def test_sums_with_a_mask_give_the_norm_of_the_selected_rows():
    by_selection, by_sums = (SlotNorm(TABLE, CIF).train() for _ in range(2))
    x, counted = torch.randn(12, 6, requires_grad=True), torch.arange(12) % 5 != 1
    x.data[1] = 1e4  # of a row that is not counted
    probe = torch.randn(12, 6)
    expected, actual = by_selection._normalize(x, counted), by_sums._normalize_by_sums(x, counted)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad((normalized * probe).sum(), x)[0] for normalized in (actual, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(by_sums.state_dict(), by_selection.state_dict())
