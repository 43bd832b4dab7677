"""SpeechCLIP+: speech in CLIP's image-text space, without transcripts.

import sclip

model = sclip.load("path/or/hub-repo")
model.encode_speech(["caption.wav"])  # (1, width), unit length
model.encode_image(["picture.jpg"])   # likewise, in the same space
model.keywords(["caption.wav"])       # words of CLIP's vocabulary, with times
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
# Names of this module and where they are. They are imported on demand, so that `sclip --help` does not wait for torch.
_PLACES = {
    "SpeechCLIP": "sclip.model.speechclip",
    "UserError": "sclip.errors",
    "embed": "sclip.apps.embed",
    "index": "sclip.apps.index",
    "load": "sclip.model.speechclip",
    "search": "sclip.apps.search",
}
__all__ = ["SpeechCLIP", "UserError", "__version__", "embed", "index", "load", "search"]

if TYPE_CHECKING:
    from sclip.apps.embed import embed
    from sclip.apps.index import index
    from sclip.apps.search import search
    from sclip.errors import UserError
    from sclip.model.speechclip import SpeechCLIP, load


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'sclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
