"""Embedding of a corpus's pictures, captions and tokens by CLIP, batch by batch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sclip.concurrency import chunks, prefetch_batches, process_batches
from sclip.corpora.manifest import read_manifest
from sclip.corpora.rows import Row
from sclip.device import autocast
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.pictures import FLAT, picture_fault, read_rgb
from sclip.errors import Fault, Problems, UserError, counted
from sclip.features.tokens import embed_tokens
from sclip.features.vectors import (
    FORMAT,
    ClipVectors,
    EmbeddedPicture,
    picture_tensors,
    read_pictures,
    write_vectors,
)
from sclip.files import file_digest, remove_unfinished
from sclip.fingerprints import VECTORS, code_fingerprint, data_fingerprint

IMAGES_AT_ONCE, CAPTIONS_AT_ONCE = 64, 256
NOT_FINITE = "CLIP's vector of it is not finite; check CLIP's weights"


@dataclass(frozen=True)
class EmbeddingResult:
    images: int
    captions: int
    images_computed: int  # the others existed already
    reused: bool  # everything existed already
    seconds: float


def embed_clip(
    clip: ClipEncoder, manifest: Path, out: Path, device: str | torch.device, problems: Problems
) -> EmbeddingResult:
    """Write CLIP's vectors of a manifest to `out`, unless `out` has those of the same CLIP, pictures and captions."""
    began = time.monotonic()
    rows = read_manifest(manifest, problems)
    out.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    encoder = {"name": clip.source.name, "revision": clip.source.revision, "hash": clip.fingerprint()}
    hashes = hash_pictures(rows)
    content = content_fingerprint(rows, hashes)
    embedder = data_fingerprint([FORMAT, encoder, code_fingerprint(VECTORS)])
    fingerprint = data_fingerprint([embedder, content])
    own_rows = rows.fingerprint("id", "split", "image_id", "text")
    reused, computed = _is_written(out, fingerprint), 0
    if not reused:
        origin = {"fingerprint": fingerprint, "content": content, "rows": own_rows, "embedder": embedder}
        computed = _embed(rows, hashes, out, {**origin, "clip": encoder}, clip.to(device), device, problems)
    vectors = ClipVectors.open(out)
    _report(vectors, rows, reused, problems)
    return EmbeddingResult(len(vectors.images), len(vectors.captions), computed, reused, time.monotonic() - began)


def _report(vectors: ClipVectors, rows: Sequence[Row], reused: bool, problems: Problems) -> None:
    """Report an index's notes, and its skipped rows if it was reused; `_embed` reports those of a new one."""
    names = {row.id: row.name for row in rows}
    for kind, notes in vectors.notes.items():
        for name, note in notes.items():
            problems.note(kind, f"{names[name]}: {note}")
    for name, reason in vectors.skipped.items() if reused else ():
        problems.add(names[name], reason)


def content_fingerprint(rows: Sequence[Row], hashes: Mapping[Path, str]) -> str:
    """Return a fingerprint of the rows, pictures and captions that are embedded."""
    return data_fingerprint(
        [[row.id, row.split, row.image_id, row.image.name, hashes[row.image], row.text] for row in rows]
    )


def hash_pictures(rows: Sequence[Row]) -> dict[Path, str]:
    """Return the SHA-256 of every picture file."""
    pictures = list(dict.fromkeys(row.image for row in rows))
    hashed_batches = prefetch_batches(chunks(pictures, 64), _hash)
    return dict(pair for batch, hashes in hashed_batches for pair in zip(batch, hashes, strict=True))


def _hash(path: Path) -> str:
    """Return a file's SHA-256, or an empty string if the file cannot be read; decoding it reports the reason."""
    try:
        return file_digest(path)
    except UserError:
        return ""


def _is_written(out: Path, fingerprint: str) -> bool:
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
) -> int:
    """Embed pictures and captions, write the vectors, and return how many pictures were not there before.

    `origin` is the part of the index that is known before.
    """
    skipped: dict[str, str] = {}

    def skip(row: Row, reason: str) -> None:
        problems.add(row.name, reason)
        skipped.setdefault(row.id, reason)

    groups = _group_by_picture(rows, hashes, skip)
    cut = dict(_check_texts(rows, clip, skip))
    pictures = {name: group[0].image for name, group in groups.items()}
    digests = {name: hashes[path] for name, path in pictures.items()}
    known = read_pictures(out, origin["embedder"])
    new = {name for name, digest in digests.items() if digest not in known}
    computed = _embed_pictures({name: pictures[name] for name in pictures if name in new}, clip, device)
    images: dict[str, EmbeddedPicture] = {}
    for name, digest in digests.items():
        result = computed[name] if name in new else known[digest]
        if isinstance(result, EmbeddedPicture) and not digest:  # another program was still writing the file
            result = Fault(f"image {pictures[name].name}: could not be read at first; run the command again")
        if isinstance(result, EmbeddedPicture):
            images[name] = result
            continue
        for row in groups[name]:
            skip(row, result.reason)
    captions, texts = _embed_captions([row for row in rows if row.id not in skipped], clip, device, skip)
    if not images:
        raise problems.nothing_left(f"none of {counted(len(pictures), 'pictures')} can be used")
    usable = [row for row in rows if row.id not in skipped]
    tensors = picture_tensors(list(images.values()), [digests[name] for name in images])
    training = {row.image_id for row in usable if row.split == "train"}
    seen = [i for i, name in enumerate(images) if name in training]
    tokens = embed_tokens(usable, tensors["vectors"][seen], clip, device)
    flat = {
        groups[name][0].id: f"image {pictures[name].name}: CLIP sees a single colour"
        for name, picture in images.items()
        if picture.one_colour
    }
    counts = {"images": len(images), "captions": len(captions), "width": clip.joint_width}
    index = {**origin, **counts, "skipped": skipped, "notes": {"captions that are cut": cut, FLAT: flat}}
    write_vectors(out, index, (list(images), tensors), (captions, texts), tokens)
    return len(new & images.keys())


def _group_by_picture(
    rows: Sequence[Row], hashes: Mapping[Path, str], skip: Callable[[Row, str], None]
) -> dict[str, list[Row]]:
    """Return the rows of each picture. Skip rows whose picture differs from that of the first row with its image_id."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        first = groups.setdefault(row.image_id, [row])[0]
        if hashes[row.image] != hashes[first.image]:
            skip(row, f"image_id {row.image_id}: {first.where} has another picture ({first.image.name})")
        elif row is not first:
            groups[row.image_id].append(row)
    return groups


def _check_texts(rows: Sequence[Row], clip: ClipEncoder, skip: Callable[[Row, str], None]) -> Iterator[tuple[str, str]]:
    """Skip rows whose text has no token. Yield a row's id and a note for each text that CLIP cuts."""
    for row in rows:
        tokens = None if row.text is None else clip.count_tokens(row.text)
        if tokens == 0:
            skip(row, "text: CLIP finds no token in it")
        elif tokens is not None and tokens > clip.most_tokens:
            yield row.id, f"text: {tokens} tokens, cut to CLIP's {clip.most_tokens}"


def _embed_pictures(
    pictures: Mapping[str, Path], clip: ClipEncoder, device: str | torch.device
) -> dict[str, EmbeddedPicture | Fault]:
    """Return each picture's vector or its fault."""
    images: dict[str, EmbeddedPicture | Fault] = {}

    # Threads may run this for several batches at once, so it returns everything and changes nothing outside.
    @torch.inference_mode()
    def embed(names: Sequence[str], decoded: Sequence[Tensor | Fault]) -> dict[str, EmbeddedPicture | Fault]:
        read = dict(zip(names, decoded, strict=True))
        results: dict[str, EmbeddedPicture | Fault] = {
            n: fault for n, fault in read.items() if isinstance(fault, Fault)
        }
        usable = {name: pixels for name, pixels in read.items() if isinstance(pixels, Tensor)}
        if usable:
            with autocast(device, "fp32"):
                vectors = F.normalize(clip.encode_image(list(usable.values())).float(), dim=-1).cpu()
            for name, vector, finite in zip(usable, vectors, vectors.isfinite().all(1).tolist(), strict=True):
                fault = Fault(f"image {pictures[name].name}: {NOT_FINITE}")
                results[name] = EmbeddedPicture(vector, _is_one_colour(usable[name])) if finite else fault
        return results

    batches = chunks(list(pictures), IMAGES_AT_ONCE)
    with tqdm(None, "pictures", len(pictures), unit="", disable=None) as bar:
        embedded = process_batches(batches, lambda name: read_picture(pictures[name], clip), embed, device)
        for results in embedded:
            images |= results
            bar.update(len(results))
    return images


def _is_one_colour(pixels: Tensor) -> bool:
    """Return whether all pixels (3, H, W) have the same value in each channel."""
    return bool((pixels.amax((1, 2)) == pixels.amin((1, 2))).all())


def read_picture(path: Path, clip: ClipEncoder) -> Tensor | Fault:
    """Return a picture's preprocessed pixels (3, H, W), or why it cannot be used."""
    try:
        return clip.preprocess(read_rgb(path))
    except Exception as error:  # a damaged picture can raise any exception
        return Fault(picture_fault(path, error))


@torch.inference_mode()
def embed_captions(texts: Sequence[str], clip: ClipEncoder, device: str | torch.device) -> Tensor:
    """Return the captions' vectors (C, J)."""
    batches = tqdm(list(chunks(texts, CAPTIONS_AT_ONCE)), "captions", disable=None)
    with autocast(device, "fp32"):
        vectors = [clip.encode_text(batch).float().cpu() for batch in batches]
    return F.normalize(torch.cat([torch.empty(0, clip.joint_width), *vectors]), dim=-1)


def _embed_captions(
    rows: Sequence[Row], clip: ClipEncoder, device: str | torch.device, skip: Callable[[Row, str], None]
) -> tuple[list[str], Tensor]:
    """Return the ids of the rows that have text, and the vectors of their texts (C, J)."""
    captioned = [row for row in rows if row.text is not None]
    texts = embed_captions([row.text or "" for row in captioned], clip, device)
    finite = texts.isfinite().all(1)  # (C,)
    for i in (~finite).nonzero().flatten().tolist():
        skip(captioned[i], f"text: {NOT_FINITE}")
    return [row.id for row, usable in zip(captioned, finite.tolist(), strict=True) if usable], texts[finite]
