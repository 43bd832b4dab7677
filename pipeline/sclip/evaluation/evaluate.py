"""The stage `evaluate`: a trained model on the test split, as numbers and as examples.

`metrics.json`, shares in %, most figures as {value, low, high} with their 95 % interval over pictures:

    about             what was evaluated, with what: `states` are the hidden states that were scored, `training_states`
                      those that the head was trained on, where it is known; `stop_words`: see keywords.py
    counts            utterances, pictures, captions (utterances that have text), distinct_captions
    layers            the share of each of the speech encoder's hidden states, 0 the first
    speech_to_image   for each branch R@1, R@5, R@10, mean_rank, median_rank; for `chance` the recalls alone
    image_to_speech   the same; a picture is the query
    speech_to_text    where there are captions: zero-shot, the captions' vectors are CLIP's
    text_to_speech
    text_to_image     branch `clip`: what CLIP does with the captions in writing, the topline
    image_to_text
    keywords          `model`, and `commonest`: always the commonest tokens; see keywords.py; `truncated`: how
                      many utterances have more keywords than fit
    boundaries        CIF, where times of words are known; see boundaries.py

In every direction whatever belongs to the same picture is right, and the best of it counts. So an utterance may find
any caption of its picture, not only its own transcript, as in the published code, whose ids are the pictures'.

A text counts once, as a query and as a candidate, however many rows have it. It belongs to the pictures of all of
them, and the bootstrap resamples it with the first of these pictures. (The published code ranks every row's caption.
The two agree where all captions differ.) What is measured against text is measured on the rows that have text.

`examples.json`: see examples.py. `words.json`: see words.py.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sclip
from sclip import distributed
from sclip.evaluation.bootstrap import RESAMPLES, Bootstrap
from sclip.evaluation.boundaries import References, boundary_scores
from sclip.evaluation.examples import examples
from sclip.evaluation.inference import Found, Predictions, infer
from sclip.evaluation.keywords import Lexicon, caption_tokens, describe_stop_words, hits, matches, usage
from sclip.evaluation.retrieval import chance_recalls, pair_ranks, pairs_of_equal_ids, scores
from sclip.evaluation.words import Words, study
from sclip.features.dataset import Dataset
from sclip.features.settings import describe_states
from sclip.files import write_json
from sclip.model.folder import STATES
from sclip.model.speechclip import SpeechCLIP
from sclip.paths import EXAMPLES, METRICS, WORDS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Side:
    """What asks or is ranked: N vectors, and M different pairs of a vector and a picture that it belongs to."""

    name: str
    vectors: Tensor  # (N, J)
    rows: Tensor  # (M,), of `vectors`
    pictures: Tensor  # (M,)

    @classmethod
    def of_one_picture(cls, name: str, vectors: Tensor, pictures: Tensor) -> "Side":
        """Each vector (N, J) belongs to one picture (N,)."""
        return cls(name, vectors, torch.arange(len(vectors)), pictures)

    @property
    def first_pictures(self) -> Tensor:
        """(N,): the first picture of each vector, in the dataset's order"""
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
) -> dict[str, Any]:
    """Write metrics.json, examples.json and words.json, and return the metrics.

    `about` is copied: preset, seed and so on. `language`: of the captions, where it is known; decides the stop words.
    """
    model = model.to(device).eval()
    predictions = infer(model, dataset)
    bootstrap = Bootstrap(len(dataset.images), seed)
    retrieval, ranks = _retrieval(predictions, dataset, model.device, bootstrap)
    metrics: dict[str, Any] = {
        "about": {
            **(about or {}),
            "arch": model.name,
            "encoders": _encoders(dataset),
            "states": describe_states(dataset.store.features),
            **({"training_states": model.origin[STATES]} if STATES in model.origin else {}),
            "stop_words": describe_stop_words(language),
            **_circumstances(model.device, seed),
        },
        "counts": _counts(dataset),
        "layers": {str(state): share for state, share in enumerate(model.head.weighting.weights().tolist())},
        **retrieval,
    }
    studied: dict[str, Any] = {}
    if predictions.keywords is not None:
        metrics["keywords"], studied = _keywords(model, predictions.keywords, dataset, bootstrap, language)
        metrics["keywords"]["truncated"] = predictions.truncated
    if predictions.firings is not None and any(row.words for row in dataset.rows):
        metrics["boundaries"] = _boundaries(predictions.firings, dataset, bootstrap, seed)
    branch = max(ranks, key=lambda name: retrieval["speech_to_image"][name]["R@10"]["value"])
    shown = examples(model, dataset, branch, predictions.vectors[branch], ranks[branch], seed)
    metrics = _rounded(metrics)
    if distributed.is_main():
        _warn_of_missing_text(dataset)
        if predictions.truncated:
            log.warning(f"{predictions.truncated} of {len(dataset)} utterances have more keywords than fit")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / EXAMPLES, _rounded(shown))
        write_json(out / WORDS, _rounded(studied))
        write_json(out / METRICS, metrics)
    return metrics


def _warn_of_missing_text(dataset: Dataset) -> None:
    with_text, every = len(dataset.captioned), len(dataset)
    if 0 < with_text < every:
        log.warning(
            f"{every - with_text} of {every} rows have no text: what needs text is measured on the other {with_text}"
        )


def _retrieval(
    predictions: Predictions, dataset: Dataset, device: torch.device, bootstrap: Bootstrap
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Score all directions; return also the ranks (N,) of speech_to_image of each branch."""
    image = Side.of_one_picture("image", dataset.images.float(), torch.arange(len(dataset.images)))
    texts = [distinct_texts(dataset)] if len(dataset.captioned) else []
    pairs = [("clip", text, image) for text in texts]
    for branch, vectors in predictions.vectors.items():
        pairs.append((branch, Side.of_one_picture("speech", vectors, dataset.image_index), image))
        with_text = vectors[dataset.captioned], dataset.image_index[dataset.captioned]
        pairs += [(branch, Side.of_one_picture("speech", *with_text), text) for text in texts]

    metrics: dict[str, Any] = {}
    ranks: dict[str, Tensor] = {}
    for name, one, other in pairs:
        mine, theirs = pairs_of_equal_ids(one.pictures, other.pictures)
        mine, theirs = one.rows[mine], other.rows[theirs]
        there, back = pair_ranks(*(t.to(device) for t in (one.vectors, other.vectors, mine, theirs)))
        for query, candidate, asked, found in ((one, other, mine, there.cpu()), (other, one, theirs, back.cpu())):
            direction = f"{query.name}_to_{candidate.name}"
            right = torch.bincount(asked, minlength=len(query.vectors))
            counted = right > 0  # a picture without text has no text to find
            table = metrics.setdefault(direction, {})
            table[name] = scores(found[counted], query.first_pictures[counted], bootstrap)
            chance = chance_recalls(right[counted], len(candidate.vectors))
            table["chance"] = {f"R@{k}": recall for k, recall in chance.items()}
            if direction == "speech_to_image":
                ranks[name] = found
    return metrics, ranks


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


def _keywords(
    model: SpeechCLIP, found: Found, dataset: Dataset, bootstrap: Bootstrap, language: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what metrics.json and words.json hold."""
    assert model.vocabulary is not None
    assert model.head.keywords is not None
    lexicon = Lexicon.of(model.vocabulary, model.clip, model.head.keywords.quantize.unit_table, language)
    fixed, answers = model.head.cif is None, {"model": found, "commonest": lexicon.commonest(found)}
    metrics = {name: usage(answer, dataset.image_index, bootstrap) for name, answer in answers.items()}
    written = dataset.captioned.tolist()
    if not written:
        return metrics, {}
    texts, pictures = [row.text for row in dataset.rows if row.text is not None], dataset.image_index[written]
    captions = caption_tokens(texts, model.clip)
    words = {name: Words(answer[written], texts, lexicon, model.clip) for name, answer in answers.items()}
    for name, answer in answers.items():
        metrics[name] |= matches(answer[written], captions, lexicon, pictures, bootstrap, by_slot=fixed)
        metrics[name]["words"] = words[name].scores(pictures, bootstrap)
    hit = hits(found[written], captions, lexicon)
    return metrics, study(found[written], hit, words["model"].table(), pictures, bootstrap)


def _boundaries(firings: Tensor, dataset: Dataset, bootstrap: Bootstrap, seed: int) -> dict[str, Any]:
    timed = [i for i, row in enumerate(dataset.rows) if row.words]
    references = References.of([row.words for row in dataset.rows if row.words])
    durations = dataset.frames[timed].double() * dataset.store.frame_seconds
    return boundary_scores(firings[timed], durations, references, dataset.image_index[timed], bootstrap, seed)


def _counts(dataset: Dataset) -> dict[str, int]:
    texts = [row.text for row in dataset.rows if row.text is not None]
    sizes = {"utterances": len(dataset), "pictures": len(dataset.images)}
    return sizes | {"captions": len(texts), "distinct_captions": len(set(texts))}


def _encoders(dataset: Dataset) -> dict[str, str]:
    """Whose states and vectors they are."""
    speech, clip = dataset.store.features, dataset.clip
    found = {"speech": (speech["encoder"], speech["revision"]), "clip": (clip["name"], clip["revision"])}
    return {what: f"{name} at {revision}" if revision else name for what, (name, revision) in found.items()}


def _circumstances(device: torch.device, seed: int) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    bootstrap = {"resamples": RESAMPLES, "seed": seed}
    return {"sclip": sclip.__version__, "torch": str(torch.__version__), "device": name, "bootstrap": bootstrap}


def _rounded(data: Any) -> Any:
    """To four places, and plain data otherwise."""
    if isinstance(data, float):
        assert math.isfinite(data)
        return round(data, 4)
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(item) for item in data] if isinstance(data, list | tuple) else data
