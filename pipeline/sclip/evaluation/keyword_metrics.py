"""Compute the metrics of keywords that do not need the times of words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.inference import DecodedKeywords
from sclip.evaluation.keywords import Lexicon, caption_tokens, count_matches, hits, matches, usage
from sclip.evaluation.outcomes import HITS, PICTURES
from sclip.evaluation.words import WordComparison, study
from sclip.features.dataset import Dataset
from sclip.model.speechclip import SpeechCLIP


def describe_vocabulary(model: SpeechCLIP, language: str | None, synonyms: Sequence[Sequence[str]]) -> Lexicon | None:
    """Describe the model's vocabulary, if it has one."""
    if model.vocabulary is None or model.head.keywords is None:
        return None
    return Lexicon.of(model.vocabulary, model.clip, model.head.keywords.quantize.unit_table, language, synonyms)


def keyword_metrics(
    model: SpeechCLIP, keywords: DecodedKeywords, dataset: Dataset, bootstrap: Bootstrap, lexicon: Lexicon
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Return the part `keywords` of metrics.json, the content of words.json, and that part of outcomes.safetensors."""
    compared = {
        "model": keywords,
        "commonest": lexicon.commonest(keywords, content=False),
        "commonest_content": lexicon.commonest(keywords, content=True),
    }
    metrics = {name: usage(rows, dataset.image_index, bootstrap) for name, rows in compared.items()}
    captioned = dataset.captioned.tolist()
    if not captioned:
        return metrics, {}, {}
    texts, pictures = [row.text for row in dataset.rows if row.text is not None], dataset.image_index[captioned]
    captions, by_slot = caption_tokens(texts, model.clip), model.head.cif is None
    words = {name: WordComparison(rows[captioned], texts, lexicon, model.clip) for name, rows in compared.items()}
    for name, rows in compared.items():
        metrics[name] |= matches(rows[captioned], captions, lexicon, pictures, bootstrap, by_slot=by_slot)
        metrics[name]["words"] = words[name].scores(pictures, bootstrap)
    keywords = keywords[captioned]
    hit = hits(keywords, captions, lexicon)
    hit_slots = torch.stack([hit.sum(1), keywords.lengths], 1)
    counts = {PICTURES: pictures, HITS: hit_slots, **count_matches(keywords, captions, lexicon)}
    return metrics, study(keywords, hit, words["model"].table(), pictures, bootstrap), counts
