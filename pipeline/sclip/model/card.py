"""The card of a model folder: what it is, what it needs, how good it is, where it comes from, and its licences.

The metadata at its head is what the hub reads (huggingface_hub.ModelCardData).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import open_clip
from huggingface_hub import EvalResult, ModelCardData

from sclip.errors import counted
from sclip.model.folder import CLIP, SPEECH, EncoderReference, ModelConfig
from sclip.model.listing import WEIGHTS_FILE

TAGS = ["speech", "clip", "speech-image-retrieval"]
UNKNOWN_LICENCE = "see where it comes from"
# The licences of published encoders, as their owners state them, by the name in params.yaml.
ENCODER_LICENCES = {
    "facebook/hubert-base-ls960": "Apache-2.0",
    "facebook/hubert-large-ll60k": "Apache-2.0",
    "mini-hubert": "MIT",
    "mini-clip": "MIT",
    "mfcc": "no weights",
}
OPENAI_LICENCE = "MIT"  # of OpenAI's CLIP weights


@dataclass(frozen=True)
class Corpus:
    title: str
    licence: str
    language: str | None = None


# By the kind of the corpus in params.yaml.
CORPORA = {
    "scenes": Corpus(
        "the synthetic corpus of sclip: pictures of emoji, captions of a grammar, synthetic voices",
        "the pictures consist of Twemoji (CC BY 4.0), and eSpeak NG (GPL-3.0-or-later) speaks the captions",
        "en",
    ),
    "flickr8k": Corpus(
        "Flickr8k with the Flickr 8k Audio Caption Corpus",
        "recordings CC BY-SA 4.0; pictures under Flickr's terms, for research that is not commercial",
        "en",
    ),
    "spokencoco": Corpus(
        "SpokenCOCO", "recordings CC BY-SA 4.0; COCO's captions CC BY 4.0, its pictures under Flickr's terms", "en"
    ),
    "places": Corpus(
        "Places Audio Captions with the pictures of Places205",
        "see the terms of the authors of both, which are not known here",
        "en",
    ),
    "speech-coco": Corpus(
        "SPEECH-COCO",
        "recordings CC BY 4.0, in synthetic voices; COCO's captions CC BY 4.0, its pictures under Flickr's terms",
        "en",
    ),
}
OWN_CORPUS = Corpus("a corpus of the author's own", "see the author's terms")
UNKNOWN_CORPUS = Corpus("not recorded", "not known")

DIRECTIONS = {"speech_to_image": "speech to image", "image_to_speech": "image to speech"}
RECALLS = {"R@1": "recall_at_1", "R@5": "recall_at_5", "R@10": "recall_at_10"}


@dataclass(frozen=True)
class Score:
    """One number of metrics.json."""

    branch: str
    task: str
    name: str
    key: str  # the hub's name of the metric
    value: float
    interval: str


def model_card(
    config: ModelConfig,
    repo: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> str:
    """Return the text of README.md.

    `repo` is the hub repo that the card is for, `metrics` the content of the model's metrics.json, `licence` that of
    the trained weights, as the hub spells it, and `sizes` the bytes of each part in the folder.
    """
    metrics = metrics or {}
    scores = list(read_scores(metrics))
    sections = [
        f"---\n{card_data(config, scores, metrics, licence).to_yaml()}\n---\n",
        f"# {config.arch}: speech in CLIP's image–text space\n\n{_description(config)}\n",
        f"## Use\n\n{_usage(config, repo)}\n",
        _results(scores, metrics),
        f"## Parts and their licences\n\n{_parts(config, licence, sizes or {})}\n",
        f"## Training\n\n{_training(config)}",
    ]
    return "\n".join(filter(None, sections))


def card_data(
    config: ModelConfig, scores: list[Score], metrics: Mapping[str, Any], licence: str | None
) -> ModelCardData:
    """Return the metadata that the hub reads."""
    results = [
        EvalResult(
            task_type="retrieval" if score.key in RECALLS.values() else "keyword-spotting",
            task_name=f"{score.task}, {score.branch}" if score.branch else score.task,
            dataset_type=config.origin.get("trained on", "own"),
            dataset_name=_test_set(metrics),
            dataset_split="test",
            metric_type=score.key,
            metric_name=score.name,
            metric_value=score.value,
        )
        for score in scores
    ]
    return ModelCardData(
        library_name="sclip",
        pipeline_tag="feature-extraction",
        language=language_of(config.origin),
        base_model=base_models(config) or None,
        tags=[*TAGS, config.arch],
        model_name=config.arch if results else None,
        eval_results=results or None,
        license=licence or "other",
        license_name=None if licence else "see-the-table-of-parts",
    )


def base_models(config: ModelConfig) -> list[str]:
    """Return the hub repos of the encoders, where they come from one."""
    repos = []
    for reference, key in ((config.speech_encoder, SPEECH), (config.clip_encoder, CLIP)):
        name = encoder_name(reference, config.origin, key)
        if reference.revision is not None or (key == SPEECH and "/" in name and name in ENCODER_LICENCES):
            repos.append(name.removeprefix("hf-hub:"))
        elif key == CLIP and name.count("/") == 1:
            weights = (open_clip.get_pretrained_cfg(*name.split("/")) or {}).get("hf_hub", "")
            repos += [weights.rpartition("/")[0]] if weights else []
    return repos


def encoder_name(reference: EncoderReference, origin: Mapping[str, str], key: str) -> str:
    """Return the name of an encoder. If the model folder has a copy of it, return the name of the original."""
    return reference.name or origin.get(key, "")


def corpus_of(origin: Mapping[str, str]) -> Corpus:
    kind = origin.get("trained on")
    return UNKNOWN_CORPUS if kind is None else CORPORA.get(kind, OWN_CORPUS)


def language_of(origin: Mapping[str, str]) -> str | None:
    """Return the language of the training, as an ISO 639-1 code, if it is known."""
    return origin.get("language") or corpus_of(origin).language


def read_scores(metrics: Mapping[str, Any]) -> Iterator[Score]:
    """Yield the numbers of metrics.json that a card shows."""
    for direction, task in DIRECTIONS.items():
        for branch, values in metrics.get(direction, {}).items():
            if branch != "chance":
                yield from (_score(branch, task, name, key, values[name]) for name, key in RECALLS.items())
    content = metrics.get("keywords", {}).get("model", {}).get("content")
    if content:
        yield _score("", "keywords that are content words of the caption", "F1", "f1", content["f1"])


def _score(branch: str, task: str, name: str, key: str, value: Mapping[str, float]) -> Score:
    return Score(branch, task, name, key, value["value"], f"{value['low']:.1f} to {value['high']:.1f}")


def _description(config: ModelConfig) -> str:
    lines = []
    if config.head.utterance:
        lines.append("An utterance vector for each recording, in the space of CLIP's picture vectors.")
    if config.head.keywords is not None:
        how = "as many as CIF fires" if config.head.keywords.cif else f"{config.head.keywords.slots} fixed slots"
        lines.append(f"Keywords for each recording ({how}): tokens of CLIP's vocabulary, encoded by its text tower.")
    return " ".join(lines)


def _usage(config: ModelConfig, repo: str | None) -> str:
    lines = [
        "import sclip\n",
        f'model = sclip.load("{repo or "path/to/this/folder"}")',
        'speech = model.encode_speech(["caption.wav"])  # (1, width), unit length',
        'images = model.encode_image(["picture.jpg"])  # in the same space',
        'texts = model.encode_text(["a written caption"])  # likewise',
        "print(speech @ images.T)  # cosine similarities",
    ]
    if config.head.keywords is not None:
        lines.append('print(model.keywords(["caption.wav"]))')
    waveform = "normalised" if config.speech_encoder.normalize_waveform else "unchanged"
    code = "\n".join(lines)
    return (
        f"```python\n{code}\n```\n\nThe input of the speech encoder is the {waveform} waveform. `encode_speech` and "
        "`keywords` compute exact hidden\nstates in fp32."
    )


def _results(scores: list[Score], metrics: Mapping[str, Any]) -> str:
    if not scores:
        return ""
    rows = [f"| {s.task} | {s.branch or '–'} | {s.name} | {s.value:.1f} | {s.interval} |" for s in scores]
    heading = "| task | branch | metric | % | 95 % interval |\n|---|---|---|---|---|"
    counts = metrics["counts"]
    about = f"{counted(counts['utterances'], 'utterances')} and {counted(counts['pictures'], 'pictures')}"
    about += f" of {_test_set(metrics)}"
    scored = metrics.get("about", {}).get("states")
    states = f"\nThe hidden states that were scored: {scored}." if scored else ""
    table = "\n".join([heading, *rows])
    return f"## Results\n\nOn {about}; in every direction, all right answers count.{states}\n\n{table}\n"


def _test_set(metrics: Mapping[str, Any]) -> str:
    preset = metrics.get("about", {}).get("preset")
    return f"the test split of {preset}" if preset else "a test split"


def _parts(config: ModelConfig, licence: str | None, sizes: Mapping[str, int]) -> str:
    rows = [
        ("head", f"`{WEIGHTS_FILE}`", licence or "its author has not stated one", config.files.get(WEIGHTS_FILE, ""))
    ]
    for reference, key, folder in ((config.speech_encoder, SPEECH, "speech"), (config.clip_encoder, CLIP, "clip")):
        name = encoder_name(reference, config.origin, key)
        rows.append((key, _place(reference, folder, name, sizes), encoder_licence(name), reference.hash))
    corpus = corpus_of(config.origin)
    lines = ["| part | from | licence | SHA-256 of weights and configuration |", "|---|---|---|---|"]
    lines += [f"| {part} | {place} | {terms} | {f'`{sha}`' if sha else ''} |" for part, place, terms, sha in rows]
    lines.append(f"| corpus of the training | {corpus.title} | {corpus.licence} | |")
    return "\n".join(lines)


def encoder_licence(name: str) -> str:
    """Return the licence of an encoder's weights, where it is known."""
    if name.endswith("/openai"):
        return OPENAI_LICENCE
    plain = name.removeprefix("local-dir:")
    shipped = plain.startswith(("models/", "../")) or "/" not in plain
    return ENCODER_LICENCES.get(PurePosixPath(plain).name if shipped else plain, UNKNOWN_LICENCE)


def _place(reference: EncoderReference, folder: str, name: str, sizes: Mapping[str, int]) -> str:
    if reference.name is None:
        copied = f", a copy of `{name}`" if name else ""
        size = f", {sizes[folder] / 1e6:,.1f} MB" if folder in sizes else ""
        return f"[`{folder}/`]({folder}) in this folder{copied}{size}"
    return f"`{reference.name}`" + (f" at `{reference.revision}`" if reference.revision else "")


def _training(config: ModelConfig) -> str:
    return "".join(f"- {key}: {value}\n" for key, value in config.origin.items()) or "- not recorded\n"
