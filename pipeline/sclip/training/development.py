"""Evaluate a model on the development split: for each branch, the mean R@10 of both retrieval directions."""

import math

import torch
from torch import Tensor

from sclip.evaluation.inference import infer_vectors
from sclip.evaluation.retrieval import first_ranks, recalls
from sclip.features.dataset import Dataset
from sclip.model.speechclip import SpeechCLIP


def mean_recalls(model: SpeechCLIP, dataset: Dataset) -> dict[str, float]:
    """Return the mean R@10 of each branch in %, over utterances that are not cropped.

    The model stays in evaluation mode.
    """
    vectors = infer_vectors(model.eval(), dataset)
    return {branch: mean_recall(speech.to(model.device), dataset) for branch, speech in vectors.items()}


def mean_recall(speech: Tensor, dataset: Dataset) -> float:
    """Return the mean R@10 in % of speech-to-image and image-to-speech retrieval, for speech vectors (N, J).

    Return NaN if a vector is not finite.
    """
    if not bool(speech.isfinite().all()):
        return math.nan
    images, image_index = dataset.images.to(speech.device), dataset.image_index.to(speech.device)
    image_ids = torch.arange(len(images), device=speech.device)
    to_image, to_speech = first_ranks(speech, image_index, images, image_ids)
    return (recalls(to_image)[10] + recalls(to_speech)[10]) / 2
