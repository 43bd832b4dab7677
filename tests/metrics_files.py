"""Write a metrics.json of given content, with its format and digest, and change one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclip.evaluation.metrics_file import FORMAT, read_metrics
from sclip.index_file import write_index_file


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    write_index_file(path, {"format": FORMAT, **metrics})


def replace_in_metrics(path: Path, old: str, new: str) -> None:
    """Replace a part of the file's text."""
    write_metrics(path, json.loads(json.dumps(read_metrics(path)).replace(old, new)))
