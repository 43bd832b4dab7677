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
    "keywords": "sclip.apps.keywords",
    "load": "sclip.model.loading",
    "push": "sclip.apps.hub",
    "search": "sclip.apps.search",
    "segment": "sclip.apps.keywords",
}
__all__ = ["SpeechCLIP", "UserError", "__version__", "embed", "index", "keywords", "load", "push", "search", "segment"]

if TYPE_CHECKING:
    from sclip.apps.embed import embed
    from sclip.apps.hub import push
    from sclip.apps.index import index
    from sclip.apps.keywords import keywords, segment
    from sclip.apps.search import search
    from sclip.errors import UserError
    from sclip.model.loading import load
    from sclip.model.speechclip import SpeechCLIP


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'sclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
