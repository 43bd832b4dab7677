"""Find model folders. Files of other programs, and files that cannot be read, are passed over.

This module imports nothing that takes time, because shell completion uses it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sclip.errors import UserError
from sclip.parsing import read_json

CONFIG_FILE = "config.json"
KIND = "sclip model "  # how the format of a model folder begins


@dataclass(frozen=True)
class ListedModel:
    folder: Path
    arch: str
    trained_on: str | None  # the kind of the corpus


def find_models(folder: Path, depth: int) -> Iterator[ListedModel]:
    """Yield the model folders below a folder, those of a level in the order of their names."""
    for level in range(1, depth + 1):
        for path in sorted(folder.glob(f"{'*/' * level}{CONFIG_FILE}")):
            config = read_table(path)
            if str(config.get("format")).startswith(KIND):
                origin = config.get("origin")
                trained_on = origin.get("trained on") if isinstance(origin, dict) else None
                yield ListedModel(path.parent, str(config.get("arch")), trained_on)


def read_table(path: Path) -> dict[str, object]:
    """Return the content of a JSON file with a table, and an empty table for anything else."""
    try:
        data = read_json(path) if path.is_file() else {}  # reading a pipe may never end
    except (UserError, OSError):
        return {}
    return data if isinstance(data, dict) else {}
