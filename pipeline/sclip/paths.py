"""Where each stage leaves what the next one reads, relative to the repository's top."""

from pathlib import Path

# In a results folder.
METRICS, EXAMPLES, WORDS = "metrics.json", "examples.json", "words.json"


def manifest(preset: str) -> Path:
    """What there is: a row an utterance."""
    return Path("data") / preset / "manifest.jsonl"


def features_folder(preset: str) -> Path:
    """Hidden states of every utterance."""
    return Path("data") / preset / "features"


def vectors_folder(preset: str) -> Path:
    """CLIP's vectors of every picture and caption."""
    return Path("data") / preset / "vectors"


def model_folder(preset: str, arch: str, seed: int) -> Path:
    return Path("models") / preset / arch / f"seed-{seed}"


def scratch_folder(preset: str, arch: str, seed: int) -> Path:
    """What an unfinished training leaves, to go on from."""
    return Path("models/unfinished") / preset / arch / f"seed-{seed}"


def results_folder(preset: str, arch: str, seed: int, exact: bool = False) -> Path:
    """Return where `evaluate` writes."""
    return Path("results") / preset / _runs(exact) / arch / f"seed-{seed}"


def imported_results_folder(preset: str, arch: str, exact: bool = False) -> Path:
    """Return where `evaluate --model` writes, which measures a model that was not trained here."""
    return Path("results") / preset / _runs(exact) / arch / "imported"


def _runs(exact: bool) -> str:
    """Scores of exact states lie apart from the runs that DVC and the report read."""
    return "exact" if exact else "runs"


def curves_folder(preset: str, arch: str, seed: int) -> Path:
    return results_folder(preset, arch, seed) / "curves"


def report_folder(preset: str) -> Path:
    return Path("results") / preset
