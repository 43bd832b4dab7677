"""Open a PyTorch checkpoint without running anything that it pickles.

torch's weights-only loader does the reading: tensors and plain containers. What it does not know by name becomes
data as long as it is only referred to or its instances are merely laid out (PyTorch Lightning checkpoints hold such
configurations), and the checkpoint is refused, by that name, if the file wants it called.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from sclip.errors import UserError


class _Refused(Exception):
    pass


class _ForeignType(type):
    """The type of stand-ins for foreign classes. The loader builds instances without calling them; a call is what
    a pickled function would get."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise _Refused(f"it asks for a call of {cls.__module__}.{cls.__qualname__}")


class Foreign(metaclass=_ForeignType):
    """An instance of a class that is not here: its state, as data."""

    state: Any = None

    def __new__(cls, *_: Any) -> "Foreign":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Nested plain data: tensors, numbers, text, lists, dicts; a foreign object is its state."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(_stand_in(name), name) for name in names]):
            data = _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=True), {})
    except _Refused as error:
        raise UserError(f"{path}: refused, nothing was run: {error}") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, nothing was run: {_refused_name(str(error))}") from None
    except Exception as error:  # a damaged file fails in zip, pickle or torch, each with errors of its own
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        first_sentence = first_line.split(". ")[0]
        raise UserError(f"{path}: not a whole checkpoint in torch.save's zip format: {first_sentence}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a checkpoint with a state_dict, found a {type(data).__name__}")
    return data


def _stand_in(name: str) -> type:
    module, _, qualname = name.rpartition(".")
    return _ForeignType(qualname, (Foreign,), {"__module__": module, "__qualname__": qualname})


def _refused_name(message: str) -> str:
    found = re.search(r"(?:GLOBAL|global|reduce|function|REDUCE)\D*?([A-Za-z_][\w]*(?:\.\w+)+)", message)
    return f"it holds {found[1]}" if found else " ".join(message.split())[:200]


def _plain(data: Any, done: dict[int, Any]) -> Any:
    """Without foreign objects. What is referred to more than once is converted once: `done`, by id."""
    if id(data) in done:
        return done[id(data)]
    plain = data
    if isinstance(data, Foreign):
        plain = _plain(data.state, done)
    elif isinstance(data, dict):
        plain = {key: _plain(value, done) for key, value in data.items()}
    elif isinstance(data, list | tuple):
        plain = [_plain(value, done) for value in data]
    done[id(data)] = plain
    return plain
