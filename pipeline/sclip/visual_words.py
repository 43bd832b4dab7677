"""Visual words: two losses that give keywords a meaning. They never pair a transcript with its recording.

The cosine of an image's vector and a single token's vector measures how well the word fits the image. For a token v and
an image n, the evidence is CLIP's estimate of P(n | v) / P(n): the softmax of its scaled cosines over images, relative
to the mean of the training images. Tokens that fit every image equally have an evidence of 1.

- Retrieval: the keywords of an utterance must tell its image from the other images of the batch. A slot that is the
  token v with probability p(v) has the evidence sum_v p(v) P(n | v) / P(n) for an image n. The slots of an utterance
  are treated as independent, so the score of an image is the sum of the logarithms of their evidence. The loss is the
  contrastive loss of these scores. So each sound is mapped to the token that fits the same images. A sound that carries
  no information is mapped to a token that fits every image.
- Balance: without it, several sounds become the same few tokens, such as singular and plural. The loss is the KL
  divergence of the mean distribution of a batch's slots from the square roots of the tokens' counts in the training
  captions, each plus 1. Counts say how common a word is. They do not say which utterance has it.

The idea that a vision model labels images with words, and that speech is trained with these labels, is from Kamper,
Settle, Shakhnarovich and Livescu (2017), "Visually grounded learning of keyword prediction from untranscribed speech",
and Kamper, Shakhnarovich and Livescu (2019), "Semantic speech retrieval with a visually grounded model of untranscribed
speech". Here CLIP is the vision model, and the labels are a probability of images, not of words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip import distributed
from sclip.contrastive import symmetric_cross_entropy
from sclip.features.vectors import TokenVectors
from sclip.heads.keywords import Keywords
from sclip.heads.vocabulary import Vocabulary

LEAST_EVIDENCE = 0.05  # no word makes an image impossible: an image has more than one name, and CLIP errs
SMALLEST = 1e-9  # keeps the logarithm of a token that is never used finite


class VisualWords(nn.Module):
    """CLIP's vectors of a vocabulary's tokens with their prior, and the two losses that use them."""

    vectors: Tensor
    log_mean: Tensor
    prior: Tensor

    def __init__(self, tokens: TokenVectors, vocabulary: Vocabulary):
        super().__init__()
        selected = tokens.select(vocabulary.ids)
        allowed = torch.ones(len(vocabulary), dtype=torch.bool)
        allowed[list(vocabulary.blocked)] = False
        self.scale = tokens.scale
        self.register_buffer("vectors", selected.vectors.float(), persistent=False)  # (V, J)
        self.register_buffer("log_mean", selected.log_mean, persistent=False)  # (V,)
        prior = (selected.counts + 1.0).sqrt() * allowed
        self.register_buffer("prior", prior / prior.sum(), persistent=False)  # (V,)

    def evidence(self, images: Tensor) -> Tensor:
        """Return the evidence of each token for a batch of training images: (N, J) -> (N, V).

        It is relative to the mean over all training images, so it is at most the number of these images.
        """
        scores = self.scale * F.normalize(images.float(), dim=-1) @ self.vectors.T - self.log_mean
        return LEAST_EVIDENCE + (1 - LEAST_EVIDENCE) * scores.exp()

    def retrieval_loss(self, keywords: Keywords, images: Tensor, ids: Tensor) -> Tensor:
        """Compute the retrieval loss, given images' vectors (N, J) and image ids (N,).

        With several processes, `keywords` are the process's slice of the batch; `images` and `ids` cover all of it.
        """
        assert keywords.probabilities is not None
        with torch.autocast(images.device.type, enabled=False):
            slots = keywords.probabilities @ self.evidence(images).T  # (B, S, N)
            scores = (slots.log() * keywords.embeddings.valid[..., None]).sum(1)  # (B, N)
            return symmetric_cross_entropy(distributed.gather_rows(scores), ids)

    def balance_loss(self, keywords: Keywords) -> Tensor:
        """Compute the KL divergence of the use of tokens in a batch from the prior."""
        assert keywords.probabilities is not None
        valid = keywords.embeddings.valid
        use = distributed.all_sum((keywords.probabilities * valid[..., None]).sum((0, 1)))  # (V,)
        use = use / distributed.all_sum(valid.sum())
        return (use * ((use + SMALLEST).log() - (self.prior + SMALLEST).log())).sum()
