"""Run the stage `evaluate`: compute metrics and examples of a trained model on the test split.

`metrics.json` gives shares in %, and most figures as {value, low, high} with a 95 % interval over pictures:

    about             what was evaluated and how: `states` describes the hidden states that were evaluated,
                      `training_states` those of the training, and `training` its settings, if known;
                      `architecture`: the settings of the head and of its losses;
                      `stop_words`: see keywords.py; `transcripts`: whose they are. SHA-256 of the model's `weights`,
                      of the encoders (`encoder_hashes`), and of the utterances' ids, pictures and texts (`test_data`)
    counts            utterances, pictures, captions (utterances with text), distinct_captions (different strings;
                      retrieval also merges texts that differ only in capitals or spaces), and `transcripts` if there
                      are any
    layers            the weight of each hidden state of the speech encoder; 0 is the first
    speech_to_image   for each branch R@1, R@5, R@10, mean_rank, median_rank (of an even number of ranks, the lower one
                      of the two in the middle); for `chance` only the recalls
    image_to_speech   the same, with pictures as queries
    speech_to_text    if there are captions: zero-shot, with CLIP's vectors of the captions
    text_to_speech
    text_to_image     branch `clip`: CLIP's own vectors of the written captions, as an upper reference
    image_to_text
    transcript_to_image, image_to_transcript, transcript_to_text
                      branch `clip`: CLIP's vectors of what a speech recogniser wrote, a reference that uses text
    keywords          `model`, and two baselines, `commonest` and `commonest_content`: see keywords.py; `truncated` is
                      the number of utterances with more keywords than max_slots
    localization      only for keywords, if the times of words are known: see localization.py
    keyword_spotting  if the corpus has human labels of keywords: see spotting.py
    boundaries        only for CIF, if the times of words are known: see boundaries.py, and for `positions`
                      localization.py
    groups            speech to image by speaker and by language, if the manifest names several: see groups.py

In every direction, all answers that belong to the query's picture are correct, and the best one counts. So for an
utterance any caption of its picture is correct, not only its own transcript. The published code does the same, because
its ids are those of the pictures.

Each distinct text is used once as a query and once as a candidate, even if several rows have it. It belongs to the
pictures of all these rows, and the bootstrap resamples it with the first of these pictures. (The published code ranks
the caption of every row. Both give the same result if all captions differ.) Metrics that need text use only the rows
with text.

`examples.json`: see examples.py. `words.json`: see words.py. `outcomes.safetensors`: see outcomes.py.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip import distributed, paths
from sclip.evaluation.bootstrap import SEED, Bootstrap
from sclip.evaluation.directions import score_retrieval
from sclip.evaluation.examples import examples
from sclip.evaluation.groups import group_scores
from sclip.evaluation.inference import infer
from sclip.evaluation.keyword_metrics import describe_vocabulary, keyword_metrics
from sclip.evaluation.metrics_file import check_no_other_results, write_results
from sclip.evaluation.provenance import describe_run
from sclip.evaluation.retrieval import always_found
from sclip.evaluation.spotting import KeywordLabels, keyword_spotting
from sclip.evaluation.times import time_metrics
from sclip.features.dataset import Dataset
from sclip.features.transcripts import Transcripts
from sclip.model.speechclip import SpeechCLIP

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """Hold what an evaluation uses in addition to the dataset. Each part may be unknown."""

    language: str | None = None  # of the captions; it selects the stop words
    synonyms: Sequence[Sequence[str]] = ()  # groups of words; one of the figures counts a group as one word
    labels: KeywordLabels | None = None  # for which utterances people found a keyword relevant
    transcripts: Transcripts | None = None  # of a speech recogniser


NO_ANNOTATIONS = Annotations()


def evaluate(
    model: SpeechCLIP,
    dataset: Dataset,
    device: str | torch.device,
    out: Path,
    about: Mapping[str, str | int] | None = None,
    annotations: Annotations = NO_ANNOTATIONS,
) -> dict[str, Any]:
    """Write metrics.json and the files next to it, and return the metrics.

    `about`, for example the preset and the seed of the training, is copied into the metrics.
    """
    check_no_other_results(out, about or {})
    model = model.to(device).eval()
    transcripts = annotations.transcripts
    predictions = infer(model, dataset)
    bootstrap = Bootstrap(len(dataset.images), SEED, device)
    retrieval, outcomes = score_retrieval(model, predictions, dataset, transcripts, bootstrap)
    ranks = {branch: outcomes.groups["speech_to_image"][branch] for branch in model.branches}
    about = {**(about or {}), "test_data": outcomes.test_data}
    metrics = _description(model, dataset, about, annotations) | retrieval
    words: dict[str, Any] = {}
    counts: dict[str, Tensor] = {}
    lexicon = describe_vocabulary(model, annotations.language, annotations.synonyms)
    if predictions.keywords is not None and lexicon is not None:
        metrics["keywords"], words, counts = keyword_metrics(model, predictions.keywords, dataset, bootstrap, lexicon)
        metrics["keywords"]["truncated"] = predictions.truncated
    times, located = time_metrics(predictions, dataset, lexicon, model.clip, bootstrap)
    metrics |= times
    if annotations.labels is not None:
        metrics["keyword_spotting"] = keyword_spotting(model, dataset, predictions.vectors, annotations.labels)
    groups = group_scores(dataset.rows, ranks)
    metrics |= {"groups": groups} if groups else {}
    branch = max(ranks, key=lambda name: retrieval["speech_to_image"][name]["R@10"]["value"])
    shown = examples(model, dataset, branch, predictions, ranks[branch])
    outcomes = replace(outcomes, groups=outcomes.groups | {"keywords": counts, "localization": located})
    metrics = _rounded(metrics)
    if distributed.is_main():
        _log_warnings(dataset, predictions.truncated)
        out.mkdir(parents=True, exist_ok=True)
        outcomes.save(out / paths.OUTCOMES)
        write_results(out, metrics, _rounded(shown), _rounded(words))
    return metrics


def _description(
    model: SpeechCLIP, dataset: Dataset, about: Mapping[str, str | int], annotations: Annotations
) -> dict[str, Any]:
    """Return what was evaluated, on how much data, and the weights that the head gives to the hidden states."""
    transcripts = annotations.transcripts
    return {
        "about": {
            **about,
            **describe_run(model, dataset, annotations.language),
            **({} if transcripts is None else {"transcripts": transcripts.source}),
        },
        "counts": _counts(dataset, transcripts),
        "layers": {str(state): share for state, share in enumerate(model.head.weighting.weights().tolist())},
    }


def _log_warnings(dataset: Dataset, truncated: int) -> None:
    with_text, count, pictures = len(dataset.captioned), len(dataset), len(dataset.images)
    if certain := always_found(pictures):
        log.warning(
            f"pictures in split test: {pictures}; with so few, speech → image {' and '.join(certain)} is 100 % for "
            "every model"
        )
    if 0 < with_text < count:
        log.warning(f"rows without text: {count - with_text} of {count}; metrics that need text use the others")
    if truncated:
        log.warning(
            f"utterances with more keywords than max_slots: {truncated} of {count}; their last keywords are left out"
        )


def _counts(dataset: Dataset, transcripts: Transcripts | None) -> dict[str, int]:
    texts = [row.text for row in dataset.rows if row.text is not None]
    sizes = {"utterances": len(dataset), "pictures": len(dataset.images)}
    sizes |= {"captions": len(texts), "distinct_captions": len(set(texts))}
    if transcripts is not None:
        sizes["transcripts"] = sum(row.id in transcripts.texts for row in dataset.rows)
    return sizes


def _rounded(data: Any) -> Any:
    """Return a copy of plain data with numbers rounded to four decimal places."""
    if isinstance(data, float):
        assert math.isfinite(data)
        return round(data, 4)
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(item) for item in data] if isinstance(data, list | tuple) else data
