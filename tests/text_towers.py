"""What the tests of the text tower's graphs share, on a CPU and on a GPU."""

import dataclasses

import torch

from sclip.config import TrainingConfig
from sclip.device import autocast
from sclip.padded import Padded

TRAINING = TrainingConfig(steps=8, warmup_steps=2, batch=8, precision="fp32", learning_rate=1e-3, accumulate=2)


def keywords(slots, batch=3, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, slots, 24, generator=generator).to(device)
    lengths = torch.randint(1, slots + 1, (batch,), generator=generator).to(device)
    return Padded(values.requires_grad_(), lengths)


def vectors_and_gradients(tower, sentences, precision):
    with autocast(sentences.values.device, precision):
        vectors = tower(sentences)
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).to(vectors)
    (gradients,) = torch.autograd.grad(vectors, sentences.values, weights)
    return vectors.detach().clone(), gradients.clone()


def settings(precision):
    """Return the training's settings. In half precision, steps that change the weights would magnify its rounding."""
    return dataclasses.replace(
        TRAINING, precision=precision, **({} if precision == "fp32" else {"learning_rate": 1e-12})
    )
