"""The losses of visual words equal their definitions, and teach names of things."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import clip_encoder, small_vocabulary

from sclip.features.vectors import TokenVectors
from sclip.heads.keywords import Keywords
from sclip.heads.vocabulary import Vocabulary
from sclip.padded import Padded
from sclip.visual_words import LEAST_EVIDENCE, VisualWords

JOINT = 20


def token_vectors(ids, images, counts=None, scale=5.0) -> TokenVectors:
    vectors = F.normalize(torch.randn(len(ids), JOINT, generator=torch.Generator().manual_seed(0)), dim=-1)
    log_mean = torch.logsumexp(scale * images @ vectors.T, 0) - math.log(len(images))
    return TokenVectors(list(ids), vectors, log_mean, counts if counts is not None else torch.ones(len(ids)), scale)


def keywords(probabilities, lengths) -> Keywords:
    padded = Padded(torch.zeros(*probabilities.shape[:2], 1), torch.tensor(lengths))
    return Keywords(padded, probabilities.argmax(-1), probabilities, probabilities)


@pytest.fixture
def words():
    vocabulary = small_vocabulary(clip_encoder())
    images = F.normalize(torch.randn(50, JOINT, generator=torch.Generator().manual_seed(1)), dim=-1)
    return VisualWords(token_vectors(vocabulary.ids, images), vocabulary), images


def test_evidence_is_how_much_likelier_a_token_makes_an_image(words):
    visual_words, images = words
    evidence = visual_words.evidence(images)  # of the images that the means were computed from
    likelihood = (5.0 * images @ visual_words.vectors.T).softmax(0)  # P(image | token)
    expected = LEAST_EVIDENCE + (1 - LEAST_EVIDENCE) * likelihood * len(images)
    torch.testing.assert_close(evidence, expected)
    torch.testing.assert_close(visual_words.evidence(7 * images), evidence)  # the length of a vector has no meaning


def test_retrieval_loss_equals_the_loop(words):
    visual_words, images = words
    generator = torch.Generator().manual_seed(2)
    lengths, ids = [2, 1, 3, 3], torch.tensor([8, 5, 8, 6])
    probabilities = torch.randn(4, 3, len(visual_words.prior), generator=generator).softmax(-1)
    evidence = visual_words.evidence(images[:4])
    scores = torch.zeros(4, 4)
    for utterance, slots in enumerate(lengths):
        for image in range(4):
            for slot in range(slots):
                scores[utterance, image] += (probabilities[utterance, slot] * evidence[image]).sum().log()
    expected = 0.0
    for i in range(4):
        rivals = [j for j in range(4) if ids[j] != ids[i] or j == i]
        expected += (scores[i, rivals].logsumexp(0) + scores[rivals, i].logsumexp(0) - 2 * scores[i, i]) / 8
    loss = visual_words.retrieval_loss(keywords(probabilities, lengths), images[:4], ids)
    torch.testing.assert_close(loss, expected)


def test_retrieval_loss_under_autocast_is_the_one_of_full_precision(words):
    visual_words, images = words
    probabilities = torch.randn(4, 3, len(visual_words.prior), generator=torch.Generator().manual_seed(2)).softmax(-1)
    output, ids = keywords(probabilities, [2, 1, 3, 3]), torch.arange(4)
    full = visual_words.retrieval_loss(output, images[:4], ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(visual_words.retrieval_loss(output, images[:4], ids), full)


def test_balance_loss_is_zero_when_tokens_are_used_as_often_as_the_roots_of_their_counts(words):
    visual_words, _ = words
    use = visual_words.prior.expand(3, 2, -1).clone()
    assert float(visual_words.balance_loss(keywords(use, [2, 2, 2]))) == pytest.approx(0, abs=1e-6)
    use[0, 1] = F.one_hot(torch.tensor(5), len(visual_words.prior))
    assert float(visual_words.balance_loss(keywords(use, [1, 2, 2]))) == pytest.approx(0, abs=1e-6)  # padding
    assert float(visual_words.balance_loss(keywords(use, [2, 2, 2]))) > 0.1
    assert float(visual_words.prior[[0, 1, 2]].sum()) == 0  # blocked tokens
    counts = torch.arange(len(visual_words.prior))
    vocabulary = small_vocabulary(clip_encoder())
    prior = VisualWords(token_vectors(vocabulary.ids, torch.eye(JOINT), counts), vocabulary).prior
    assert float(prior[8] / prior[3]) == pytest.approx(math.sqrt(9 / 4))


def test_sounds_learn_the_names_of_what_their_images_show():
    """Sixteen things have a name each. An image shows three, and an utterance names two of them by sounds.

    Every second thing looks more like the next thing's name than like its own, as a dog may look like "dogs" to CLIP.
    So two sounds want one name, and only the balance gives each its own.
    """
    clip = clip_encoder()
    vocabulary = Vocabulary.from_counts({token: 1 for token in range(400, 416)}, clip)
    things, first = 16, 3  # the first three rows are blocked
    generator = torch.Generator().manual_seed(0)
    names = F.normalize(torch.randn(things, JOINT, generator=generator), dim=-1)  # CLIP's vectors of their names
    looks = names.clone()
    looks[::2] = F.normalize(0.4 * names[::2] + 0.6 * names[1::2], dim=-1)
    shown = torch.stack([torch.randperm(things, generator=generator)[:3] for _ in range(500)])
    images = F.normalize(looks[shown].sum(1), dim=-1)
    vectors = torch.cat([torch.zeros(first, JOINT), names])
    log_mean = torch.logsumexp(8 * images @ vectors.T, 0) - math.log(len(images))
    visual_words = VisualWords(
        TokenVectors(list(vocabulary.ids), vectors, log_mean, torch.ones(len(vocabulary)), 8.0), vocabulary
    )

    def named_correctly(balance: float) -> int:
        logits = torch.nn.Parameter(0.1 * torch.randn(things, things, generator=torch.Generator().manual_seed(3)))
        optimizer = torch.optim.Adam([logits], 0.05)
        for step in range(150):
            batch = torch.randperm(500, generator=torch.Generator().manual_seed(step))[:100]
            probabilities = F.pad(logits[shown[batch, :2]].softmax(-1), (first, 0))
            output = keywords(probabilities, [2] * 100)
            loss = visual_words.retrieval_loss(output, images[batch], batch)
            loss = loss + balance * visual_words.balance_loss(output)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return int((logits.argmax(-1) == torch.arange(things)).sum())

    assert named_correctly(balance=3.0) == things
    assert named_correctly(balance=0.0) < things
