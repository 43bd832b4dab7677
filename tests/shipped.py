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
_BLOCK = "\nrun:\n" + "".join(f"  {key}:\n" + "".join(f"  - {one}\n" for one in values) for key, values in RUN.items())

_folder = tempfile.TemporaryDirectory(prefix="sclip-params-")
PARAMS = Path(_folder.name) / "params.yaml"  # that of the project, with RUN
PARAMS.write_text(re.sub(r"\nrun:\n(?: .*\n)+", _BLOCK, (ROOT / "params.yaml").read_text(), count=1))
