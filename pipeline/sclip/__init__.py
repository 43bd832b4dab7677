"""SpeechCLIP+: speech in CLIP's image-text space, without transcripts.

import sclip

model = sclip.load("path/or/hub-repo")
model.encode_speech(["caption.wav"])  # (1, width), unit length
model.encode_image(["picture.jpg"])   # likewise, in the same space
model.keywords(["caption.wav"])       # words of CLIP's vocabulary, with times
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SpeechCLIP", "UserError", "__version__", "load"]

if TYPE_CHECKING:
    from sclip.errors import UserError
    from sclip.model.speechclip import SpeechCLIP, load


def __getattr__(name: str) -> Any:
    # On demand, so that `sclip --help` does not wait for torch.
    if name in {"SpeechCLIP", "load"}:
        from sclip.model import speechclip

        return getattr(speechclip, name)
    if name == "UserError":
        from sclip.errors import UserError

        return UserError
    raise AttributeError(f"module 'sclip' has no attribute {name!r}")
