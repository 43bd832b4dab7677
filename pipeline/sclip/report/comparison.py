"""Compare two evaluated models by a paired bootstrap over the test pictures.

Both models have the same test utterances, so each resample draws the same pictures for both. The difference of a figure
is then computed in each resample, and errors that both models make on the same pictures cancel out.

    difference   second - first, with the 95 % interval of the resampled differences
    p            two-sided: twice the smaller one of two shares of the resamples, those whose difference is <= 0 and
                 those whose difference is >= 0; at most 1, and at least 1 / resamples. It is not corrected for the
                 number of figures that are compared.

The figures are those of metrics.json: retrieval in the directions that both models have, and keywords if both have
them. A branch is compared with the same branch of the other model. Models without a common branch have one branch each,
and these are compared. A figure of keywords is left out, with a note, if only one of the two has it, if no utterance
counts for one of them, or if the two evaluations counted the captions in different ways.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sclip.config import BRANCHES
from sclip.errors import UserError
from sclip.evaluation.bootstrap import RESAMPLES, SEED, Bootstrap, Estimate, estimate
from sclip.evaluation.metrics_file import check_other_files, read_metrics
from sclip.evaluation.outcomes import HITS, PICTURES, Outcomes, hit_rates, matching_rates
from sclip.evaluation.retrieval import AT
from sclip.paths import METRICS, OUTCOMES

DIRECTIONS = {
    "speech_to_image": "speech → image",
    "image_to_speech": "image → speech",
    "speech_to_text": "speech → text",
    "text_to_speech": "text → speech",
}
MATCHES = {"all": "all tokens", "content": "content words", "content, synonyms as one": "synonyms as one"}


@dataclass(frozen=True)
class EvaluatedModel:
    """Hold what `evaluate` wrote for one model and `compare` needs."""

    folder: Path
    preset: str
    outcomes: Outcomes

    @classmethod
    def read(cls, folder: Path) -> "EvaluatedModel":
        path = folder / METRICS
        if not path.is_file():
            raise UserError(
                f"{folder}: no results folder, since it has no {METRICS}; expected a folder that `sclip evaluate` "
                f"writes, such as {_example_below(folder)}"
            )
        metrics = read_metrics(path)
        check_other_files(folder, metrics, [OUTCOMES])
        return cls(folder, str(metrics.get("about", {}).get("preset")), Outcomes.read(folder / OUTCOMES))

    @property
    def branches(self) -> list[str]:
        return [branch for branch in BRANCHES if branch in self.outcomes.groups["speech_to_image"]]


@dataclass(frozen=True)
class Figure:
    """Hold the values of which a figure is the mean: one for each query or utterance."""

    values: Tensor  # (Q,)
    pictures: Tensor  # (Q,)
    counted: Tensor | None = None  # (Q,), bool: those that count, if not all


@dataclass(frozen=True)
class ComparedFigure:
    name: str  # such as `speech → image R@1`
    branches: tuple[str, str] | None  # of the first and the second model; None for keywords
    first: Estimate
    second: Estimate
    difference: Estimate  # second - first
    p: float


@dataclass(frozen=True)
class Comparison:
    first: Path
    second: Path
    figures: list[ComparedFigure]
    left_out: dict[str, str]  # figures that one or both models have, and why they are not compared
    resamples: int = RESAMPLES
    seed: int = SEED


def _example_below(folder: Path) -> Path:
    """Return a results folder at most three folders below this one, or an example if there is none."""
    found = (path.parent for depth in (1, 2, 3) for path in sorted(folder.glob(f"{'*/' * depth}{METRICS}")))
    return next(found, Path("results/scenes/runs/parallel/seed-0"))


def compare(first_folder: Path, second_folder: Path, branches: tuple[str, str] | None = None) -> Comparison:
    """Compare the results in two folders. With `branches`, compare only retrieval by these two branches."""
    if first_folder.resolve() == second_folder.resolve() and (branches is None or branches[0] == branches[1]):
        raise UserError(f"{first_folder}: given twice; expected the results of two models, or two --branches of one")
    return compare_models(EvaluatedModel.read(first_folder), EvaluatedModel.read(second_folder), branches)


def compare_models(
    first: EvaluatedModel, second: EvaluatedModel, branches: tuple[str, str] | None = None
) -> Comparison:
    _check_utterances(first, second)
    bootstrap = Bootstrap(first.outcomes.pictures, SEED)
    figures = [
        compare_figures(name, pair, ours, theirs, bootstrap)
        for pair in ([branches] if branches else _paired_branches(first, second))
        for name, ours, theirs in _retrieval(first, second, pair)
    ]
    left_out: dict[str, str] = {}
    for name, ours, theirs in [] if branches else _keywords(first.outcomes, second.outcomes, left_out):
        if _is_defined(ours) and _is_defined(theirs):
            figures.append(compare_figures(name, None, ours, theirs, bootstrap))
        else:
            left_out[name] = "no utterance counts for one of the two"
    return Comparison(first.folder, second.folder, figures, left_out)


def _check_utterances(first: EvaluatedModel, second: EvaluatedModel) -> None:
    ours, theirs = first.outcomes.utterances, second.outcomes.utterances
    if torch.equal(ours, theirs) and first.outcomes.pictures == second.outcomes.pictures:
        return
    only = [int((~torch.isin(one, other)).sum()) for one, other in ((ours, theirs), (theirs, ours))]
    what = "in another order"
    if any(only):
        what = (
            f"{only[0]:,} of the {len(ours):,} utterances of the first (preset {first.preset}) are not among those of "
            f"the second, and {only[1]:,} of the {len(theirs):,} of the second (preset {second.preset}) are not among "
            "those of the first"
        )
    raise UserError(
        f"{first.folder} and {second.folder}: evaluated on different test utterances: {what}; compare models that "
        "were evaluated on the same ones (ids, pictures and texts)"
    )


def _paired_branches(first: EvaluatedModel, second: EvaluatedModel) -> list[tuple[str, str]]:
    """Return the branches that both have, or else the only branch of each."""
    common = [(branch, branch) for branch in first.branches if branch in second.branches]
    return common or [(first.branches[0], second.branches[0])]


def _retrieval(
    first: EvaluatedModel, second: EvaluatedModel, branches: tuple[str, str]
) -> Iterator[tuple[str, Figure, Figure]]:
    """Yield the figures of retrieval that both have, by these branches."""
    for model, branch in zip((first, second), branches, strict=True):
        if branch not in model.branches:
            raise UserError(f"{model.folder}: no branch {branch}; it has {' and '.join(model.branches)}")
    for direction, name in DIRECTIONS.items():
        groups = [model.outcomes.groups.get(direction, {}) for model in (first, second)]
        if all(branch in group for group, branch in zip(groups, branches, strict=True)):
            ours, theirs = (
                _ranking_figures(group[branch], group[PICTURES]) for group, branch in zip(groups, branches, strict=True)
            )
            yield from ((f"{name} {figure}", ours[figure], theirs[figure]) for figure in ours)


def _ranking_figures(ranks: Tensor, pictures: Tensor) -> dict[str, Figure]:
    recalls = {f"R@{k}": Figure(100.0 * (ranks <= k), pictures) for k in AT}
    return {**recalls, "mean rank": Figure(ranks, pictures)}


def _is_defined(figure: Figure) -> bool:
    return figure.values.numel() > 0 and (figure.counted is None or bool(figure.counted.any()))


def _keywords(first: Outcomes, second: Outcomes, left_out: dict[str, str]) -> Iterator[tuple[str, Figure, Figure]]:
    """Yield the figures of keywords that both have. Those that cannot be compared are added to `left_out`."""
    ours, theirs = (_keyword_figures(outcomes) for outcomes in (first, second))
    both = ours and theirs
    for name in dict.fromkeys((*ours, *theirs)) if both else ():
        if name not in ours or name not in theirs:
            left_out[name] = "only one of the two has it"
        else:
            (figure, counts), (other, other_counts) = ours[name], theirs[name]
            if torch.equal(figure.pictures, other.pictures) and torch.equal(counts, other_counts):
                yield name, figure, other
            else:
                left_out[name] = "the two evaluations counted the captions in different ways"


def _keyword_figures(outcomes: Outcomes) -> dict[str, tuple[Figure, Tensor]]:
    """Return each figure, and the numbers of words of the captions that count for it. No model decides these."""
    figures: dict[str, tuple[Figure, Tensor]] = {}
    if keywords := outcomes.groups.get("keywords"):
        pictures = keywords[PICTURES]
        figures["keywords: hit rate"] = Figure(hit_rates(*keywords[HITS].unbind(1)), pictures), keywords["all"][:, 2]
        for key, name in MATCHES.items():
            if key in keywords:
                correct, found, words = keywords[key].unbind(1)
                f1 = matching_rates(correct, found, words)["f1"]
                figures[f"keywords: F1, {name}"] = Figure(f1, pictures, words > 0), words
    if located := outcomes.groups.get("localization"):
        hits, slots = located["content"].unbind(1)
        words = keywords["content"][:, 2] if keywords else torch.empty(0)
        figures["keywords: located, content words"] = (
            Figure(hit_rates(hits, slots), located[PICTURES], slots > 0),
            words,
        )
    return figures


def compare_figures(
    name: str, branches: tuple[str, str] | None, first: Figure, second: Figure, bootstrap: Bootstrap
) -> ComparedFigure:
    """Compare a figure of two models in the same resamples."""
    (value, resampled), (other, other_resampled) = (
        bootstrap.resampled_mean(figure.values, figure.pictures, figure.counted) for figure in (first, second)
    )
    differences = other_resampled - resampled
    return ComparedFigure(
        name,
        branches,
        first=_rounded(estimate(value, resampled)),
        second=_rounded(estimate(other, other_resampled)),
        difference=_rounded(estimate(other - value, differences)),
        p=p_value(differences),
    )


def p_value(differences: Tensor) -> float:
    """Return the two-sided p of resampled differences (R,), as defined above."""
    known = differences[~differences.isnan()].round(decimals=9)  # sums of fractions differ in their last digits
    shares = [float(side.double().mean()) for side in (known <= 0, known >= 0) if len(known)]
    return min(1.0, max(2 * min(shares, default=1.0), 1 / len(differences)))


def _rounded(figure: Estimate) -> Estimate:
    """Round as metrics.json does."""
    return {name: round(value, 4) for name, value in figure.items()}
