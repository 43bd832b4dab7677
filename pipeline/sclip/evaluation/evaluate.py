"""The stage `evaluate`: a trained model on the test split, as numbers and as examples.

`metrics.json`, shares in %, most figures as {value, low, high} with their 95 % interval over pictures:

    about             what was evaluated, with what
    counts            utterances, pictures, captions
    layers            the share of each of the speech encoder's hidden states, 0 the first
    speech_to_image   for each branch R@1, R@5, R@10, mean_rank, median_rank; for `chance` the recalls alone
    image_to_speech   the same; a picture is the query
    speech_to_text    where there are captions: zero-shot, the captions' vectors are CLIP's
    text_to_speech
    text_to_image     branch `clip`: what CLIP does with the captions in writing, the topline
    image_to_text
    keywords          `model`, and `commonest`: always the commonest tokens; see keywords.py
    boundaries        CIF, where times of words are known; see boundaries.py

In every direction whatever belongs to the same picture is right, and the best of it counts. So an utterance may find
any caption of its picture, not only its own transcript, as in the published code, whose ids are the pictures'.

`examples.json`: see examples.py. `words.json`: see words.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import sclip
from sclip import processes
from sclip.evaluation.bootstrap import RESAMPLES, Bootstrap
from sclip.evaluation.boundaries import References, boundary_scores
from sclip.evaluation.examples import examples
from sclip.evaluation.hear import Heard, hear
from sclip.evaluation.keywords import Found, Lexicon, caption_tokens, hits, matches, usage
from sclip.evaluation.retrieval import chance_recalls, first_ranks, scores
from sclip.evaluation.words import Words, study
from sclip.model import SpeechCLIP
from sclip.training.data import Dataset
from sclip.whole import save_json

METRICS, EXAMPLES, WORDS = "metrics.json", "examples.json", "words.json"
Side = tuple[str, Tensor, Tensor]  # what it is called, vectors (N, J), the picture (N,) of each


def evaluate(
    model: SpeechCLIP,
    dataset: Dataset,
    device: str | torch.device,
    out: Path,
    seed: int = 0,
    about: Mapping[str, str | int] | None = None,
) -> dict[str, Any]:
    """Write metrics.json, which it returns, examples.json and words.json. `about` is copied: preset, seed and so on."""
    model = model.to(device).eval()
    heard = hear(model, dataset)
    bootstrap = Bootstrap(len(dataset.images), seed)
    retrieval, ranks = _retrieval(heard, dataset, model.device, bootstrap)
    metrics: dict[str, Any] = {
        "about": {
            **(about or {}),
            "arch": model.name,
            "encoders": _encoders(dataset),
            **_circumstances(model.device, seed),
        },
        "counts": _counts(dataset),
        "layers": {str(state): share for state, share in enumerate(model.head.weighting.weights().tolist())},
        **retrieval,
    }
    studied: dict[str, Any] = {}
    if heard.keywords is not None:
        metrics["keywords"], studied = _keywords(model, heard.keywords, dataset, bootstrap)
    if heard.firings is not None and any(row.words for row in dataset.rows):
        metrics["boundaries"] = _boundaries(heard.firings, dataset, bootstrap, seed)
    branch = max(ranks, key=lambda name: retrieval["speech_to_image"][name]["R@10"]["value"])
    shown = examples(model, dataset, branch, heard.vectors[branch], ranks[branch], seed)
    metrics = _rounded(metrics)
    if processes.is_first():
        _tell_what_is_missing(dataset)
        out.mkdir(parents=True, exist_ok=True)
        save_json(out / EXAMPLES, _rounded(shown))
        save_json(out / WORDS, _rounded(studied))
        save_json(out / METRICS, metrics)
    return metrics


def _tell_what_is_missing(dataset: Dataset) -> None:
    wordless = sum(row.text is None for row in dataset.rows)
    if 0 < wordless < len(dataset):
        click.echo(f"{wordless} of {len(dataset)} rows have no text: nothing is measured against text", err=True)


def _retrieval(
    heard: Heard, dataset: Dataset, device: torch.device, bootstrap: Bootstrap
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All directions, and of each branch the ranks (N,) of speech_to_image"""
    image: Side = ("image", dataset.images.float(), torch.arange(len(dataset.images)))
    written: list[Side] = []
    if dataset.captions is not None:
        written.append(("text", dataset.captions.float(), dataset.image_index))
    pairs: list[tuple[str, Side, Side]] = [("clip", text, image) for text in written]
    for branch, vectors in heard.vectors.items():
        speech: Side = ("speech", vectors, dataset.image_index)
        pairs += [(branch, speech, other) for other in (image, *written)]

    metrics: dict[str, Any] = {}
    ranks: dict[str, Tensor] = {}
    for name, one, other in pairs:
        there, back = first_ranks(*(t.to(device) for t in (*one[1:], *other[1:])))
        for (query, _, ids), (candidate, _, owners), found in ((one, other, there.cpu()), (other, one, back.cpu())):
            direction = f"{query}_to_{candidate}"
            table = metrics.setdefault(direction, {})
            table[name] = scores(found, ids, bootstrap)
            table["chance"] = {f"R@{k}": recall for k, recall in chance_recalls(ids, owners).items()}
            if direction == "speech_to_image":
                ranks[name] = found
    return metrics, ranks


def _keywords(
    model: SpeechCLIP, found: Found, dataset: Dataset, bootstrap: Bootstrap
) -> tuple[dict[str, Any], dict[str, Any]]:
    """For metrics.json and for words.json"""
    assert model.vocabulary is not None
    assert model.head.keywords is not None
    lexicon = Lexicon.of(model.vocabulary, model.clip, model.head.keywords.quantize.unit_table)
    fixed, answers = model.head.cif is None, {"model": found, "commonest": lexicon.commonest(found)}
    metrics = {name: usage(answer, dataset.image_index, bootstrap) for name, answer in answers.items()}
    written = [i for i, row in enumerate(dataset.rows) if row.text]
    if not written:
        return metrics, {}
    texts, pictures = [row.text for row in dataset.rows if row.text], dataset.image_index[written]
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
    captions = 0 if dataset.captions is None else len(dataset.captions)
    return {"utterances": len(dataset), "pictures": len(dataset.images), "captions": captions}


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
