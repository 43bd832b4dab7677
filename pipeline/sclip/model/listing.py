"""Find model folders, and read what their configurations say.

Files of other programs, and files that cannot be read, are passed over.

This module imports nothing that takes time, because shell completion uses it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sclip.formats import MODEL_KIND
from sclip.parsing import read_table

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


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
            if str(config.get("format")).startswith(MODEL_KIND):
                origin = config.get("origin")
                trained_on = origin.get("trained on") if isinstance(origin, dict) else None
                yield ListedModel(path.parent, str(config.get("arch")), trained_on)


def weights_digest(folder: Path) -> str | None:
    """Return the SHA-256 of a model's weights by its configuration, or None if there is none."""
    files = read_table(folder / CONFIG_FILE).get("files")
    return files.get(WEIGHTS_FILE) if isinstance(files, dict) else None
