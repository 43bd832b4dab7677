"""Paths of the stages' files, relative to the root of the repository."""

from pathlib import Path

# What ships with the package: the files of a new project folder, and trained models among them.
STARTER = Path(__file__).parent / "starter"
SHIPPED_MODELS = STARTER / "models"
CODE = Path("code.json")  # the fingerprints of each stage's code, in a folder without the source files
# Files in a results folder.
METRICS, EXAMPLES, WORDS, OUTCOMES = "metrics.json", "examples.json", "words.json", "outcomes.safetensors"
SUMMARY = "summary.json"  # of a report: numbers for `dvc metrics`


def manifest(preset: str) -> Path:
    """Return the path of the manifest, which has one row per utterance."""
    return Path("data") / preset / "manifest.jsonl"


def features_folder(preset: str) -> Path:
    """Return the folder of every utterance's hidden states."""
    return Path("data") / preset / "features"


def vectors_folder(preset: str) -> Path:
    """Return the folder of CLIP's vectors of every picture and caption."""
    return Path("data") / preset / "vectors"


def transcripts(preset: str) -> Path:
    """Return the file of what a speech recogniser wrote, for a topline that uses text."""
    return Path("data") / preset / "transcripts.json"


def model_folder(preset: str, arch: str, seed: int) -> Path:
    return Path("models") / preset / arch / f"seed-{seed}"


def scratch_folder(preset: str, arch: str, seed: int) -> Path:
    """Return the folder of the checkpoints that an interrupted training resumes from."""
    return Path("models/unfinished") / preset / arch / f"seed-{seed}"


def results_folder(preset: str, arch: str, seed: int, exact: bool = False) -> Path:
    """Return the folder that `evaluate` writes to."""
    return Path("results") / preset / _runs(exact) / arch / f"seed-{seed}"


def imported_results_folder(preset: str, arch: str, exact: bool = False) -> Path:
    """Return the folder that `evaluate --model` writes to. Its model was not trained in this repository."""
    return Path("results") / preset / _runs(exact) / arch / "imported"


def model_folders(preset: str) -> list[Path]:
    """Return the folders of all models that were trained for a preset."""
    return _of_seeds(Path("models") / preset)


def scratch_folders(preset: str) -> list[Path]:
    """Return the folders of all trainings of a preset that were interrupted."""
    return _of_seeds(Path("models/unfinished") / preset)


def results_folders(preset: str) -> list[Path]:
    """Return all folders that `evaluate` writes to: also those of exact hidden states and of imported models."""
    return run_folders(preset) + run_folders(preset, exact=True)


def run_folders(preset: str, exact: bool = False) -> list[Path]:
    """Return the folders that `evaluate` writes to with stored hidden states, or with exact ones."""
    place = Path("results") / preset / _runs(exact)
    return [*_of_seeds(place), *sorted(place.glob("*/imported"))]


def _of_seeds(folder: Path) -> list[Path]:
    """Return the folders ARCH/seed-N, and not the temporary ones that a killed command has left."""
    return sorted(path for path in folder.glob("*/seed-*") if path.name.removeprefix("seed-").isdecimal())


def _runs(exact: bool) -> str:
    """Separate results with exact hidden states from the runs that DVC and the report read."""
    return "exact" if exact else "runs"


def curves_folder(preset: str, arch: str, seed: int) -> Path:
    return results_folder(preset, arch, seed) / "curves"


def report_folder(preset: str) -> Path:
    return Path("results") / preset
