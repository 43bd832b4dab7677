"""How good a model is on the development split: the mean of R@10 over both directions, branch by branch."""

import math

import torch
from torch import Tensor

from sclip.evaluation.inference import infer
from sclip.evaluation.retrieval import first_ranks, recalls
from sclip.features.dataset import Dataset
from sclip.model.speechclip import SpeechCLIP


def mean_recalls(model: SpeechCLIP, dataset: Dataset) -> dict[str, float]:
    """In %, of whole utterances, as evaluation sees them; the model is left in evaluation."""
    vectors = infer(model.eval(), dataset).vectors
    return {branch: mean_recall(speech.to(model.device), dataset) for branch, speech in vectors.items()}


def mean_recall(speech: Tensor, dataset: Dataset) -> float:
    """Utterances (N, J) against the split's pictures, and these against them; NaN where a vector is not finite."""
    if not bool(speech.isfinite().all()):
        return math.nan
    images, image_index = dataset.images.to(speech.device), dataset.image_index.to(speech.device)
    each = torch.arange(len(images), device=speech.device)
    there, back = first_ranks(speech, image_index, images, each)
    return (recalls(there)[10] + recalls(back)[10]) / 2
