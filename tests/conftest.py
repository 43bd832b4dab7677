"""No test reaches for a network. The same examples on every CI run, new ones at every desk."""

import os
import tempfile

_hub = tempfile.TemporaryDirectory(prefix="sclip-hub-")
# Read when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _hub.name

from hypothesis import settings  # noqa: E402

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
