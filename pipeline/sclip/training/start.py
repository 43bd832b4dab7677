"""What a training starts with: the weights of a trained model, and an older model that it will replace."""

import dataclasses
import logging
from pathlib import Path

from sclip.errors import UserError
from sclip.fingerprints import differing_keys
from sclip.model.folder import STATES, TRAINING, read_config
from sclip.model.loading import load
from sclip.model.speechclip import SpeechCLIP
from sclip.tensors import fill
from sclip.training.checkpoints import describe_change

log = logging.getLogger(__name__)


def start_from(model: SpeechCLIP, start: Path | str) -> None:
    """Give a new model the weights of the trained model `start`, a model folder or a hub repo.

    All layers must have the same shapes. The vocabulary and the other settings may differ, because no weight depends on
    them. A learned temperature is also taken over. The description of the training names the model.
    """
    trained = load(start)
    for encoder, ours, theirs in (
        ("speech encoder", model.speech, trained.speech),
        ("CLIP", model.clip, trained.clip),
    ):
        if ours.fingerprint() != theirs.fingerprint():
            raise UserError(
                f"{start}: was trained with another {encoder} ({theirs.source.name}, here {ours.source.name}); choose "
                "a model with the encoders of the preset, or set the preset's `encoders` to those of the model"
            )
    try:
        fill(model.head, trained.head.state_dict(), f"{start}: head")
    except UserError as error:
        raise UserError(f"{error}; its architecture is {trained.name}, that of this training {model.name}") from None
    if model.objective.config.learn_temperature and trained.objective.config.learn_temperature:
        model.objective.log_scale.data.copy_(trained.objective.log_scale)
    model.origin[TRAINING] += f", started from {start} ({str(trained.weights_digest)[:12]})"


def warn_of_replacement(model: SpeechCLIP, out: Path) -> None:
    """Log that a training will replace a model which was trained in another way."""
    try:
        old = read_config(out)
    except (UserError, OSError):  # there is no model, or a damaged one
        return
    different = list(differing_keys(dataclasses.asdict(old.architecture), dataclasses.asdict(model.architecture)))
    changes = [describe_change(*change) for change in different]
    changes += [key for key in (TRAINING, STATES) if old.origin.get(key) != model.origin.get(key)]
    if changes:
        log.warning(
            f"{out}: this training will replace a model that differs in {', '.join(changes)}; to keep that model, stop "
            "and choose another --seed, or give this training an architecture or a preset of its own"
        )
