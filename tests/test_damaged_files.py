"""A damaged file is refused in one line that names it, or its data is as it was written."""

import json
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import model
from stored_corpus import write_corpus

import sclip
from sclip.errors import UserError
from sclip.features.store import FeatureStore, Shard
from sclip.features.vectors import ClipVectors
from sclip.features.verify import verify
from sclip.heads.vocabulary import Vocabulary
from sclip.tensors import fill, read_tensors, with_prefix

VALUES = (None, True, -1, 0, 7, 2**40, 2**63, 10**400, 1.5, "", "x", "F64", [], {}, [-1], [2**40, 2**40])
MEMORY = 300_000  # kB


def flipped_bits(data: bytes, count: int, generator: random.Random) -> Iterator[bytes]:
    """Yield copies with one flipped bit, half of them in the first kilobyte, where safetensors has its header."""
    for i in range(count):
        place = generator.randrange(len(data) if i % 2 else min(1000, len(data)))
        yield data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]


def other_lengths(data: bytes, generator: random.Random) -> Iterator[bytes]:
    yield from (data[:length] for length in (0, 1, 8, len(data) - 1))
    yield from (data[: generator.randrange(len(data))] for _ in range(20))
    yield from (data + b"\0", data + bytes(8), data + data)


def edited(value: Any) -> Iterator[Any]:
    """Yield copies of plain data with one part, at any depth, replaced or removed."""
    yield from VALUES
    if isinstance(value, dict):
        for key in value:
            yield {name: part for name, part in value.items() if name != key}
            yield from ({**value, key: part} for part in edited(value[key]))
    elif isinstance(value, list) and value:
        yield value[1:]
        yield from ([part, *value[1:]] for part in edited(value[0]))


def edited_header(data: bytes) -> Iterator[bytes]:
    """Yield copies of a safetensors file with another header, or other text in the metadata of the header."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    about = json.loads(header["__metadata__"].get("sclip", "{}"))
    texts = ({**header, "__metadata__": {"sclip": json.dumps(part)}} for part in edited(about))
    for changed in (*edited(header), *texts):
        text = json.dumps(changed).encode()
        text += b" " * (-len(text) % 8)
        yield len(text).to_bytes(8, "little") + text + data[end:]
    for length in (0, 1, 2**27, 2**40, 2**63, 2**64 - 1):
        yield length.to_bytes(8, "little") + data[8:]


def damaged(path: Path, flips: int = 150, edits: int = 400) -> Iterator[bytes]:
    """Yield damaged contents for a file, the same ones on every run."""
    data, generator = path.read_bytes(), random.Random(path.name)
    yield from flipped_bits(data, flips, generator)
    yield from other_lengths(data, generator)
    if path.suffix == ".json":
        changed = [json.dumps(value).encode() for value in edited(json.loads(data))]
    else:
        changed = list(edited_header(data))
    yield from generator.sample(changed, min(edits, len(changed)))


def check(path: Path, contents: Iterator[bytes], read: Callable[[], Any], same: Callable[[Any, Any], bool]) -> None:
    """Put each content into the file and read it: what is read is the same as before, or the error names the file."""
    before, expected = path.read_bytes(), read()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for content in contents:
        path.write_bytes(content)
        try:
            found = read()
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            refused += 1
        else:
            assert same(found, expected), content[:2000]
    path.write_bytes(before)
    assert refused > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=4, dev=2)


@pytest.mark.parametrize("name", ["0.safetensors", "index.json"])
def test_a_damaged_feature_store_is_refused(corpus, name):
    folder = corpus / "features"

    def read() -> tuple[Any, ...]:
        store = FeatureStore.open(folder)
        return store.features, store.ids, store.lengths.tolist(), store.read(torch.arange(len(store.ids))).values

    def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
        # Opening does not read the states; verify does.
        return found[:3] == expected[:3] and (torch.equal(found[3], expected[3]) or bool(verify(folder)))

    check(folder / name, damaged(folder / name), read, same)


def test_a_damaged_shard_without_an_index_is_refused(corpus, tmp_path):
    """Read a shard as after an interrupted extraction, when no digest covers its header."""
    path = tmp_path / "0.safetensors"
    shutil.copy(corpus / "features/0.safetensors", path)

    def read() -> list[tuple[int, ...]]:
        shard = Shard.open(path)
        return [shard.states.shape, shard.lengths.shape, shard.hashes.shape, (len(shard.ids), len(shard.skipped))]

    check(path, damaged(path), read, lambda found, expected: found[:3] == expected[:3])


@pytest.mark.parametrize("name", ["images.safetensors", "captions.safetensors", "index.json"])
def test_damaged_vectors_are_refused(corpus, name):
    def read() -> list[Any]:
        found = ClipVectors.open(corpus / "vectors")
        return [getattr(found, key) for key in ("clip", "skipped", "notes", "image_ids", "caption_ids")] + [
            found.images.tolist(), found.captions.tolist()
        ]  # fmt: skip

    check(corpus / "vectors" / name, damaged(corpus / "vectors" / name), read, lambda a, b: a == b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model("hybrid-cif").save(tmp_path_factory.mktemp("models") / "hybrid-cif")


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary.json"])
def test_a_damaged_model_folder_is_refused(folder, name):
    def same(found: sclip.SpeechCLIP, expected: sclip.SpeechCLIP) -> bool:
        weights = expected.head.state_dict()
        return found.vocabulary == expected.vocabulary and all(
            torch.equal(tensor, weights[name]) for name, tensor in found.head.state_dict().items()
        )

    check(folder / name, damaged(folder / name), lambda: sclip.load(folder), same)


def one_line(path: Path, contents: Iterator[bytes], read: Callable[[], Any]) -> None:
    """Put each content into the file and read it. No digest covers it: it can be read, or the error is one line."""
    for content in contents:
        path.write_bytes(content)
        try:
            read()
        except UserError as error:
            assert "\n" not in str(error)


def test_damaged_weights_without_a_digest_give_at_most_a_one_line_error(folder, tmp_path):
    head, path = sclip.load(folder).head, tmp_path / "model.safetensors"
    shutil.copy(folder / "model.safetensors", path)
    one_line(path, damaged(path), lambda: fill(head, with_prefix(read_tensors(path), "head."), str(path)))


def test_a_damaged_vocabulary_without_a_digest_gives_at_most_a_one_line_error(folder, tmp_path):
    clip, path = sclip.load(folder).clip, tmp_path / "vocabulary.json"
    shutil.copy(folder / "vocabulary.json", path)
    one_line(path, damaged(path), lambda: Vocabulary.load(path).check(clip))


def test_an_edited_config_gives_at_most_a_one_line_error(folder, tmp_path):
    """A config may be edited by hand, without its digest."""
    path = shutil.copytree(folder, tmp_path / "model") / "config.json"
    config = json.loads(path.read_text())
    del config["digest"]
    path.write_text(json.dumps(config))
    one_line(path, damaged(path, flips=30, edits=60), lambda: sclip.load(path.parent))
