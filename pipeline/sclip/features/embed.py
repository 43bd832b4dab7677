"""CLIP's vectors of a corpus: its pictures, decoded and embedded batch by batch, and its captions."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sclip.concurrency import chunks, prefetch_batches, process_batches
from sclip.corpora.manifest import Row, read_manifest
from sclip.device import autocast
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.pictures import FLAT, picture_fault, read_rgb
from sclip.errors import Problems, UserError
from sclip.features.vectors import FORMAT, ClipVectors, write_vectors
from sclip.files import remove_unfinished
from sclip.fingerprints import VECTORS, code_fingerprint, data_fingerprint

IMAGES_AT_ONCE, CAPTIONS_AT_ONCE = 64, 256


@dataclass(frozen=True)
class EmbeddingResult:
    images: int
    captions: int
    reused: bool  # all was there
    seconds: float


def embed_clip(
    manifest: Path, out: Path, clip: ClipEncoder, device: str | torch.device, problems: Problems
) -> EmbeddingResult:
    """Vectors that are there already, of the same CLIP, pictures and captions, are left as they are."""
    began = time.monotonic()
    rows = read_manifest(manifest, problems)
    out.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    encoder = {"name": clip.source.name, "revision": clip.source.revision, "hash": clip.fingerprint()}
    pictures = list(dict.fromkeys(row.image for row in rows))
    hashed = prefetch_batches(chunks(pictures, 64), _hash)
    hashes = dict(pair for batch, found in hashed for pair in zip(batch, found, strict=True))
    content = [[row.id, row.image_id, row.image.name, hashes[row.image], row.text] for row in rows]
    fingerprint = data_fingerprint([FORMAT, encoder, code_fingerprint(VECTORS), content])
    reused = _is_there(out, fingerprint)
    if not reused:
        _embed(rows, hashes, out, {"fingerprint": fingerprint, "clip": encoder}, clip.to(device), device, problems)
    vectors = ClipVectors.open(out)
    names = {row.id: row.name for row in rows}
    for kind, notes in vectors.notes.items():
        for name, note in notes.items():
            problems.note(kind, f"{names[name]}: {note}")
    for name, reason in vectors.skipped.items() if reused else ():
        problems.add(names[name], reason)
    return EmbeddingResult(len(vectors.images), len(vectors.captions), reused, time.monotonic() - began)


def _hash(path: Path) -> str:
    """Empty where the file cannot be read, which is said when it is looked at."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _is_there(out: Path, fingerprint: str) -> bool:
    try:
        return ClipVectors.open(out).fingerprint == fingerprint
    except UserError:
        return False


def _embed(
    rows: Sequence[Row],
    hashes: Mapping[Path, str],
    out: Path,
    origin: dict[str, Any],
    clip: ClipEncoder,
    device: str | torch.device,
    problems: Problems,
) -> None:
    skipped: dict[str, str] = {}

    def skip(row: Row, reason: str) -> None:
        problems.add(row.name, reason)
        skipped.setdefault(row.id, reason)

    users = _users(rows, hashes, skip)
    cut = dict(_look_at_texts(rows, clip, skip))
    pictures = {name: group[0].image for name, group in users.items()}
    images: dict[str, Tensor] = {}
    vectors, flat = _images(pictures, clip, device)
    for name, vector in vectors.items():
        if isinstance(vector, Tensor):
            images[name] = vector
            continue
        for row in users[name]:
            skip(row, vector)
    captions = {row.id: row.text for row in rows if row.text is not None and row.id not in skipped}
    texts = _captions(list(captions.values()), clip, device)
    if not images:
        raise problems.nothing_left(f"none of {len(pictures)} pictures can be used")
    index = {
        **origin,
        "images": len(images),
        "captions": len(captions),
        "width": clip.joint_width,
        "skipped": skipped,
        "notes": {
            "captions that are cut": cut,
            FLAT: {users[name][0].id: f"image {pictures[name].name}: CLIP sees a single colour" for name in flat},
        },
    }
    write_vectors(out, index, (list(images), torch.stack(list(images.values()))), (list(captions), texts))


def _users(rows: Sequence[Row], hashes: Mapping[Path, str], skip: Callable[[Row, str], None]) -> dict[str, list[Row]]:
    """The rows of each picture."""
    users: dict[str, list[Row]] = {}
    for row in rows:
        first = users.setdefault(row.image_id, [row])[0]
        if hashes[row.image] != hashes[first.image]:
            skip(row, f"image_id {row.image_id}: {first.where} has another picture ({first.image.name})")
        elif row is not first:
            users[row.image_id].append(row)
    return users


def _look_at_texts(
    rows: Sequence[Row], clip: ClipEncoder, skip: Callable[[Row, str], None]
) -> Iterator[tuple[str, str]]:
    """Notes, by the ids of their rows."""
    for row in rows:
        tokens = _tokens(row.text, clip)
        if tokens == 0:
            skip(row, "text: CLIP finds no token in it")
        elif tokens > clip.tokenizer.context_length - 2:
            yield row.id, f"text: {tokens} tokens, cut to CLIP's {clip.tokenizer.context_length - 2}"


def _tokens(text: str | None, clip: ClipEncoder) -> int:
    """1 where they cannot be counted: open_clip's other tokenizers have no call that neither pads nor cuts."""
    if text is None or not isinstance(clip.tokenizer, open_clip.SimpleTokenizer):
        return 1
    return len(clip.token_ids([text])[0])


def _images(
    pictures: Mapping[str, Path], clip: ClipEncoder, device: str | torch.device
) -> tuple[dict[str, Tensor | str], list[str]]:
    """Return each picture's vector (J,), or what is wrong with it, and the names of pictures of a single colour."""
    images: dict[str, Tensor | str] = {}
    flat: list[str] = []

    @torch.inference_mode()
    def vectors(names: Sequence[str], read: Sequence[Tensor | str]) -> dict[str, Tensor | str]:
        found = dict(zip(names, read, strict=True))
        good = {name: pixels for name, pixels in found.items() if isinstance(pixels, Tensor)}
        flat.extend(name for name, pixels in good.items() if bool((pixels.amax((1, 2)) == pixels.amin((1, 2))).all()))
        if good:
            with autocast(device, "fp32"):
                embedded = F.normalize(clip.encode_image(list(good.values())).float(), dim=-1).cpu()
            found |= zip(good, embedded, strict=True)
        return found

    batches = chunks(list(pictures), IMAGES_AT_ONCE)
    with tqdm(None, "pictures", len(pictures), unit="", disable=None) as bar:
        for found in process_batches(batches, lambda name: read_picture(pictures[name], clip), vectors, device):
            images |= found
            bar.update(len(found))
    return images, flat


def read_picture(path: Path, clip: ClipEncoder) -> Tensor | str:
    try:
        return clip.preprocess(read_rgb(path))
    except Exception as error:  # a damaged picture fails in whatever way it is damaged
        return picture_fault(path, error)


@torch.inference_mode()
def _captions(texts: Sequence[str], clip: ClipEncoder, device: str | torch.device) -> Tensor:
    """(C, J)"""
    batches = tqdm(list(chunks(texts, CAPTIONS_AT_ONCE)), "captions", disable=None)
    with autocast(device, "fp32"):
        vectors = [clip.encode_text(batch).float().cpu() for batch in batches]
    return F.normalize(torch.cat([torch.empty(0, clip.joint_width), *vectors]), dim=-1)
