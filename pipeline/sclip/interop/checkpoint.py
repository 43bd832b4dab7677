"""Read a PyTorch checkpoint without running any code from it.

torch's weights-only loader reads tensors and plain containers. For every other class that the file names, the loader
gets a stand-in, so that instances become plain data (the configurations in PyTorch Lightning checkpoints are such
instances). If the file asks to call a function or a class, the checkpoint is refused.
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
    """The type of the stand-ins for foreign classes.

    The loader builds instances without calling the class, so a call means that the file pickles a function call.
    """

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise _Refused(f"the file asks to call {cls.__module__}.{cls.__qualname__}")


class Foreign(metaclass=_ForeignType):
    """Holds the state of an instance of a foreign class as data."""

    state: Any = None

    def __new__(cls, *_: Any) -> "Foreign":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint as plain data: lists and dicts of tensors, numbers, text and foreign objects' states."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected a checkpoint. A model folder needs no import: give it as --model")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(_stand_in(name), name) for name in names]):
            data = _plain(torch.load(path, map_location="cpu", weights_only=True, mmap=True), {})
    except _Refused as error:
        raise UserError(f"{path}: refused, no code was run: {error}") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, no code was run: {_refusal(str(error))}") from None
    except Exception as error:  # zip, pickle and torch each raise their own errors for damaged files
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        first_sentence = first_line.split(". ")[0]
        raise UserError(
            f"{path}: not a complete checkpoint in torch.save's zip format: {first_sentence}; download it again"
        ) from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a checkpoint with a state_dict, found a {type(data).__name__}")
    return data


def _stand_in(name: str) -> type:
    module, _, qualname = name.rpartition(".")
    return _ForeignType(qualname, (Foreign,), {"__module__": module, "__qualname__": qualname})


def _refusal(message: str) -> str:
    """Return the name that torch's loader refuses, or the loader's message if it has no name."""
    message = " ".join(message[:500].split())  # a name in the file may have any length
    match = re.search(r"(?:GLOBAL|global|reduce|function|REDUCE)\D*?([A-Za-z_][\w]*(?:\.\w+)+)", message)
    return f"the file refers to {match[1]}" if match else message[:200]


def _plain(data: Any, done: dict[int, Any]) -> Any:
    """Replace foreign objects by their state. `done` holds results by id, so shared objects are converted once."""
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
