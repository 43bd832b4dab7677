"""No test reaches for a network. The same examples on every CI run, new ones at every desk."""

import logging
import os
import tempfile

_hub = tempfile.TemporaryDirectory(prefix="sclip-hub-")
# Read when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _hub.name

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from sclip.device import exact_fp32  # noqa: E402

exact_fp32()  # as every command does
logging.getLogger("sclip").setLevel(logging.INFO)  # likewise
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture
def cores():
    """Has torch compute on so many, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
