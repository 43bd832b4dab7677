"""What the report shows of a dozen utterances: the same ones for every architecture.

branch            that retrieves
frame_seconds
examples          each with id, audio, image_id, image, text and words as in the manifest, and
    rank          of the right picture
    retrieved     the five nearest pictures: image_id, image, score
    keywords      of each slot, span (CIF: from where to where it predictions, in seconds) and pieces: the nearest
                  tokens with their cosines, the first of which is the keyword
    alpha         CIF: the weight of each frame
    fired         CIF: when it fired, in seconds
"""

from typing import Any

import torch
from torch import Tensor

from sclip.corpora.manifest import Row
from sclip.evaluation.inference import firing_times, output_of
from sclip.features.dataset import Dataset
from sclip.model.speechclip import SpeechCLIP

COUNT, SHOWN = 12, 5


@torch.inference_mode()
def examples(
    model: SpeechCLIP, dataset: Dataset, branch: str, vectors: Tensor, ranks: Tensor, seed: int
) -> dict[str, Any]:
    """vectors (N, J) of the branch, and what they retrieve: the ranks (N,) of the right pictures"""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:COUNT].sort().values
    pictures = {int(picture): row for picture, row in zip(dataset.image_index, dataset.rows, strict=True)}
    nearest = (vectors[chosen] @ dataset.images.float().cpu().T).topk(min(SHOWN, len(dataset.images)))
    shown = [
        {
            **_row(dataset.rows[index]),
            "rank": int(ranks[index]),
            "retrieved": [
                {"image_id": pictures[picture].image_id, "image": str(pictures[picture].image), "score": score}
                for picture, score in zip(images, scores, strict=True)
            ],
            **_slots(model, dataset, index),
        }
        for index, images, scores in zip(
            chosen.tolist(), nearest.indices.tolist(), nearest.values.tolist(), strict=True
        )
    ]
    return {"branch": branch, "frame_seconds": dataset.store.frame_seconds, "examples": shown}


def _row(row: Row) -> dict[str, Any]:
    kept = ("id", "image_id", "text", "words")
    return {**{key: getattr(row, key) for key in kept}, "audio": str(row.audio), "image": str(row.image)}


def _slots(model: SpeechCLIP, dataset: Dataset, index: int) -> dict[str, Any]:
    output = output_of(model, dataset.read(torch.tensor([index])))
    shown: dict[str, Any] = {}
    if output.keywords is not None:
        assert model.vocabulary is not None
        top = min(SHOWN, len(model.vocabulary) - len(model.vocabulary.blocked))
        (slots,) = model.keywords_of(output, top)
        shown["keywords"] = [
            {"span": slot.span, "pieces": [{"text": piece.text, "score": piece.score} for piece in slot.pieces]}
            for slot in slots
        ]
    if output.cif is not None:
        firing = output.cif.firing
        times = firing_times(firing.fired.cpu(), dataset.store.frame_seconds, int(firing.fired.sum()))
        shown |= {"alpha": firing.alpha[0].tolist(), "fired": times[0].tolist()}
    return shown
