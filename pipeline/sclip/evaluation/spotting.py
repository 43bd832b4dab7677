"""Find the utterances for a written keyword, and compare them with what people labelled.

The task is that of Kamper et al. (2019) on their labels of 1,000 test utterances of Flickr8k, semantic_flickraudio:
for each of 67 keywords, rank the utterances. Two kinds of labels say which utterances are relevant:

    exact      the keyword is a word of the transcription
    semantic   most annotators found the keyword relevant, whether it was spoken or not

Utterances are ranked by two kinds of scores:

    parallel, cascaded   cosine of the utterance's vector and CLIP's vector of the keyword as a text
    slots                the highest cosine of a keyword slot and the keyword's token; of several tokens, the mean. A
                         keyword whose tokens are not all in the vocabulary gets the same score everywhere

The figures are in %, and computed as in the authors' code. All but AP are means over keywords, with an interval over
keywords. Keywords without a relevant utterance are left out everywhere, also of AP, and so is a kind of labels that
says of no utterance that it is relevant.

    P@10, P@N   share of relevant utterances among the first 10, and among the first N, where N are relevant
    EER         equal error rate: where the share of irrelevant utterances that are accepted equals the share of
                relevant ones that are rejected, interpolated between thresholds
    AP          average precision of all pairs of a keyword and an utterance, ranked together
    mAP         average precision of each keyword
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip.errors import UserError
from sclip.evaluation.bootstrap import SEED, Bootstrap
from sclip.evaluation.inference import BATCH_FRAMES, output_of
from sclip.features.dataset import Dataset
from sclip.model.speechclip import SpeechCLIP
from sclip.padded import length_sorted_batches
from sclip.parsing import csv_records, read_text

FOLDER = "semantic_flickraudio"  # of Flickr8k's folder
KEYWORDS, LABELS = "keywords.txt", "semantic_flickraudio_labels.csv"
COLUMNS = ("utt_key", "transcription", "keywords")
CHANCE = "chance"
LOWEST_SCORE = -1.0  # the score of a keyword that is not in the vocabulary: the lowest cosine


@dataclass(frozen=True)
class KeywordLabels:
    """Hold the keywords that are relevant for each labelled utterance, by the utterance's id."""

    keywords: tuple[str, ...]
    exact: Mapping[str, frozenset[str]]
    semantic: Mapping[str, frozenset[str]]

    @classmethod
    def find(cls, folder: Path) -> "KeywordLabels | None":
        """Read the labels in a corpus's folder, if it has them."""
        for place in (folder / FOLDER, folder / FOLDER / "data"):
            if (place / LABELS).is_file():
                return cls.read(place)
        return None

    @classmethod
    def read(cls, folder: Path) -> "KeywordLabels":
        """Read keywords.txt and semantic_flickraudio_labels.csv, whose columns are utt_key, transcription, keywords."""
        keywords = tuple(dict.fromkeys(read_text(folder / KEYWORDS).split()))
        exact: dict[str, frozenset[str]] = {}
        semantic: dict[str, frozenset[str]] = {}
        records = csv_records(folder / LABELS)
        _, columns = next(records, (0, []))
        for number, cells in records:
            if not cells:  # an empty line
                continue
            where, record = f"{folder / LABELS} line {number}", dict(zip(columns, cells, strict=False))
            try:
                name, transcription, labels = (record[column] for column in COLUMNS)
            except KeyError:
                raise UserError(f"{where}: expected utt_key, transcription and keywords, found {record}") from None
            found = frozenset(labels.split("|")) - {""}
            if unknown := found - set(keywords):
                raise UserError(f"{where}: {min(unknown)!r} is not in {KEYWORDS}; fetch the labels again")
            semantic[name], exact[name] = found, frozenset(transcription.split()) & set(keywords)
        return cls(keywords, exact, semantic)


@torch.inference_mode()
def keyword_spotting(
    model: SpeechCLIP, dataset: Dataset, vectors: Mapping[str, Tensor], labels: KeywordLabels
) -> dict[str, Any]:
    """Return the part `keyword_spotting` of metrics.json. `vectors` (N, J) are those of each branch, unit length."""
    rows = [i for i, row in enumerate(dataset.rows) if row.id in labels.semantic]
    if not rows:
        return {}
    queries = F.normalize(model.clip.encode_text(labels.keywords).float(), dim=-1).cpu()  # (Q, J)
    scores = {branch: of_branch[rows] @ queries.T for branch, of_branch in vectors.items()}  # (U, Q)
    result: dict[str, Any] = {"utterances": len(rows), "keywords": len(labels.keywords)}
    if model.vocabulary is not None:
        tokens = model.clip.token_ids(labels.keywords)
        known = {token: row for row, token in enumerate(model.vocabulary.ids)}
        places = [[known[token] for token in word] if known.keys() >= set(word) else None for word in tokens]
        scores["slots"] = _slot_scores(model, dataset, torch.tensor(rows), places)
        result["keywords_in_vocabulary"] = sum(place is not None for place in places)
    for name, kind in (("exact", labels.exact), ("semantic", labels.semantic)):
        of_rows = [kind[dataset.rows[i].id] for i in rows]
        relevant = torch.tensor([[keyword in of_row for keyword in labels.keywords] for of_row in of_rows])  # (U, Q)
        if bool(relevant.any()):
            result[name] = {system: figures(of_system, relevant) for system, of_system in scores.items()}
            result[name][CHANCE] = {"P@10": chance(relevant), "EER": 50.0}
    return result


def _slot_scores(model: SpeechCLIP, dataset: Dataset, rows: Tensor, places: list[list[int] | None]) -> Tensor:
    """Score keywords by the slots of utterances: (U, Q). `places` are the rows of each keyword in the vocabulary."""
    assert model.head.keywords is not None
    scores = torch.full((len(rows), len(places)), LOWEST_SCORE)
    for batch in length_sorted_batches(dataset.frames[rows], BATCH_FRAMES["cpu"]):  # small: the cosines are (B, S, V)
        output = output_of(model, dataset.read(rows[batch]))
        assert output.keywords is not None
        cosines = model.head.keywords.quantize.allowed(output.keywords)  # (B, S, V)
        is_slot = output.keywords.embeddings.valid.to(cosines.device)
        best = cosines.masked_fill(~is_slot[..., None], -torch.inf).amax(1).cpu()  # (B, V)
        for query, place in enumerate(places):
            if place is not None:
                scores[batch, query] = best[:, place].mean(1).clamp(min=LOWEST_SCORE)
    return scores


def figures(scores: Tensor, relevant: Tensor) -> dict[str, Any]:
    """Return the figures of `scores` (U, Q), in %, with intervals over the keywords that have a relevant utterance."""
    used = relevant.any(0)
    used_scores, used_relevant = scores[:, used].double(), relevant[:, used]
    columns = list(zip(used_scores.T, used_relevant.T, strict=True))
    of_keywords = {
        "P@10": [precision_at(10, *column) for column in columns],
        "P@N": [precision_at(int(column[1].sum()), *column) for column in columns],
        "EER": [equal_error_rate(*column) for column in columns],
        "mAP": [average_precision(*column) for column in columns],
    }
    bootstrap, keywords = Bootstrap(len(columns), SEED), torch.arange(len(columns))
    estimates = {name: bootstrap.mean(100 * torch.tensor(values), keywords) for name, values in of_keywords.items()}
    return estimates | {"AP": 100 * average_precision(used_scores.flatten(), used_relevant.flatten())}


def chance(relevant: Tensor) -> float:
    """Return the precision of a random order, in %, as a mean over the keywords with a relevant utterance."""
    return 100 * float(relevant.double().mean(0)[relevant.any(0)].mean())


def _accepted(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Count the relevant and the irrelevant items at or above each distinct score, from the highest: (T,) and (T,)"""
    ordered, order = scores.sort(descending=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[:-1] != ordered[1:]  # items with equal scores are accepted together
    hits, false_alarms = relevant[order].cumsum(0), (~relevant[order]).cumsum(0)
    return hits[is_last].double(), false_alarms[is_last].double()


def precision_at(count: int, scores: Tensor, relevant: Tensor) -> float:
    """Return the share of relevant items among the first `count`: (N,) and (N,). Equal scores are in random order."""
    hits, false_alarms = (F.pad(counts, (1, 0)) for counts in _accepted(scores, relevant))
    accepted = hits + false_alarms
    if count >= accepted[-1]:
        return float(hits[-1] / count)
    after = int((accepted > count).nonzero()[0, 0])
    before = after - 1
    share = (count - accepted[before]) / (accepted[after] - accepted[before])
    return float((hits[before] + share * (hits[after] - hits[before])) / count)


def average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Return the mean precision at each relevant item: (N,) and (N,). Items with equal scores share one rank."""
    hits, false_alarms = _accepted(scores, relevant)
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return float((gained * hits / (hits + false_alarms)).sum() / hits[-1])


def equal_error_rate(scores: Tensor, relevant: Tensor) -> float:
    """Return the rate at which the share of rejected relevant items equals that of accepted irrelevant ones.

    Between the thresholds of `scores` (N,), both shares are interpolated. `relevant` (N,) marks the relevant items.
    """
    hits, false_alarms = _accepted(scores, relevant)
    if false_alarms[-1] == 0:
        return 0.0
    accepted = F.pad(false_alarms, (1, 0)) / false_alarms[-1]  # from 0 to 1
    rejected = 1 - F.pad(hits, (1, 0)) / hits[-1]  # from 1 to 0
    after = int((accepted >= rejected).nonzero()[0, 0])
    before = after - 1
    gap, closed = rejected[before] - accepted[before], accepted[after] - rejected[after]
    share = gap / (gap + closed)
    return float(accepted[before] + share * (accepted[after] - accepted[before]))
