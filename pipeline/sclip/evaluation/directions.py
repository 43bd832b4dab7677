"""Rank one side of each retrieval task by the other, in both directions; evaluate.py says which answers are correct."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sclip.evaluation.bootstrap import Bootstrap
from sclip.evaluation.inference import Predictions
from sclip.evaluation.outcomes import PICTURES, Groups, Outcomes
from sclip.evaluation.retrieval import chance_recalls, pair_ranks, pairs_of_equal_ids
from sclip.evaluation.scores import scores
from sclip.features.dataset import Dataset
from sclip.features.embed import embed_captions
from sclip.features.transcripts import Transcripts
from sclip.model.speechclip import SpeechCLIP


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


Compared = tuple[str, Side, Side]  # the branch and the two sides of a retrieval task


def score_retrieval(
    model: SpeechCLIP,
    predictions: Predictions,
    dataset: Dataset,
    transcripts: Transcripts | None,
    bootstrap: Bootstrap,
) -> tuple[dict[str, Any], Outcomes]:
    """Return the scores of all directions, and the ranks from which they come."""
    compared = [*_compared_sides(predictions, dataset), *_transcript_sides(model, dataset, transcripts)]
    metrics: dict[str, Any] = {}
    ranked: Groups = {}
    for name, one, other in compared:
        for query, candidate, answers, ranks in _both_directions(one, other, model.device):
            direction = f"{query.name}_to_{candidate.name}"
            has_answer = answers > 0  # a picture without text has no correct text
            if not bool(has_answer.any()):  # the only transcripts may be of such pictures
                continue
            table = metrics.setdefault(direction, {})
            ranks, pictures = ranks[has_answer], query.first_pictures[has_answer]
            table[name] = scores(ranks, pictures, bootstrap)
            ranked.setdefault(direction, {PICTURES: pictures})[name] = ranks
            chance = chance_recalls(answers[has_answer], len(candidate.vectors))
            table["chance"] = {f"R@{k}": recall for k, recall in chance.items()}
    return metrics, Outcomes.of(dataset.rows, len(dataset.images), ranked)


def _compared_sides(predictions: Predictions, dataset: Dataset) -> list[Compared]:
    """Return the branch and the two sides of each retrieval task."""
    image = _image_side(dataset)
    texts = [distinct_texts(dataset)] if len(dataset.captioned) else []
    compared: list[Compared] = [("clip", text, image) for text in texts]
    for branch, vectors in predictions.vectors.items():
        compared.append((branch, Side.of_one_picture("speech", vectors, dataset.image_index), image))
        with_text = vectors[dataset.captioned], dataset.image_index[dataset.captioned]
        compared += [(branch, Side.of_one_picture("speech", *with_text), text) for text in texts]
    return compared


def _image_side(dataset: Dataset) -> Side:
    return Side.of_one_picture("image", dataset.images.float(), torch.arange(len(dataset.images)))


def _transcript_sides(model: SpeechCLIP, dataset: Dataset, transcripts: Transcripts | None) -> list[Compared]:
    """Return the tasks of the topline that uses text. Each transcript is a query, as each utterance is."""
    written = {} if transcripts is None else transcripts.texts
    rows = [(i, written[row.id]) for i, row in enumerate(dataset.rows) if row.id in written]
    if not rows:
        return []
    vectors = embed_captions([text for _, text in rows], model.clip, model.device)
    side = Side.of_one_picture("transcript", vectors, dataset.image_index[[i for i, _ in rows]])
    texts = [distinct_texts(dataset)] if len(dataset.captioned) else []
    return [("clip", side, other) for other in (_image_side(dataset), *texts)]


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
