"""Where each stage leaves what the next one reads, relative to the repository's top."""

from pathlib import Path


def corpus_folder(corpus: str) -> Path:
    return Path("data/corpora") / corpus


def features_folder(preset: str) -> Path:
    """Hidden states of every utterance."""
    return Path("data/features") / preset


def vectors_folder(preset: str) -> Path:
    """CLIP's vectors of every picture and caption."""
    return Path("data/vectors") / preset


def model_folder(preset: str, arch: str, seed: int) -> Path:
    return Path("models") / preset / arch / f"seed-{seed}"


def scratch_folder(preset: str, arch: str, seed: int) -> Path:
    """What an unfinished training leaves, to go on from."""
    return Path("models/unfinished") / preset / arch / f"seed-{seed}"


def results_folder(preset: str, arch: str, seed: int) -> Path:
    return Path("results") / preset / arch / f"seed-{seed}"


def report_folder(preset: str) -> Path:
    return Path("results") / preset
