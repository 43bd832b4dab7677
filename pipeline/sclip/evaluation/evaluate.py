"""Run the stage `evaluate`: compute metrics and examples of a trained model on the test split.

`metrics.json` gives shares in %, and most figures as {value, low, high} with a 95 % interval over pictures:

    about             what was evaluated and how: `states` describes the hidden states that were evaluated,
                      `training_states` those of the training, if known; `stop_words`: see keywords.py
    counts            utterances, pictures, captions (utterances with text), distinct_captions
    layers            the weight of each hidden state of the speech encoder; 0 is the first
    speech_to_image   for each branch R@1, R@5, R@10, mean_rank, median_rank; for `chance` only the recalls
    image_to_speech   the same, with pictures as queries
    speech_to_text    if there are captions: zero-shot, with CLIP's vectors of the captions
    text_to_speech
    text_to_image     branch `clip`: CLIP's own vectors of the written captions, as an upper reference
    image_to_text
    keywords          `model`, and as a baseline `commonest`, the most common tokens: see keywords.py; `truncated` is
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

`examples.json`: see examples.py. `words.json`: see words.py.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclip import distributed
from sclip.evaluation.about import describe_run
from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.examples import examples
from sclip.evaluation.groups import group_scores
from sclip.evaluation.inference import DecodedKeywords, Predictions, infer
from sclip.evaluation.keywords import Lexicon, caption_tokens, hits, matches, usage
from sclip.evaluation.retrieval import chance_recalls, pair_ranks, pairs_of_equal_ids, scores
from sclip.evaluation.spotting import KeywordLabels, keyword_spotting
from sclip.evaluation.times import time_metrics
from sclip.evaluation.words import WordComparison, study
from sclip.features.dataset import Dataset
from sclip.files import write_json
from sclip.model.speechclip import SpeechCLIP
from sclip.paths import EXAMPLES, METRICS, WORDS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Side:
    """Hold one side of a retrieval task: N vectors, and M distinct pairs of a vector and a picture it belongs to."""

    name: str
    vectors: Tensor  # (N, J)
    rows: Tensor  # (M,): row of `vectors` in each pair
    pictures: Tensor  # (M,): picture in each pair

    @classmethod
    def of_one_picture(cls, name: str, vectors: Tensor, pictures: Tensor) -> "Side":
        """Return a side on which each vector (N, J) belongs to one picture (N,)."""
        return cls(name, vectors, torch.arange(len(vectors)), pictures)

    @property
    def first_pictures(self) -> Tensor:
        """Return the first picture (N,) of each vector, in the dataset's order."""
        empty = self.pictures.new_zeros(len(self.vectors))
        return empty.scatter_reduce(0, self.rows, self.pictures, "amin", include_self=False)


def evaluate(
    model: SpeechCLIP,
    dataset: Dataset,
    device: str | torch.device,
    out: Path,
    seed: int = 0,
    about: Mapping[str, str | int] | None = None,
    language: str | None = None,
    synonyms: Sequence[Sequence[str]] = (),
    labels: KeywordLabels | None = None,
) -> dict[str, Any]:
    """Write metrics.json, examples.json and words.json, and return the metrics.

    `about`, for example the preset and the seed, is copied into the metrics. `language` is the language of the
    captions, if known. It selects the stop words. `synonyms` are groups of words; one of the figures counts a group as
    one word. `labels` say for which utterances people found a keyword relevant.
    """
    model = model.to(device).eval()
    predictions = infer(model, dataset)
    bootstrap = Bootstrap(len(dataset.images), seed)
    retrieval, ranks = _retrieval(predictions, dataset, model.device, bootstrap)
    metrics: dict[str, Any] = {
        "about": {**(about or {}), **describe_run(model, dataset, seed, language)},
        "counts": _counts(dataset),
        "layers": {str(state): share for state, share in enumerate(model.head.weighting.weights().tolist())},
        **retrieval,
    }
    words: dict[str, Any] = {}
    lexicon = _lexicon(model, language, synonyms)
    if predictions.keywords is not None and lexicon is not None:
        metrics["keywords"], words = _keywords(model, predictions.keywords, dataset, bootstrap, lexicon)
        metrics["keywords"]["truncated"] = predictions.truncated
    metrics |= time_metrics(predictions, dataset, lexicon, model.clip, bootstrap, seed)
    if labels is not None:
        metrics["keyword_spotting"] = keyword_spotting(model, dataset, predictions.vectors, labels, seed)
    groups = group_scores(dataset.rows, ranks)
    metrics |= {"groups": groups} if groups else {}
    branch = max(ranks, key=lambda name: retrieval["speech_to_image"][name]["R@10"]["value"])
    shown = examples(model, dataset, branch, predictions, ranks[branch], seed)
    metrics = _rounded(metrics)
    if distributed.is_main():
        _log_warnings(dataset, predictions.truncated)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / EXAMPLES, _rounded(shown))
        write_json(out / WORDS, _rounded(words))
        write_json(out / METRICS, metrics)
    return metrics


def _log_warnings(dataset: Dataset, truncated: int) -> None:
    with_text, count = len(dataset.captioned), len(dataset)
    if 0 < with_text < count:
        log.warning(
            f"{count - with_text} of {count} rows have no text; metrics that need text use the other {with_text} rows"
        )
    if truncated:
        log.warning(
            f"{truncated} of {count} utterances have more keywords than max_slots; their last keywords are left out"
        )


def _retrieval(
    predictions: Predictions, dataset: Dataset, device: torch.device, bootstrap: Bootstrap
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the scores of all directions, and for each branch the ranks (N,) of speech_to_image."""
    metrics: dict[str, Any] = {}
    branch_ranks: dict[str, Tensor] = {}
    for name, one, other in _compared_sides(predictions, dataset):
        for query, candidate, answers, ranks in _both_directions(one, other, device):
            direction = f"{query.name}_to_{candidate.name}"
            has_answer = answers > 0  # a picture without text has no correct text
            table = metrics.setdefault(direction, {})
            table[name] = scores(ranks[has_answer], query.first_pictures[has_answer], bootstrap)
            chance = chance_recalls(answers[has_answer], len(candidate.vectors))
            table["chance"] = {f"R@{k}": recall for k, recall in chance.items()}
            if direction == "speech_to_image":
                branch_ranks[name] = ranks
    return metrics, branch_ranks


def _compared_sides(predictions: Predictions, dataset: Dataset) -> list[tuple[str, Side, Side]]:
    """Return the branch and the two sides of each retrieval task."""
    image = Side.of_one_picture("image", dataset.images.float(), torch.arange(len(dataset.images)))
    texts = [distinct_texts(dataset)] if len(dataset.captioned) else []
    compared = [("clip", text, image) for text in texts]
    for branch, vectors in predictions.vectors.items():
        compared.append((branch, Side.of_one_picture("speech", vectors, dataset.image_index), image))
        with_text = vectors[dataset.captioned], dataset.image_index[dataset.captioned]
        compared += [(branch, Side.of_one_picture("speech", *with_text), text) for text in texts]
    return compared


def _both_directions(one: Side, other: Side, device: torch.device) -> Iterator[tuple[Side, Side, Tensor, Tensor]]:
    """Yield for both directions the queries, the candidates, the number of correct answers (N,), and the ranks (N,)."""
    one_pairs, other_pairs = pairs_of_equal_ids(one.pictures, other.pictures)
    one_rows, other_rows = one.rows[one_pairs], other.rows[other_pairs]
    ranks = pair_ranks(*(tensor.to(device) for tensor in (one.vectors, other.vectors, one_rows, other_rows)))
    yield one, other, torch.bincount(one_rows, minlength=len(one.vectors)), ranks[0].cpu()
    yield other, one, torch.bincount(other_rows, minlength=len(other.vectors)), ranks[1].cpu()


def distinct_texts(dataset: Dataset) -> Side:
    """Return each text once, in order of first appearance; it belongs to the pictures of all rows that have it.

    Texts that differ in capitals or spaces alone are one text, as they are to CLIP's tokenizer.
    """
    written = [" ".join((dataset.rows[i].text or "").lower().split()) for i in dataset.captioned.tolist()]
    first: dict[str, int] = {}  # of each text, the first caption that is it
    for caption, text in enumerate(written):
        first.setdefault(text, caption)
    place = {text: i for i, text in enumerate(first)}
    rows = torch.tensor([place[text] for text in written])
    belongs = torch.unique(torch.stack([rows, dataset.image_index[dataset.captioned]], 1), dim=0)  # (M, 2)
    rows, pictures = belongs.T.contiguous()
    return Side("text", dataset.captions[list(first.values())].float(), rows, pictures)


def _lexicon(model: SpeechCLIP, language: str | None, synonyms: Sequence[Sequence[str]]) -> Lexicon | None:
    """Describe the model's vocabulary, if it has one."""
    if model.vocabulary is None or model.head.keywords is None:
        return None
    return Lexicon.of(model.vocabulary, model.clip, model.head.keywords.quantize.unit_table, language, synonyms)


def _keywords(
    model: SpeechCLIP, keywords: DecodedKeywords, dataset: Dataset, bootstrap: Bootstrap, lexicon: Lexicon
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the part `keywords` of metrics.json, and the content of words.json."""
    compared = {"model": keywords, "commonest": lexicon.commonest(keywords)}
    metrics = {name: usage(rows, dataset.image_index, bootstrap) for name, rows in compared.items()}
    captioned = dataset.captioned.tolist()
    if not captioned:
        return metrics, {}
    texts, pictures = [row.text for row in dataset.rows if row.text is not None], dataset.image_index[captioned]
    captions, by_slot = caption_tokens(texts, model.clip), model.head.cif is None
    words = {name: WordComparison(rows[captioned], texts, lexicon, model.clip) for name, rows in compared.items()}
    for name, rows in compared.items():
        metrics[name] |= matches(rows[captioned], captions, lexicon, pictures, bootstrap, by_slot=by_slot)
        metrics[name]["words"] = words[name].scores(pictures, bootstrap)
    hit = hits(keywords[captioned], captions, lexicon)
    return metrics, study(keywords[captioned], hit, words["model"].table(), pictures, bootstrap)


def _counts(dataset: Dataset) -> dict[str, int]:
    texts = [row.text for row in dataset.rows if row.text is not None]
    sizes = {"utterances": len(dataset), "pictures": len(dataset.images)}
    return sizes | {"captions": len(texts), "distinct_captions": len(set(texts))}


def _rounded(data: Any) -> Any:
    """Return a copy of plain data with numbers rounded to four decimal places."""
    if isinstance(data, float):
        assert math.isfinite(data)
        return round(data, 4)
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(item) for item in data] if isinstance(data, list | tuple) else data
