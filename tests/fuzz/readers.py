"""All readers of files: for each one, valid files to start from, and the call that reads them.

A reader takes the folder with its files, of which one is mutated. It returns, or raises an error of ALLOWED.
"""

import functools
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import miniature
import numpy as np
import small
import soundfile
import torch
import yaml
from file_examples import write_pictures
from PIL import Image
from project import TINY
from shipped import PARAMS, ROOT
from stored_corpus import write_corpus

import sclip
from sclip.apps.index_config import FORMAT, IndexConfig, write_config
from sclip.apps.inputs import Item
from sclip.apps.search import open_index
from sclip.apps.table import read_block, write_block, write_table
from sclip.config import (
    Columns,
    Flickr8kConfig,
    HubConfig,
    PlacesConfig,
    SpeechCocoConfig,
    SpokenCocoConfig,
    TableConfig,
    load_params,
)
from sclip.corpora.alignments import read_ctm, read_text_alignment, read_word_tier, read_words
from sclip.corpora.flickr8k import list_flickr8k
from sclip.corpora.hub import list_hub
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.corpora.places import list_places
from sclip.corpora.speech_coco import list_speech_coco
from sclip.corpora.spokencoco import list_spokencoco
from sclip.corpora.table import list_table
from sclip.corpora.unpack import DamagedArchive, unpack
from sclip.encoders.audio import read_audio
from sclip.encoders.pictures import picture_fault, read_rgb
from sclip.errors import Problems, UserError
from sclip.evaluation.outcomes import Outcomes
from sclip.evaluation.spotting import KeywordLabels
from sclip.features.store import FeatureStore, Shard
from sclip.features.vectors import ClipVectors
from sclip.files import file_digest
from sclip.heads.vocabulary import Vocabulary
from sclip.interop.checkpoint import read_checkpoint
from sclip.model.folder import read_config
from sclip.report.comparison import EvaluatedModel, compare_models
from sclip.report.paper import read_paper
from sclip.training.checkpoints import Checkpoint

ALLOWED = (UserError, DamagedArchive)
COLUMNS = Columns("audio", "image", "caption", words="words")


@dataclass(frozen=True)
class Reader:
    """A reader, the files of its folder that are mutated, and how many inputs it gets in proportion to the others."""

    files: tuple[str, ...]
    read: Callable[[Path], object]
    share: int = 10


def write_seeds(folder: Path) -> dict[str, Reader]:
    """Write valid files for each reader to folders of their names."""
    readers: dict[str, Reader] = {}
    for write in (_write_media, _write_tables, _write_alignments, _write_caches, _write_archives, _write_corpora):
        readers |= write(folder)
    for name, reader in readers.items():  # a valid file can be read
        reader.read(folder / name)
    return readers


def _write_media(folder: Path) -> dict[str, Reader]:
    readers = {}
    noise = np.random.default_rng(0).standard_normal(3000) / 10
    for suffix in ("wav", "flac", "ogg", "mp3"):
        name = f"{suffix} recording"
        (folder / name).mkdir()
        soundfile.write(folder / name / f"a.{suffix}", noise, 16_000)
        readers[name] = Reader((f"a.{suffix}",), lambda place, suffix=suffix: read_audio(place / f"a.{suffix}"))
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff"):
        name = f"{suffix} picture"
        write_pictures(str(folder / name / "source.png"))
        with Image.open(folder / name / "source.png") as picture:
            picture.save(folder / name / f"a.{suffix}")
        readers[name] = Reader((f"a.{suffix}",), functools.partial(_read_picture, suffix), 6)
    return readers


def _read_picture(suffix: str, place: Path) -> None:
    """Read a picture as all callers do: any error becomes a fault of this file."""
    path = place / f"a.{suffix}"
    try:
        read_rgb(path)
    except Exception as error:  # a damaged picture can raise any exception
        assert picture_fault(path, error)


def _write_tables(folder: Path) -> dict[str, Reader]:
    import pyarrow
    from pyarrow import parquet

    words = json.dumps([["a", 0.0, 0.1], ["dog", 0.1, 0.3]])
    rows = [
        {"audio": f"{i}.wav", "image": f"{i}.jpg", "caption": f"a dog {i}", "split": "train", "words": words}
        for i in range(6)
    ]
    readers = {}
    for suffix, separator in (("csv", ";"), ("tsv", "\t"), ("jsonl", ""), ("parquet", "")):
        name = f"{suffix} table"
        (folder / name).mkdir()
        path = folder / name / f"t.{suffix}"
        if suffix == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif suffix == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            quote = '"{}"'.format if suffix == "csv" else str
            lines = [list(rows[0]), *([quote(v.replace('"', '""')) for v in row.values()] for row in rows)]
            path.write_text("\n".join((separator if suffix == "tsv" else ",").join(line) for line in lines) + "\n")
        columns = COLUMNS if suffix != "tsv" else Columns("audio", "image", "caption")
        config = TableConfig(kind="table", path=str(path), columns=columns)
        readers[name] = Reader((f"t.{suffix}",), functools.partial(_read_table, config))
    miniature.hub(folder / "hub data set")
    (file, *_) = sorted((folder / "hub data set/data").glob("train*"))
    for other in set((folder / "hub data set/data").iterdir()) - {file}:
        other.unlink()
    names = Columns("audio", "image", "caption", words="timed")
    config = HubConfig(kind="hub", path=str(file), columns=names)
    readers["hub data set"] = Reader(
        (f"data/{file.name}",), lambda place: list_hub(config, place / "unpacked", Problems(skip=True))
    )
    manifest = [{**row, "id": str(i), "image_id": f"p{i}", "words": json.loads(words)} for i, row in enumerate(rows)]
    manifest = [{key: value for key, value in row.items() if key != "caption"} for row in manifest]
    for name in ("manifest", "manifest with digest"):
        (folder / name).mkdir()
        write_manifest(folder / name / "manifest.jsonl", manifest)
    (folder / "manifest/manifest.digest.json").unlink()  # with it, nothing behind the digest would read what is damaged
    readers["manifest"] = Reader(("manifest.jsonl",), _read_manifest)
    readers["manifest with digest"] = Reader(("manifest.jsonl", "manifest.digest.json"), _read_manifest, 4)
    return readers


def _read_manifest(place: Path) -> None:
    rows = read_manifest(place / "manifest.jsonl", Problems(skip=True))
    if (place / "manifest.digest.json").exists():  # nothing can be damaged in what is accepted
        assert [row.id for row in rows] == [str(i) for i in range(6)]


def _read_table(config: TableConfig, place: Path) -> None:
    list_table(config, Problems(skip=True))


def _write_alignments(folder: Path) -> dict[str, Reader]:
    words = [("a", 0.1, 0.2), ('br"own', 0.2, 0.5), ("dog", 0.6, 0.9)]
    for name, form in (("textgrid", {}), ("short textgrid", {"short": True, "code": "utf-16"})):
        miniature.textgrid(folder / name / "a.TextGrid", {"words": words, "phones": words}, **form)
    (folder / "ctm").mkdir()
    (folder / "ctm/a.ctm").write_text(
        "".join(f"u{i} 1 {start} 0.1 {word}\n" for i in (1, 2) for word, start, _ in words)
    )
    (folder / "text alignment").mkdir()
    (folder / "text alignment/a.txt").write_text(miniature.text_alignment("a brown dog runs"))
    (folder / "words in a cell").mkdir()
    (folder / "words in a cell/a.json").write_text(json.dumps(words))

    def text(place: Path) -> str:
        return next(place.iterdir()).read_text(errors="surrogateescape")

    return {
        "textgrid": Reader(("a.TextGrid",), lambda place: read_word_tier(place / "a.TextGrid")),
        "short textgrid": Reader(("a.TextGrid",), lambda place: read_word_tier(place / "a.TextGrid")),
        "ctm": Reader(("a.ctm",), lambda place: read_ctm(place / "a.ctm")),
        "text alignment": Reader(("a.txt",), lambda place: read_text_alignment(text(place), "row 1")),
        "words in a cell": Reader(("a.json",), lambda place: read_words(text(place), "row 1")),
    }


def _write_caches(folder: Path) -> dict[str, Reader]:
    torch.manual_seed(0)
    corpus = write_corpus(folder / "corpus", train=3, dev=1)
    for name in ("features", "vectors"):
        shutil.copytree(corpus / name, folder / name)
    shutil.copytree(corpus / "features", folder / "single shard")
    small.model("hybrid-cif").save(folder / "model")
    for name in ("settings of a model", "vocabulary"):
        shutil.copytree(folder / "model", folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    Checkpoint(folder / "checkpoint" / "c.pt", {}).save({"step": 3, "weights": torch.arange(9.0)})
    (folder / "imported checkpoint").mkdir()
    torch.save(
        {"state_dict": {"a.b": torch.arange(9.0), "c": torch.zeros(2, 3)}, "hyper_parameters": {"lr": 1e-4}},
        folder / "imported checkpoint/c.ckpt",
    )
    index = folder / "search index"
    index.mkdir()
    items = [Item(f"/a/{i}.png", 10, 1) for i in range(3)]
    vectors = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    write_table(index / "vectors-1.safetensors", (items, torch.zeros(3, 32, dtype=torch.uint8), vectors), [])
    (folder / "block of an index").mkdir()
    digests = torch.arange(96, dtype=torch.uint8).view(3, 32)
    write_block(folder / "block of an index/000001.safetensors", (items, digests, vectors), [(items[0], "cut")], "key")
    (folder / "outcomes").mkdir()
    ranks = {"pictures": torch.arange(3), "parallel": torch.arange(1, 4)}
    counts = {"pictures": torch.arange(3), "all": torch.ones(3, 3), "content": torch.ones(3, 3)}
    groups = {"speech_to_image": ranks, "keywords": {**counts, "hits": torch.ones(3, 2)}}
    Outcomes(3, torch.arange(3), groups).save(folder / "outcomes/outcomes.safetensors")
    digest = file_digest(index / "vectors-1.safetensors")
    write_config(index, IndexConfig(FORMAT, "image", "m", "", None, "", 3, 8, 0, "vectors-1.safetensors", digest))
    (folder / "settings").mkdir()
    shutil.copy(PARAMS, folder / "settings/params.yaml")
    (folder / "small settings").mkdir()
    params = yaml.safe_load(PARAMS.read_text())
    params["presets"], params["run"]["presets"] = {"tiny": TINY}, ["tiny"]
    (folder / "small settings/params.yaml").write_text(yaml.safe_dump(params))
    (folder / "published numbers").mkdir()
    shutil.copy(ROOT / "results/paper.yaml", folder / "published numbers/paper.yaml")
    return {
        "features": Reader(
            ("0.safetensors", "index.json"),
            lambda place: FeatureStore.open(place).read(torch.arange(4)),
        ),
        "single shard": Reader(("0.safetensors",), lambda place: Shard.open(place / "0.safetensors").entry()),
        "vectors": Reader(
            ("images.safetensors", "captions.safetensors", "tokens.safetensors", "index.json"), ClipVectors.open
        ),
        "model": Reader(("config.json", "model.safetensors", "vocabulary.json"), sclip.load, 1),
        "settings of a model": Reader(("config.json",), read_config),
        "vocabulary": Reader(("vocabulary.json",), lambda place: Vocabulary.load(place / "vocabulary.json")),
        "checkpoint": Reader(("c.pt",), lambda place: Checkpoint(place / "c.pt", {}).load()),
        "imported checkpoint": Reader(("c.ckpt",), lambda place: read_checkpoint(place / "c.ckpt")),
        "search index": Reader(("index.json", "vectors-1.safetensors"), open_index),
        "block of an index": Reader(("000001.safetensors",), _read_block),
        "outcomes": Reader(("outcomes.safetensors",), _read_outcomes, 4),
        "settings": Reader(("params.yaml",), lambda place: load_params(place / "params.yaml"), 1),
        "small settings": Reader(("params.yaml",), lambda place: load_params(place / "params.yaml"), 2),
        "published numbers": Reader(("paper.yaml",), lambda place: read_paper(place / "paper.yaml"), 1),
    }


def _read_outcomes(place: Path) -> None:
    """Read outcomes, and compare with themselves those that are accepted."""
    model = EvaluatedModel(place, "mine", Outcomes.read(place / "outcomes.safetensors"))
    assert all(figure.p == 1 for figure in compare_models(model, model).figures)


def _read_block(place: Path) -> None:
    table = read_block(place / "000001.safetensors", "key")
    if table is not None:  # nothing can be damaged in what is accepted
        assert list(table.names) == [f"/a/{i}.png" for i in range(3)]
        assert torch.equal(table.digests.flatten(), torch.arange(96, dtype=torch.uint8))


def _write_archives(folder: Path) -> dict[str, Reader]:
    readers = {}
    contents = {"top/a.txt": b"a brown dog " * 30, "top/b/c.txt": b"two children", "top/d.txt": b""}
    source = folder / "archived"
    for name, data in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    for suffix in ("zip", "tar", "tar.gz") if hasattr(tarfile, "data_filter") else ("zip",):  # tars need Python 3.11.4
        name = f"{suffix} archive"
        (folder / name).mkdir()
        path = folder / name / f"a.{suffix}"
        if suffix == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                for member, data in contents.items():
                    packed.writestr(member, data)
        else:
            with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as packed:
                packed.add(source / "top", "top")
        readers[name] = Reader((f"a.{suffix}",), functools.partial(_unpack, path.name), 6)
    return readers


def _unpack(name: str, place: Path) -> None:
    """Unpack an archive, and check that no file is written elsewhere."""
    outside = {path for path in place.parent.iterdir()}
    into = place / "out/inner"
    try:
        unpack(place / name, into)
    except OSError as error:  # names that the file system does not take
        assert error.filename is not None
    finally:
        shutil.rmtree(into, ignore_errors=True)
    assert {path for path in place.parent.iterdir()} == outside
    assert {path.name for path in place.iterdir()} <= {name, "out"}
    assert not any((place / "out").iterdir())


def _write_corpora(folder: Path) -> dict[str, Reader]:
    miniature.flickr8k(folder / "flickr8k")
    miniature.keyword_labels(folder / "flickr8k")
    shutil.copytree(folder / "flickr8k/semantic_flickraudio", folder / "keyword labels")
    miniature.spokencoco(folder / "spokencoco")
    miniature.places(folder / "places")
    miniature.speech_coco(folder / "speech-coco")
    configs = {
        "flickr8k": (list_flickr8k, Flickr8kConfig("flickr8k", str(folder / "flickr8k")), ()),
        "spokencoco": (list_spokencoco, SpokenCocoConfig("spokencoco", str(folder / "spokencoco"), "karpathy"), ()),
        "places": (list_places, PlacesConfig("places", str(folder / "places"), "seen"), ()),
        "speech-coco": (
            list_speech_coco,
            SpeechCocoConfig("speech-coco", str(folder / "speech-coco")),
            (Problems(True),),
        ),
    }
    readers = {}
    for name, (read, config, rest) in configs.items():
        files = [path for suffix in ("txt", "json") for path in sorted((folder / name).rglob(f"*.{suffix}"))]
        files = [path for path in files if "semantic" not in str(path)][:12]
        names = tuple(str(path.relative_to(folder / name)) for path in files)
        readers[name] = Reader(names, lambda _, read=read, config=config, rest=rest: read(config, *rest), 4)
    readers["keyword labels"] = Reader(
        ("keywords.txt", "semantic_flickraudio_labels.csv"), lambda place: KeywordLabels.read(place)
    )
    return readers
