"""The settings that ship. What a user adds to params.yaml or chooses in `run` changes no test."""

import re
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = {
    "presets": ["scenes"],
    "architectures": ["parallel", "cascaded", "cascaded-cif", "hybrid", "hybrid-cif"],
    "seeds": [0],
}
PRESETS = {
    *("scenes", "scenes-published", "scenes-study", "scenes-study-published"),
    *("scenes-random-hubert", "scenes-mfcc", "scenes-random-clip"),
    *(
        f"{name}{recipe}"
        for name in ("flickr8k-base", "flickr8k-large", "spokencoco-large")
        for recipe in ("", "-sclip")
    ),
}
_BLOCK = "\nrun:\n" + "".join(f"  {key}:\n" + "".join(f"  - {one}\n" for one in values) for key, values in RUN.items())


def _as_shipped(text: str) -> str:
    """Return the text of params.yaml with RUN and only with PRESETS."""
    text = re.sub(r"\nrun:\n(?: .*\n)+", lambda _: _BLOCK, text, count=1)
    before, presets, after = re.split(r"(?<=\npresets:\n)((?:[ #\n].*\n|\n)+)", text, maxsplit=1)
    blocks = re.split(r"^(?=  [\w-]+:)", presets, flags=re.MULTILINE)
    return before + "".join(block for block in blocks if block.strip().partition(":")[0] in PRESETS) + after


SCRATCH = tempfile.TemporaryDirectory(prefix="sclip-tests-")
PARAMS = Path(SCRATCH.name) / "params.yaml"  # that of the project, as shipped
PARAMS.write_text(_as_shipped((ROOT / "params.yaml").read_text()))
