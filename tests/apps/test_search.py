"""A search ranks every file of an index by its similarity to each query."""

import dataclasses
import io
import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from file_examples import write_pictures, write_recordings
from project import run_sclip

import sclip
from sclip import UserError
from sclip.apps import index as index_module
from sclip.apps import nearest as engine
from sclip.apps import search as search_module
from sclip.apps.index_config import read_config, write_config
from sclip.apps.nearest import nearest, nearest_by_faiss
from sclip.apps.search import _check, open_index
from sclip.cli import main

ROOT = Path(__file__).parents[2]
PICTURES = [f"a/{i}.png" for i in range(6)]


@pytest.fixture
def index(folder, model) -> str:
    write_pictures(*PICTURES)
    sclip.index("a", "index", model=model)
    return "index"


def ranked(ranking) -> list[str]:
    return [os.path.relpath(match.path) for match in ranking.matches]


def expected_order(queries: torch.Tensor, model) -> list[list[str]]:
    order = (queries @ sclip.load(model).encode_image(PICTURES).T).argsort(descending=True)
    return [[PICTURES[i] for i in row] for row in order.tolist()]


def test_recordings_sentences_and_pictures_find_what_the_model_says(index, model):
    write_recordings("1.wav", "2.wav")
    opened = sclip.load(model)
    queries = [
        opened.encode_speech(["1.wav", "2.wav"]),
        opened.encode_text(["a brown dog"]),
        opened.encode_image(["a/3.png"]),
    ]
    rankings = sclip.search(index, ["1.wav", Path("2.wav")], text=["a brown dog"], image=["a/3.png"])
    assert [(r.kind, r.query, r.files) for r in rankings] == [
        ("audio", "1.wav", "image"),
        ("audio", "2.wav", "image"),
        ("text", "a brown dog", "image"),
        ("image", "a/3.png", "image"),
    ]
    assert [ranked(ranking) for ranking in rankings] == expected_order(torch.cat(queries), model)
    assert [match.rank for match in rankings[0].matches] == [1, 2, 3, 4, 5, 6]
    assert rankings[3].matches[0].path == str(Path("a/3.png").absolute())
    assert rankings[3].matches[0].score == pytest.approx(1, abs=1e-5)


def test_recordings_are_found_by_pictures_sentences_and_recordings(folder, model):
    write_recordings(*(f"b/{i}.wav" for i in range(4)))
    write_pictures("a/1.png")
    sclip.index("b", "index", model=model, branch="cascaded")
    by_picture, by_text = sclip.search("index", text=["a dog"], image=["a/1.png"])
    assert (by_picture.files, len(by_text.matches)) == ("audio", 4)
    (by_recording,) = sclip.search("index", ["b/2.wav"], top=1)  # encoded by the branch of the index
    assert ranked(by_recording) == ["b/2.wav"]
    assert by_recording.matches[0].score == pytest.approx(1, abs=1e-5)
    (other_branch,) = sclip.search("index", ["b/2.wav"], branch="parallel", top=1)
    assert other_branch.matches[0].score < 0.999


def test_the_branch_is_chosen(index, model):
    write_recordings("1.wav")
    for branch in ("parallel", "cascaded"):
        (ranking,) = sclip.search(index, ["1.wav"], branch=branch)
        assert [ranked(ranking)] == expected_order(sclip.load(model).encode_speech(["1.wav"], branch=branch), model)
    with pytest.raises(UserError, match="--branch both: this model has parallel and cascaded"):
        sclip.search(index, ["1.wav"], branch="both")


def test_arrays_and_loaded_models_are_taken_too(index, model):
    write_recordings("1.wav")
    opened, samples = sclip.load(model), soundfile.read("1.wav", dtype="float32")[0]
    by_array, by_file = sclip.search(open_index(index), [samples, "1.wav"], model=opened)
    assert ranked(by_array) == ranked(by_file)
    assert by_array.query == "recording 0"


def wav_of_unknown_length(samples: np.ndarray, size: int) -> bytes:
    """Return a wav as programs write it into a pipe, with a length that is not true."""
    data = io.BytesIO()
    soundfile.write(data, samples, 16_000, format="WAV", subtype="PCM_16")
    content = bytearray(data.getvalue())
    content[4:8] = content[40:44] = struct.pack("<I", size)
    return bytes(content)


@pytest.mark.parametrize("size", [None, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_recording_comes_from_standard_input(index, model, size):
    write_recordings("1.wav")
    data = Path("1.wav").read_bytes()
    if size is not None:
        data = wav_of_unknown_length(soundfile.read("1.wav")[0], size)
    result = CliRunner().invoke(main, ["search", index, "-", "--json"], input=data)
    assert result.exit_code == 0, result.output
    (ranking,) = json.loads(result.output)
    assert ranking["query"] == "standard input"
    (by_file,) = sclip.search(index, ["1.wav"])
    assert [match["path"] for match in ranking["matches"]] == [match.path for match in by_file.matches]
    scores = [match["score"] for match in ranking["matches"]]
    assert scores == pytest.approx([match.score for match in by_file.matches], abs=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input: found nothing; expected a recording, such as wav, flac, ogg or mp3"),
        (b"hello", "standard input: cannot be read: Format not recognised; expected a recording, such as wav"),
    ],
)
def test_standard_input_without_a_recording_is_refused(index, data, message):
    result = CliRunner().invoke(main, ["search", index, "-"], input=data)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert message in result.output


def test_a_recording_that_is_cut_off_on_standard_input_is_refused(index):
    write_recordings("1.wav")
    result = CliRunner().invoke(main, ["search", index, "-"], input=Path("1.wav").read_bytes()[:8_000])
    message = "standard input: the file is damaged or cut off: its header says 0.5 s, and it ends after 0.2 s"
    assert (result.exit_code, result.output) == (1, f"Error: {message}\n")


def test_a_closed_standard_input_is_one_line(index):
    command = f"{shlex.quote(sys.executable)} -m sclip search {index} - <&-"
    result = subprocess.run(command, shell=True, text=True, capture_output=True)
    message = "Error: standard input: found nothing; expected a recording, such as wav, flac, ogg or mp3\n"
    assert (result.returncode, result.stderr) == (1, message)


def test_mistakes_are_one_line(index, model, other_model):
    Path("text.wav").write_text("hello")
    write_recordings("one.wav", samples=1)
    soundfile.write("silent.wav", np.zeros(16_000), 16_000)
    Path("empty").mkdir()
    os.mkfifo("pipe")
    for command, message in {
        "search index": "nothing to search for; give a recording, --text or --image",
        "search index missing.wav": "missing.wav: no such file",
        "search index empty": "empty: is a folder; expected a file",
        "search index pipe": "pipe: a pipe or a device, not a file",
        "search index index": "index: an index; expected a recording, after the index",
        "search index --image index": "index: an index; expected a picture, after the index",
        f"search index {'a-dog-' * 60}": "no such file; for a sentence use --text",
        "search text.wav --text dog": "text.wav: a file; expected an index, which is a folder, before the recordings",
        "search index text.wav": "audio text.wav: cannot be read",
        "search index one.wav": "one.wav: only 0.0001 s long; expected at least 0.1 s",
        "search index silent.wav": "silent.wav: silent; expected a recording with speech",
        "search index --image text.wav": "image text.wav: cannot be read",
        "search index - -": "-: standard input can only be read once",
        "search nowhere --text dog": "nowhere: no such index; `sclip index FILES --model MODEL --out nowhere` makes",
        "search empty --text dog": "empty: not an index; `sclip index FILES --model MODEL --out empty` makes one",
        "search . --text dog": ".: not an index; name the folder that `sclip index FILES --out FOLDER` has written",
        "search index --text dog --branch cascaded": "--branch cascaded: only recordings are encoded by a branch",
        "search index --image a/1.png --branch parallel": "--branch parallel: only recordings are encoded by a branch",
        f"search index --text dog --model {other_model}": "index: made with another model",
        "search index --text dog --model /nowhere": "its model /nowhere does not exist; give the model's folder",
        f"index empty --model {model} --out new": "empty: no pictures or recordings there",
        f"index missing --model {model} --out new": "missing: no such file or folder",
        "index a --model nowhere --out new": "nowhere: no such folder",
        f"index a --model {model} --out new --device tpu": "--device tpu: expected auto",
    }.items():
        result = CliRunner().invoke(main, command.split())
        assert result.exit_code == 1, (command, result.output)
        assert message in result.output, (command, result.output)
        assert result.output.count("\n") == 1, (command, result.output)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("queries", "top", "message"),
    [
        ({"text": ["a dog"]}, 0, "top: expected at least 1, found 0"),
        ({"audio": ["dog"]}, 1, "dog: no such file; for a sentence use --text dog"),
        ({"text": "a dog"}, 1, "text: expected a list, found a single str"),
    ],
)
def test_mistakes_are_named_before_the_index_is_opened(queries, top, message):
    with pytest.raises(UserError, match=message):
        _check(**{"audio": [], "text": [], "image": []} | queries, top=top, engine="exact", branch=None)


def update_at(function, monkeypatch, module, model):
    """Let `sclip index` end right before the first call of a function, and return the list of calls."""
    calls = []
    original = getattr(module, function)

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            write_pictures("a/new.png", first=20)
            assert sclip.index("a", "index", model=model).count == 7
        return original(*arguments)

    monkeypatch.setattr(module, function, call)
    return calls


def test_an_index_may_be_updated_between_its_configuration_and_its_vectors(index, model, monkeypatch):
    """The search said "delete the index and make it again", because the file that it looked for was gone."""
    before = [ranked(ranking) for ranking in sclip.search(index, text=["a dog"], image=["a/3.png"])]
    calls = update_at("open_table", monkeypatch, index_module, model)
    rankings = sclip.search(index, text=["a dog"], image=["a/3.png"])
    assert [config.file for _, config in calls] == [*["vectors-1.safetensors"] * 2, "vectors-2.safetensors"]
    assert [len(ranking.matches) for ranking in rankings] == [7, 7]
    assert [[path for path in ranked(r) if path != "a/new.png"] for r in rankings] == before


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_all_of_a_search_uses_the_index_that_was_opened(index, model, monkeypatch, engine):
    """The configuration was read twice, so faiss could take a file that belongs to the other table."""
    if engine == "faiss":
        pytest.importorskip("faiss")
    first, search = sclip.search(index, text=["a dog"]), search_module.search
    update_at("open_index", monkeypatch, search_module, model)
    assert len(search(index, text=["a dog"], engine=engine)[0].matches) == 7
    assert [path.stem for path in Path("index").glob("*.faiss")] == ["vectors-2"] * (engine == "faiss")
    opened = open_index(index)
    Path("a/new.png").unlink()
    assert sclip.index("a", "index", model=model).count == 6
    assert len(search(opened, text=["a dog"])[0].matches) == 7  # its file is still mapped
    assert ranked(search(index, text=["a dog"])[0]) == ranked(first[0])


def test_a_missing_or_damaged_file_of_vectors_is_still_an_error(index):
    path = Path("index/vectors-1.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"SHA-256 is not the one in index\.json; .*; delete index and make the index"):
        sclip.search(index, text=["a dog"])
    path.unlink()
    with pytest.raises(UserError, match="no such file; delete index and make the index again"):
        sclip.search(index, text=["a dog"])


def test_an_index_whose_model_was_removed_says_so(index, model, tmp_path_factory):
    config = read_config(Path("index"))
    for stored, message in (
        ("/removed", "its model /removed does not exist; give"),
        (None, "does not say which model"),
    ):
        write_config(Path("index"), dataclasses.replace(config, model=stored))
        with pytest.raises(UserError, match=message):
            sclip.search(index, text=["a dog"])
        assert sclip.search(index, text=["a dog"], model=model)


def test_blocks_and_their_merge_give_what_a_sort_of_all_scores_gives(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (F.normalize(torch.randn(n, 24, generator=generator), dim=-1) for n in (1000, 7))
    expected = (queries @ vectors.T).sort(descending=True)
    for block, at_once, top in ((96 * 64, 3, 10), (96 * 7, 256, 20), (96, 1, 5), (2**27, 256, 2000)):
        monkeypatch.setattr(engine, "BLOCK_BYTES", block)
        monkeypatch.setattr(engine, "QUERIES", at_once)
        scores, rows = nearest(vectors, queries, top)
        assert torch.equal(rows, expected.indices[:, :top])
        assert torch.allclose(scores, expected.values[:, :top], atol=1e-6)


def test_numbers_that_are_not_finite_are_refused():
    vectors = torch.ones(3, 4)
    vectors[1, 2] = torch.nan
    with pytest.raises(UserError, match="numbers that are not finite; make the index again"):
        nearest(vectors, torch.ones(1, 4), 2)


def test_faiss_finds_almost_the_same(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(50, 24, generator=generator)
    vectors = F.normalize(centres.repeat(60, 1) + torch.randn(3000, 24, generator=generator) / 3, dim=-1)
    queries = vectors[::100] + torch.randn(30, 24, generator=generator) / 50
    scores, rows = nearest(vectors, queries, 10)
    same = nearest_by_faiss(vectors, queries, 10, tmp_path / "flat.faiss")
    # Rounding may exchange rows of almost equal scores, so each row that faiss finds must have the score of its place.
    exact = (vectors[same[1]] * queries[:, None]).sum(-1)
    assert torch.allclose(same[0], scores, atol=1e-6) and torch.allclose(exact, scores, atol=1e-6)
    assert all(len(set(found)) == 10 for found in same[1].tolist())
    monkeypatch.setattr(engine, "FLAT_BELOW", 100)
    for _ in range(2):  # built, then read
        found, where = nearest_by_faiss(vectors, queries, 10, tmp_path / "lists.faiss")
        recall = torch.tensor([len(set(a) & set(b)) / 10 for a, b in zip(where.tolist(), rows.tolist(), strict=True)])
        assert recall.mean() > 0.95
        assert torch.allclose(found, (vectors[where] * queries[:, None]).sum(-1), atol=1e-5)  # exact products
        monkeypatch.setattr(engine, "_build", lambda *_: pytest.fail("built again"))
    with pytest.raises(UserError, match="not of these vectors; delete it"):
        nearest_by_faiss(vectors[1:], queries, 10, tmp_path / "lists.faiss")
    (tmp_path / "lists.faiss").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged; delete it, and the next search builds it again"):
        nearest_by_faiss(vectors, queries, 10, tmp_path / "lists.faiss")


def test_faiss_gives_each_query_as_many_results_as_it_asks_for(tmp_path, monkeypatch):
    """A query got fewer, and as few as the query next to it that got the fewest."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(engine, "FLAT_BELOW", 100)
    monkeypatch.setattr(engine, "PROBES", 2)
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (F.normalize(torch.randn(n, 24, generator=generator), dim=-1) for n in (3000, 5))
    for top in (10, 1500, 3000, 4000):
        scores, rows = nearest_by_faiss(vectors, queries, top, tmp_path / "lists.faiss")
        assert scores.shape == rows.shape == (5, min(top, 3000))
        assert all(len(set(row)) == len(row) for row in rows.tolist())
        assert torch.allclose(scores, (vectors[rows] * queries[:, None]).sum(-1), atol=1e-5)
        assert torch.equal(scores, scores.sort(descending=True).values)
        for i in range(5):
            alone = nearest_by_faiss(vectors, queries[i : i + 1], top, tmp_path / "lists.faiss")
            assert torch.equal(alone[1][0], rows[i])
    assert torch.equal(rows, nearest(vectors, queries, 4000)[1])


@pytest.mark.parametrize("lists", [False, True])
def test_faiss_refuses_numbers_that_are_not_finite(lists, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    vectors = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    if lists:
        monkeypatch.setattr(engine, "FLAT_BELOW", 100)
    queries = torch.full((1, 8), torch.nan)
    with pytest.raises(UserError, match="numbers that are not finite; make the index again"):
        nearest_by_faiss(vectors, queries, 10, tmp_path / "index.faiss")


def test_faiss_has_enough_vectors_to_train_its_lists_with(tmp_path, capfd):
    pytest.importorskip("faiss")
    vectors = torch.randn(engine.FLAT_BELOW, 4, generator=torch.Generator().manual_seed(0))
    nearest_by_faiss(vectors, vectors[:1], 10, tmp_path / "index.faiss")
    assert "training points" not in "".join(capfd.readouterr())


def test_a_search_by_faiss_ranks_as_the_exact_one_and_follows_the_index(index, model):
    pytest.importorskip("faiss")
    for number in (1, 2):
        exact, approximate = (sclip.search(index, text=["a dog"], engine=name)[0] for name in ("exact", "faiss"))
        assert ranked(approximate) == ranked(exact)
        assert [m.score for m in approximate.matches] == pytest.approx([m.score for m in exact.matches], abs=1e-6)
        sclip.index("a", "index", model=model)  # changes nothing, so what faiss has built stays
        assert [path.name for path in Path("index").glob("*.faiss")] == [f"vectors-{number}.faiss"]
        write_pictures("a/new.png", first=20)
        sclip.index("a", "index", model=model)
    assert not list(Path("index").glob("vectors-1.*"))


def test_faiss_searches_an_index_that_cannot_be_written(tmp_path, caplog):
    """A missing folder stands for a lack of permission, which root does not know."""
    pytest.importorskip("faiss")
    vectors = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    file = tmp_path / "missing/vectors-1.faiss"
    assert torch.equal(nearest_by_faiss(vectors, vectors[:3], 1, file)[1][:, 0], torch.arange(3))
    (message,) = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert message.startswith(f"{file}: cannot be written, so the next search builds it again: ")


def test_without_faiss_the_error_says_what_to_install(index, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match=r"needs the package faiss-cpu; run pip install faiss-cpu"):
        sclip.search(index, text=["a dog"], engine="faiss")


def test_names_cannot_control_a_terminal(folder, model):
    bad = "a/\x1b[31mred\x07\n\u202egnp.png"
    write_pictures(bad, "a/caf\u00e9.png")
    Path("a/\x1b[2Jdamaged.png").touch()
    os.rename(b"a/caf\xc3\xa9.png", b"a/caf\xe9.png")  # not UTF-8
    output = run_sclip("index", "a", "--model", str(model), "--out", "index")
    output += run_sclip("search", "index", "--text", "dog \x1b[31m", "--image", bad)
    output += run_sclip("search", "index", "--text", "dog", "--json")
    output += run_sclip("search", "index", "--image", "\x1b[31m.png", status=1)
    assert not {char for char in output if not char.isprintable()} - {"\n"}
    assert r"a/\x1b[31mred\x07\n\u202egnp.png" in output
    assert r"a/\x1b[2Jdamaged.png" in output
    assert r"a/caf\udce9.png" in output
    assert os.fsencode(open_index("index").table.names[1]).endswith(b"caf\xe9.png")


def test_the_shipped_examples_find_their_pictures(folder):
    """The three recordings find their own pictures first, by either branch, and so does the command from README."""
    examples, model = ROOT / "data/examples", ROOT / "models/scenes-hybrid-cif"
    result = sclip.index(examples / "pictures", "index", model=model)
    assert (result.count, result.skipped) == (40, {})
    expected = {"mushroom.wav": "00027.png", "pumpkins.wav": "00030.png", "dog.wav": "00035.png"}
    for branch in (None, "parallel", "cascaded"):
        rankings = sclip.search("index", [examples / name for name in expected], branch=branch, top=1)
        assert [Path(ranking.matches[0].path).name for ranking in rankings] == list(expected.values())
    assert sum(file.stat().st_size for file in examples.rglob("*") if file.is_file()) < 1_000_000
    first = run_sclip("search", "index", str(examples / "dog.wav")).splitlines()[0]
    assert first.split()[0] == "1"
    assert first.endswith("00035.png")
