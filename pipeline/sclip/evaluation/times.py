"""Compute the metrics that need the times of words."""

from typing import Any

import torch
from torch import Tensor

from sclip.encoders.clip import ClipEncoder
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.boundaries import boundary_scores
from sclip.evaluation.inference import Predictions
from sclip.evaluation.keywords import Lexicon
from sclip.evaluation.localization import TimedTokens, firing_positions, localization
from sclip.evaluation.outcomes import PICTURES
from sclip.features.dataset import Dataset
from sclip.heads.slot_times import SlotTimes


def time_metrics(
    predictions: Predictions,
    dataset: Dataset,
    lexicon: Lexicon | None,
    clip: ClipEncoder,
    bootstrap: Bootstrap,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parts `localization` and `boundaries` of metrics.json, as far as the model and the corpus have them.

    Also return the part `localization` of outcomes.safetensors. `lexicon` describes the vocabulary of a model with
    keywords.
    """
    rows = [i for i, row in enumerate(dataset.rows) if row.words]
    if not rows:
        return {}, {}
    words = [dataset.rows[i].words or () for i in rows]
    durations = dataset.frames[rows].double() * dataset.store.frame_seconds
    pictures = dataset.image_index[rows]
    metrics: dict[str, Any] = {}
    located: dict[str, Tensor] = {}
    if predictions.keywords is not None and predictions.slot_times is not None and lexicon is not None:
        keywords = predictions.keywords[rows]
        tokens, timed = lexicon.ids[keywords.rows], TimedTokens.of(words, clip)
        # The last frame of the attention layer may end after the recording.
        spans = predictions.slot_times.spans[rows].minimum(durations[:, None, None])
        slot_times = SlotTimes(predictions.slot_times.peaks[rows].minimum(durations[:, None]), spans)
        metrics["localization"], counts = localization(
            tokens, keywords.valid, slot_times, timed, durations, lexicon.content, pictures, bootstrap
        )
        located = {PICTURES: pictures, **counts}
    if predictions.firings is not None:
        firings = predictions.firings[rows]
        firings = torch.where(firings.isfinite(), firings.minimum(durations[:, None]), firings)
        scores = boundary_scores(firings, durations, words, pictures, bootstrap)
        metrics["boundaries"] = scores | {"positions": firing_positions(firings, words, durations)}
    return metrics, located
