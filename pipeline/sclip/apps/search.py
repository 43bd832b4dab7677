"""`sclip search`: rank the files of an index by their similarity to recordings, sentences or pictures."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sclip.apps.index_config import IndexConfig, faiss_file, is_index, read_config
from sclip.apps.inputs import (
    STANDARD_INPUT,
    STANDARD_INPUT_NAME,
    check_standard_input,
    kind_of,
    read_standard_input,
)
from sclip.errors import UserError
from sclip.files import missing_file_reason
from sclip.startup import paused_collection

if TYPE_CHECKING:
    from torch import Tensor

    from sclip.apps.models import OpenedModel
    from sclip.apps.table import Table
    from sclip.model.speechclip import SpeechCLIP

Engine = Literal["exact", "faiss"]


@dataclass(frozen=True)
class Match:
    rank: int  # from 1
    path: str
    score: float  # cosine


@dataclass(frozen=True)
class Ranking:
    """The files that are most similar to a query, best first."""

    query: str  # a file's name, or the sentence
    kind: str  # audio, text or image
    matches: tuple[Match, ...]
    files: str  # the kind of the files in the index


@dataclass(frozen=True)
class OpenedIndex:
    """An index in memory or mapped from the disk, for several searches."""

    folder: Path
    config: IndexConfig
    table: "Table"


def open_index(index: "str | Path | OpenedIndex") -> OpenedIndex:
    """Open an index after a check of every byte."""
    if isinstance(index, OpenedIndex):
        return index
    folder = Path(index)
    config = read_config(folder)
    with paused_collection():
        from sclip.apps.index import open_table
    while True:
        try:
            return OpenedIndex(folder, config, open_table(folder, config))
        except UserError:
            previous, config = config, read_config(folder)
            if config == previous:
                raise
            # `sclip index` has ended meanwhile, and has removed the file that the previous configuration named.


def search(
    index: "str | Path | OpenedIndex",
    audio: Sequence[Any] = (),
    *,
    text: Sequence[str] = (),
    image: Sequence[Any] = (),
    model: "str | Path | SpeechCLIP | OpenedModel | None" = None,
    top: int = 10,
    branch: str | None = None,
    engine: Engine = "exact",
    device: str = "auto",
) -> list[Ranking]:
    """Return a ranking of the files of an index for each recording, sentence and picture, in this order.

    `audio` and `image` may hold whatever `encode_speech` and `encode_image` take; "-" is a recording on standard input.
    Without `model`, the index's own model is opened. `branch` chooses the vector of recordings if the model has two.
    """
    _check(audio, text, image, top, engine, branch)
    index = open_index(index)
    name = _existing_model(model or index.config.model, index.folder)
    with paused_collection():
        from sclip.apps.models import open_model
        from sclip.apps.nearest import nearest, nearest_by_faiss
    opened = open_model(name, device)
    _check_model(index, opened)
    queries = _encode(opened, audio, text, image, branch or index.config.branch)
    vectors, names = index.table.vectors, index.table.names
    if engine == "faiss":
        scores, rows = nearest_by_faiss(vectors, queries, top, index.folder / faiss_file(index.config))
    else:
        scores, rows = nearest(vectors, queries, top, opened.model.device)
    rankings = []
    for (kind, query), s, r in zip(_names(audio, text, image), scores.tolist(), rows.tolist(), strict=True):
        matches = (Match(i + 1, names[row], score) for i, (score, row) in enumerate(zip(s, r, strict=True)))
        rankings.append(Ranking(query, kind, tuple(matches), index.config.kind))
    return rankings


def _check(
    audio: Sequence[Any], text: Sequence[str], image: Sequence[Any], top: int, engine: str, branch: str | None
) -> None:
    """Refuse mistakes before anything that takes seconds."""
    for option, items in (("audio", audio), ("text", text), ("image", image)):
        is_single = isinstance(items, str | bytes | Path)
        if is_single or not isinstance(items, Sequence):
            raise UserError(f"{option}: expected a list, found {'a single ' * is_single}{type(items).__name__}")
        for item in items if option != "text" else ():
            if isinstance(item, str | Path) and str(item) != STANDARD_INPUT:
                _check_file(str(item), option)
    if not len(audio) + len(text) + len(image):
        raise UserError("nothing to search for; give a recording, --text or --image")
    if branch is not None and not len(audio):
        raise UserError(f"--branch {branch}: only recordings are encoded by a branch; leave it out")
    check_standard_input(audio)
    for sentence in text:
        if not isinstance(sentence, str) or not sentence.strip():
            raise UserError(f"text: expected sentences, found {sentence!r}")
    if top < 1:
        raise UserError(f"top: expected at least 1, found {top}")
    if engine not in ("exact", "faiss"):
        raise UserError(f"engine: expected exact or faiss, found {engine!r}")


def _check_file(name: str, option: str) -> None:
    """Refuse what is no file, and a picture or a sentence in place of a recording."""
    if option == "audio" and kind_of(name) == "image":
        raise UserError(f"{name}: a picture; search for it with --image {shlex.quote(name)}")
    if not os.path.isfile(name):
        is_sentence = option == "audio" and not os.path.exists(name) and (" " in name or "." not in name)
        hint = f"; for a sentence use --text {shlex.quote(name)}" if is_sentence else ""
        if is_index(Path(name)):
            what = "picture" if option == "image" else "recording"
            raise UserError(f"{name}: an index; expected a {what}, after the index")
        raise UserError(f"{name}: {missing_file_reason(name)}{hint}")


def _existing_model(model: "str | Path | SpeechCLIP | OpenedModel | None", index: Path) -> Any:
    """Refuse an index without a model, and a model folder, named by its full path, that does not exist any more."""
    if model is None:
        raise UserError(f"{index}: the index does not say which model it was made with; give the model (--model)")
    if isinstance(model, str | Path) and Path(model).is_absolute() and not Path(model).is_dir():
        raise UserError(f"{index}: its model {model} does not exist; give the model's folder or hub repo (--model)")
    return model


def _check_model(index: OpenedIndex, opened: "OpenedModel") -> None:
    if opened.fingerprint != index.config.fingerprint:
        made, found = index.config.fingerprint[:12], opened.fingerprint[:12]
        raise UserError(
            f"{index.folder}: made with another model ({index.config.model or 'an object in Python'}, fingerprint "
            f"{made}…, found {found}…); search with that model (--model), or make the index again with this one"
        )


def _names(audio: Sequence[Any], text: Sequence[str], image: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the kind and the name of each query."""
    names = [("audio", _name(item, f"recording {i}")) for i, item in enumerate(audio)]
    names += [("text", sentence) for sentence in text]
    return names + [("image", _name(item, f"picture {i}")) for i, item in enumerate(image)]


def _name(item: Any, otherwise: str) -> str:
    if not isinstance(item, str | Path):
        return otherwise
    return STANDARD_INPUT_NAME if str(item) == STANDARD_INPUT else str(item)


def _encode(
    opened: "OpenedModel", audio: Sequence[Any], text: Sequence[str], image: Sequence[Any], branch: str | None
) -> "Tensor":
    """Return the vectors of all queries (Q, J)."""
    import torch

    from sclip.encoders.audio import SAMPLE_RATE
    from sclip.model.inputs import recordings

    model = opened.model
    branch = opened.branch(branch) if audio else None
    given = (read_standard_input() if isinstance(item, str) and item == STANDARD_INPUT else item for item in audio)
    spoken = [recording.usable(model.speech) for recording in recordings(given, SAMPLE_RATE)]
    parts = [model.encode_speech(spoken, branch=branch)] if spoken else []
    parts += [model.encode_text(list(text))] if text else []
    parts += [model.encode_image(list(image))] if image else []
    return torch.cat(parts).float()
