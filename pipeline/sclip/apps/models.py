"""The model that an application uses, and the fingerprint that ties vectors to it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sclip.device import choose_device
from sclip.errors import UserError
from sclip.fingerprints import data_fingerprint, tensors_fingerprint
from sclip.model.loading import load
from sclip.model.speechclip import SpeechCLIP


@dataclass(frozen=True)
class OpenedModel:
    """A model, and the name that opens it again, or None for an object that was made in Python."""

    model: SpeechCLIP
    name: str | None
    clip: str  # fingerprint of CLIP, which alone decides the vectors of pictures and sentences
    fingerprint: str  # of the head's weights, the architecture and both encoders

    def branch(self, name: str | None) -> str:
        """Return the branch to encode recordings by; the default is that of `encode_speech`."""
        branches = self.model.branches
        if name is not None and name not in branches:
            raise UserError(f"--branch {name}: this model has {' and '.join(branches)}")
        return name or branches[0]

    def branch_for(self, kind: str, name: str | None) -> str | None:
        """Return the branch to encode files of a kind by; only recordings have one."""
        if kind != "audio" and name is not None:
            raise UserError(f"--branch {name}: only recordings are encoded by a branch; leave it out")
        return self.branch(name) if kind == "audio" else None

    def key(self, kind: str, branch: str | None) -> str:
        """Return the fingerprint of everything that decides the vector of a file of this kind."""
        return data_fingerprint([kind, self.fingerprint, branch] if kind == "audio" else [kind, self.clip])


def open_model(model: str | Path | SpeechCLIP | OpenedModel, device: str = "auto") -> OpenedModel:
    """Open a model folder or a hub repo on a device (`choose_device`). A model object stays on its own device."""
    if isinstance(model, OpenedModel):
        return model
    name = None
    if not isinstance(model, SpeechCLIP):
        name = str(Path(model).absolute()) if Path(model).is_dir() else str(model)
        model = load(model, device=choose_device(device))
    clip = model.clip.fingerprint()
    config = {
        "architecture": dataclasses.asdict(model.architecture),
        "speech": [model.speech.fingerprint(), model.speech.normalize_waveform],
        "clip": clip,
    }
    return OpenedModel(model, name, clip, tensors_fingerprint(model.head.state_dict(), config))
