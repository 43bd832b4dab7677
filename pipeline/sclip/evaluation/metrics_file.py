"""metrics.json: the measurements of one model, with a digest of itself and of the files next to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sclip.errors import UserError
from sclip.files import check_digest, file_digest, write_json
from sclip.index_file import read_checked, write_index_file
from sclip.parsing import parse, read_json
from sclip.paths import EXAMPLES, METRICS, OUTCOMES, WORDS

# The number rises when a figure gets another definition, because the report must not mix the two.
FORMAT = "sclip metrics 2"
AGAIN = "run `sclip evaluate` again"
# The types of the parts that other modules read as tables. All other values are looked up by key.
_TYPES: dict[str, Any] = {
    "about": dict[str, Any],
    "counts": dict[str, int],
    "layers": dict[str, float],
    "speech_to_image": dict[str, dict[str, Any]],
    "files": dict[str, str],
}
_ABOUT: dict[str, Any] = {
    "arch": str,
    "architecture": dict[str, dict[str, Any]],
    "preset": str,
    "seed": int,
    "model": str,
    "weights": str,
    "states": str,
    "stop_words": str,
    "encoders": dict[str, str],
    "encoder_hashes": dict[str, str],
    "test_data": str,
}


def write_results(folder: Path, metrics: Mapping[str, Any], examples: Any, words: Any) -> None:
    """Write the files of a results folder, metrics.json last. The outcomes are there already."""
    write_json(folder / EXAMPLES, examples)
    write_json(folder / WORDS, words)
    files = {name: file_digest(folder / name) for name in (EXAMPLES, WORDS, OUTCOMES)}
    write_index_file(folder / METRICS, {"format": FORMAT, **metrics, "files": files})


def check_no_other_results(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse to replace the results of another imported model of this architecture, also those of another format."""
    try:
        other = read_json(folder / METRICS)["about"]["model"]
    except (UserError, OSError, KeyError, TypeError):  # no results, or damaged ones
        return
    model = about.get("model")
    if isinstance(other, str) and (model is None or Path(other).resolve() != Path(model).resolve()):
        raise UserError(f"{folder}: has the results of {other}; move this folder to keep them, or delete it")


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a metrics.json that `write_results` wrote."""
    metrics = read_checked(path, FORMAT, AGAIN)
    _check_types(path, metrics)
    return metrics


def _check_types(path: Path, metrics: Mapping[str, Any]) -> None:
    """Refuse a file whose digest is right, but that `write_results` did not write."""
    try:
        for key, kind in _TYPES.items():
            if key in metrics:
                parse(kind, metrics[key], f"{path}: {key}")
        for key, kind in _ABOUT.items():
            if key in metrics.get("about", {}):
                parse(kind, metrics["about"][key], f"{path}: about.{key}")
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from None


def wrong_owner(metrics: Mapping[str, Any], preset: str, arch: str, seed: int) -> str | None:
    """Return an error message if these are not the results of this preset, architecture and seed, else None."""
    about, own = metrics.get("about", {}), {"preset": preset, "arch": arch, "seed": seed}
    if all(about.get(key) == value for key, value in own.items()):
        return None
    found, expected = (", ".join(f"{key} {record.get(key)}" for key in own) for record in (about, own))
    command = f"sclip evaluate --preset {preset} --arch {arch} --seed {seed}"
    return (
        f"expected the results of {expected}, found those of {found}; delete this folder or move it back, or run "
        f"`{command}` to replace them"
    )


def check_other_files(
    folder: Path, metrics: Mapping[str, Any], names: Sequence[str] = (EXAMPLES, WORDS, OUTCOMES)
) -> None:
    """Refuse a results folder if one of these files is not the one that metrics.json was written with."""
    for name, digest in metrics.get("files", {}).items():
        if name in names:
            check_digest(folder / name, digest, METRICS, AGAIN)
