"""Collect examples for the report: twelve utterances, the same for every architecture.

branch            the branch that retrieves the pictures: the one with the higher R@10 from speech to image
frame_seconds     the duration of a frame
examples          a list; each has id, audio, image_id, image, text and words as in the manifest, and
    rank          the rank of the utterance's own picture
    retrieved     the five nearest pictures: image_id, image, score
    keywords      for each slot, its span (CIF only: start and end in seconds) and pieces: the nearest tokens with
                  their cosine similarities; the first one is the keyword
    alpha         CIF only: the weight of each frame
    fired         CIF only: the times of the firings, in seconds. A last frame may end after the recording
utterances        a list for the report's search: at most a thousand utterances, in the dataset's order, the same for
                  every architecture. The examples are among them. Each has id, audio, image_id, image, text and
                  speaker as in the manifest, and
    rank          the rank of the utterance's own picture
    keywords      the keyword of each slot, each word once; empty for models without keywords
"""

from typing import Any

import torch
from torch import Tensor

from sclip.corpora.rows import Row
from sclip.evaluation.bootstrap import SEED
from sclip.evaluation.inference import Predictions, firing_times, output_of
from sclip.features.dataset import Dataset
from sclip.heads.head import HeadOutput
from sclip.model.speechclip import SpeechCLIP

COUNT, MAX_NEAREST = 12, 5
MAX_UTTERANCES = 1000  # that the report searches; more would make its page too large


@torch.inference_mode()
def examples(
    model: SpeechCLIP, dataset: Dataset, branch: str, predictions: Predictions, ranks: Tensor
) -> dict[str, Any]:
    """Return the content of examples.json. `ranks` (N,) are those of the branch."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SEED))
    chosen = order[:COUNT].sort().values
    nearest = (predictions.vectors[branch][chosen] @ dataset.images.float().cpu().T).topk(
        min(MAX_NEAREST, len(dataset.images))
    )
    rows_by_picture = {int(picture): row for picture, row in zip(dataset.image_index, dataset.rows, strict=True)}
    chosen_examples = []
    for index, pictures, scores in zip(chosen.tolist(), nearest.indices.tolist(), nearest.values.tolist(), strict=True):
        retrieved = [
            {"image_id": rows_by_picture[p].image_id, "image": str(rows_by_picture[p].image), "score": score}
            for p, score in zip(pictures, scores, strict=True)
        ]
        example = _fields(dataset.rows[index], "text", "words") | {"rank": int(ranks[index]), "retrieved": retrieved}
        output = output_of(model, dataset.read(torch.tensor([index])))
        chosen_examples.append(example | head_fields(model, output))
    utterances = [
        _fields(dataset.rows[index], "text", "speaker")
        | {"rank": int(ranks[index]), "keywords": _distinct_keywords(model, predictions, index)}
        for index in order[:MAX_UTTERANCES].sort().values.tolist()
    ]
    return {
        "branch": branch,
        "frame_seconds": model.frame_seconds,
        "examples": chosen_examples,
        "utterances": utterances,
    }


def _fields(row: Row, *others: str) -> dict[str, Any]:
    """Return the id, the picture's id, both files and some other fields of a manifest's row."""
    fields = {key: getattr(row, key) for key in ("id", "image_id", *others)}
    return fields | {"audio": str(row.audio), "image": str(row.image)}


def _distinct_keywords(model: SpeechCLIP, predictions: Predictions, index: int) -> list[str]:
    """Return the keywords of an utterance in the order of the slots, each word once."""
    if predictions.keywords is None:
        return []
    assert model.vocabulary is not None
    rows = predictions.keywords.rows[index, : predictions.keywords.lengths[index]].tolist()
    return list(dict.fromkeys(model.vocabulary.text(row) for row in rows))


def head_fields(model: SpeechCLIP, output: HeadOutput) -> dict[str, Any]:
    """Return one utterance's keywords, CIF's weights and the firing times, as far as the architecture has them."""
    fields: dict[str, Any] = {}
    if output.keywords is not None:
        (slots,) = model.keywords_of(output, MAX_NEAREST)
        fields["keywords"] = [
            {"span": slot.span, "pieces": [{"text": piece.text, "score": piece.score} for piece in slot.pieces]}
            for slot in slots
        ]
    if output.cif is not None:
        firing = output.cif.firing
        times = firing_times(firing.fired.cpu(), model.frame_seconds, int(firing.fired.sum()))
        fields |= {"alpha": firing.alpha[0].tolist(), "fired": times[0].tolist()}
    return fields
