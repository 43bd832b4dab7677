"""Models with random weights and a random vocabulary, to time their training."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sclip.config import Experiment
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.features.vectors import TokenVectors
from sclip.heads.vocabulary import Vocabulary
from sclip.model.speechclip import SpeechCLIP
from sclip.visual_words import VisualWords

WORDS = 1000  # in the vocabulary


def random_model(name: str, experiment: Experiment, speech: AnySpeechEncoder, clip: ClipEncoder) -> SpeechCLIP:
    """Build the model of an experiment, named `name`, with random weights.

    CIF starts with as many keywords as it is trained to find. With random weights alone it would find the most that
    CLIP's text tower has room for, and evaluations would take several times as long as those of a training.
    """
    torch.manual_seed(0)
    vocabulary = None
    if experiment.architecture.head.keywords is not None:
        ids = [0, clip.text_tower.start, clip.text_tower.end, *range(300, 300 + WORDS)]
        vocabulary = Vocabulary(tuple(ids), tuple(clip.piece(i) for i in ids), (0, 1, 2))
    model = SpeechCLIP(name, experiment.architecture, speech, clip, vocabulary)
    if model.head.cif is not None:
        alpha = model.head.cif.config.threshold / model.head.cif.config.frames_per_slot
        nn.init.constant_(model.head.cif.score.bias, math.log(alpha / (1 - alpha)))
    return model


def random_visual_words(model: SpeechCLIP) -> VisualWords | None:
    """Return visual words with random vectors of the model's vocabulary, or None if it has no keywords."""
    if model.vocabulary is None:
        return None
    count = len(model.vocabulary)
    vectors = F.normalize(torch.randn(count, model.clip.joint_width), dim=-1)
    tokens = TokenVectors(list(model.vocabulary.ids), vectors, torch.zeros(count), torch.ones(count), scale=1.0)
    return VisualWords(tokens, model.vocabulary)
