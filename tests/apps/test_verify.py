"""`sclip verify` reads every byte that later stages read, and names each file that is damaged."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from project import run_sclip, write_encoders, write_preset

from sclip.apps import verify as verify_module
from sclip.apps.verify import verify_preset
from sclip.corpora import recordings as recordings_module
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.errors import Problems, UserError
from sclip.features import embed as embed_module
from sclip.features.vectors import ClipVectors
from sclip.files import file_digest
from sclip.fingerprints import data_fingerprint
from sclip.index_file import read_index_file, write_index_file
from sclip.model.folder import read_config
from sclip.training.checkpoints import Checkpoint


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Write a project in which all stages have run, with a checkpoint of a training that has not ended."""
    folder = tmp_path_factory.mktemp("verified")
    write_encoders(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_preset("tiny", "params.yaml")
        for command in ("make-corpus", "extract-features", "embed-clip"):
            run_sclip(command, "--preset", "tiny")
        run_sclip("train", "--arch", "hybrid", "--device", "cpu")
        Checkpoint(Path("models/unfinished/tiny/hybrid/seed-0/checkpoint.pt"), {}).save({})
    return folder


@pytest.fixture
def project(complete, tmp_path, monkeypatch):
    shutil.copytree(complete, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")


def test_a_complete_preset_has_no_faults(project):
    result = verify_preset("tiny")
    assert result.faults == []
    assert result.checked == {
        "rows": 28,
        "recordings": 28,
        "pictures": 22,
        "shards": 1,
        "files of vectors": 3,
        "models": 1,
        "checkpoints": 1,
    }
    assert run_sclip("verify", "tiny").endswith("1 model, 1 checkpoint: 0 faults\n")
    shutil.rmtree("data/tiny/vectors")
    shutil.rmtree("models")
    assert run_sclip("verify", "tiny") == "tiny: 28 rows, 28 recordings, 22 pictures, 1 shard: 0 faults\n"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(bytes(data))


FILES = (
    *("data/tiny/manifest.jsonl", "data/tiny/manifest.digest.json"),
    *("data/tiny/features/*.safetensors", "data/tiny/features/index.json"),
    *("data/tiny/vectors/images.safetensors", "data/tiny/vectors/captions.safetensors"),
    *("data/tiny/vectors/tokens.safetensors", "data/tiny/vectors/index.json"),
    *("models/tiny/hybrid/seed-0/model.safetensors", "models/tiny/hybrid/seed-0/vocabulary.json"),
    *("models/tiny/hybrid/seed-0/speech/model.safetensors", "models/unfinished/tiny/hybrid/seed-0/checkpoint.pt"),
)


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("place", [0.02, 0.5, 0.99])
def test_a_flipped_bit_is_named(project, pattern, place):
    (path,) = Path().glob(pattern)
    flip(path, int(place * path.stat().st_size))
    faults = json.loads(run_sclip("verify", "tiny", "--json", status=1).split("\nDelete")[0])["faults"]
    assert faults
    assert all(path.name in f"{fault['where']} {fault['what']}" or "/speech" in fault["what"] for fault in faults)


def test_a_damaged_manifest_does_not_hide_other_damage(project):
    flip(Path("data/tiny/manifest.jsonl"), 100)
    for path in Path("data/tiny/features").glob("*.safetensors"):
        flip(path, path.stat().st_size // 2)
    flip(Path("data/tiny/vectors/images.safetensors"), 500)
    manifest, shard, vectors = verify_preset("tiny").faults
    assert manifest.where == "data/tiny/manifest.jsonl"
    assert manifest.what.startswith("its SHA-256 is ")
    assert shard.what.endswith("not the bytes that were written")
    assert shard.where.startswith("data/tiny/features/")
    assert vectors.where == "data/tiny/vectors/images.safetensors"
    Path("data/tiny/manifest.jsonl").unlink()
    with pytest.raises(UserError, match=r"manifest\.jsonl: no such file; `sclip make-corpus` writes it"):
        verify_preset("tiny")


def test_a_manifest_without_a_digest_is_a_fault(project):
    Path("data/tiny/manifest.digest.json").unlink()
    (fault,) = verify_preset("tiny").faults
    assert fault.where == "data/tiny/manifest.digest.json"
    assert fault.what.endswith("changes that you have made in the manifest are lost")
    other_default = ("-S", "run.presets=[scenes]")
    assert "`sclip make-corpus --preset tiny` writes both again" in run_sclip(
        "verify", "tiny", *other_default, status=1
    )
    run_sclip("make-corpus", "tiny")
    assert verify_preset("tiny").faults == []


def test_all_wrong_rows_of_a_manifest_are_faults(project):
    """Without a digest, as of a manifest that was edited by hand."""
    Path("data/tiny/manifest.digest.json").unlink()
    manifest = Path("data/tiny/manifest.jsonl")
    lines = manifest.read_text().splitlines()
    lines[1], lines[3] = lines[1].replace('"split": "', '"split": "my'), "{"
    manifest.write_text("\n".join(lines))
    faults = [fault.where for fault in verify_preset("tiny").faults if fault.where.startswith("manifest row")]
    assert [where.split(" (")[0] for where in faults] == ["manifest row 2", "manifest row 4"]


@pytest.mark.parametrize("kind", ["audio", "images"])
def test_a_recording_or_picture_that_changed_is_found(project, kind):
    first, second = sorted(Path("data").glob(f"scenes-*/{kind}/train/*"))[:2]
    shutil.copy(second, first)
    faults = verify_preset("tiny").faults
    assert len(faults) == 1
    assert "a file or a row has changed since" in faults[0].what
    if kind == "images":
        assert "run `sclip embed-clip` again" in faults[0].what
        assert "22 pictures (22 of them reused), " in run_sclip("embed-clip", "tiny", "--device", "cpu")
        assert verify_preset("tiny").faults == []
    first.unlink()
    where = {fault.where for fault in verify_preset("tiny").faults}
    assert f"data/tiny/../{first.relative_to('data')}" in where  # as the manifest names it


def test_a_newer_format_is_refused_with_the_version_that_wrote_it(project):
    """The same holds for every JSON file with a format; an older one has an advice of its own."""
    for path, read in (
        (Path("data/tiny/vectors/index.json"), lambda: ClipVectors.open("data/tiny/vectors")),
        (
            Path("data/tiny/features/index.json"),
            lambda: read_index_file(Path("data/tiny/features/index.json"), "sclip features 2", "extract-features"),
        ),
        (Path("models/tiny/hybrid/seed-0/config.json"), lambda: read_config(Path("models/tiny/hybrid/seed-0"))),
    ):
        data = json.loads(path.read_text())
        data.pop("digest", None)
        kind = data["format"][:-1]
        data |= {"format": f"{kind}17", "version": "9.8.7"}
        path.write_text(json.dumps({**data, "digest": data_fingerprint(data)}))
        with pytest.raises(
            UserError, match=rf"found '{kind}17', written by sclip 9\.8\.7, and this is sclip .*; install"
        ):
            read()
        path.write_text(json.dumps(data | {"format": f"{kind}0"}))
        with pytest.raises(UserError, match=rf"expected '{kind}\d', found '{kind}0'") as error:
            read()
        assert "9.8.7" not in str(error.value)


def test_the_same_recording_at_another_path_is_a_fault_that_extraction_mends(project):
    manifest = Path("data/tiny/manifest.jsonl")
    first, *others = map(json.loads, manifest.read_text().splitlines())
    old = manifest.parent / first["audio"]
    old.rename(old.with_stem("moved"))
    moved = {**first, "audio": str(Path(first["audio"]).with_stem("moved"))}
    write_manifest(manifest, [moved, *others])
    (fault,) = verify_preset("tiny").faults
    assert fault.where == "data/tiny/features/index.json"
    assert "an id or a recording's path has changed; run `sclip extract-features` again" in fault.what
    assert "0 shards computed" in run_sclip("extract-features", "tiny")
    assert verify_preset("tiny").faults == []


def test_damaged_results_are_found(project):
    run_sclip("evaluate", "--arch", "hybrid", "--device", "cpu")
    assert "1 result: 0 faults" in run_sclip("verify", "tiny")
    path = Path("results/tiny/runs/hybrid/seed-0/words.json")
    path.write_bytes(path.read_bytes() + b" ")
    assert "words.json: its SHA-256 is not the one in metrics.json" in run_sclip("verify", "tiny", status=1)


def test_results_of_other_weights_are_found(project):
    run_sclip("evaluate", "--arch", "hybrid", "--device", "cpu")
    assert verify_preset("tiny").faults == []
    run_sclip("train", "--arch", "hybrid", "--device", "cpu", "-S", "presets.tiny.training.learning_rate=0.5")
    (fault,) = verify_preset("tiny").faults
    assert fault.where == "results/tiny/runs/hybrid/seed-0/metrics.json"
    assert fault.what == (
        "not the results of the weights that models/tiny/hybrid/seed-0 has now; run `sclip evaluate --preset tiny "
        "--arch hybrid --seed 0` again"
    )
    pushed = run_sclip("push", "models/tiny/hybrid/seed-0", "me/x", status=1)
    assert "metrics.json: not the results of the model's present weights; run `sclip evaluate` again" in pushed
    shutil.rmtree("models/tiny/hybrid/seed-0")  # results alone can be kept
    assert verify_preset("tiny").faults == []
    shutil.copytree("results/tiny/runs/hybrid/seed-0", "results/tiny/runs/hybrid/seed-1")
    (fault,) = verify_preset("tiny").faults
    assert fault.where == "results/tiny/runs/hybrid/seed-1/metrics.json"
    assert fault.what.startswith("expected the results of preset tiny, arch hybrid, seed 1, found those of")


RESULTS = {
    "imported": (("--model", "models/tiny/hybrid/seed-0"), "results/tiny/runs/hybrid/imported"),
    "exact": (("--arch", "hybrid", "--exact"), "results/tiny/exact/hybrid/seed-0"),
    "exact, imported": (("--model", "models/tiny/hybrid/seed-0", "--exact"), "results/tiny/exact/hybrid/imported"),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_damaged_results_of_other_kinds_are_found(project, kind):
    options, folder = RESULTS[kind]
    run_sclip("evaluate", *options, "--device", "cpu")
    assert "1 result: 0 faults" in run_sclip("verify", "tiny")
    for name in ("metrics.json", "words.json", "examples.json", "outcomes.safetensors"):
        path = Path(folder, name)
        content = path.read_bytes()
        flip(path, len(content) // 2)
        (fault,) = verify_preset("tiny").faults
        assert name in f"{fault.where} {fault.what}" and fault.where == folder + "/metrics.json"
        path.write_bytes(content)


@pytest.mark.parametrize("kind", RESULTS)
def test_the_command_for_results_of_other_weights_writes_those_results(project, kind):
    options, folder = RESULTS[kind]
    run_sclip("evaluate", *options, "--device", "cpu")
    run_sclip("train", "--arch", "hybrid", "--device", "cpu", "-S", "presets.tiny.training.learning_rate=0.5")
    (fault,) = verify_preset("tiny").faults
    assert fault.where == folder + "/metrics.json"
    run_sclip(*fault.what.partition("`sclip ")[2].partition("`")[0].split(), "--device", "cpu")
    assert verify_preset("tiny").faults == []


def test_damaged_transcripts_are_found(project):
    rows = read_manifest(Path("data/tiny/manifest.jsonl"), Problems())
    texts = {row.id: [file_digest(row.audio), "a dog"] for row in rows if row.split == "test"}
    path = Path("data/tiny/transcripts.json")
    origin = {"name": "whisper", "revision": None, "hash": "abc", "language": "en"}
    index = {"format": "sclip transcripts 1", "recognizer": origin, "texts": texts, "skipped": {}}
    write_index_file(path, index)
    assert f"{len(texts)} transcripts, 1 model, 1 checkpoint: 0 faults" in run_sclip("verify", "tiny")
    flip(path, path.stat().st_size // 2)
    (fault,) = verify_preset("tiny").faults
    assert fault.where == str(path) and "run `sclip transcribe` again" in fault.what
    path.write_bytes(b"garbage")
    assert "transcripts.json: not JSON" in run_sclip("verify", "tiny", status=1)
    write_index_file(path, index | {"texts": dict(list(texts.items())[1:])})
    (fault,) = verify_preset("tiny").faults
    assert "no transcript of manifest row" in fault.what and next(iter(texts)) in fault.what


def test_a_model_without_its_settings_is_found_and_what_a_killed_training_left_is_not(project):
    folder = Path("models/tiny/hybrid/seed-0")
    shutil.copytree(folder, f"{folder}.unfinished")
    Path(f"{folder}.unfinished/config.json").write_text("{")
    assert verify_preset("tiny").faults == []
    (folder / "config.json").unlink()
    (fault,) = verify_preset("tiny").faults
    assert fault.where == str(folder) and f"{folder}/config.json: no such file" in fault.what


def test_files_that_cannot_be_read_do_not_hide_other_damage(project, monkeypatch):
    """A disk that fails at a recording, a picture, a checkpoint and a model is reported for each, with the rest."""
    recordings, pictures = (sorted(Path("data").glob(f"scenes-*/{kind}/train/*")) for kind in ("audio", "images"))
    bad = {path.name for path in (recordings[0], recordings[3])}

    def failing(read):
        def fail(path):
            if path.name in bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return read(path)

        return fail

    def fail_to_load(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder / "model.safetensors"))

    monkeypatch.setattr(recordings_module, "read_bytes", failing(recordings_module.read_bytes))
    result = verify_preset("tiny")
    assert {(Path(fault.where).name, fault.what) for fault in result.faults} == {
        (name, "cannot be read: Input/output error") for name in bad
    }
    monkeypatch.setattr(embed_module, "file_digest", failing(file_digest))
    monkeypatch.setattr(verify_module, "load", fail_to_load)
    bad.add(pictures[0].name)
    flip(Path("models/unfinished/tiny/hybrid/seed-0/checkpoint.pt"), 100)
    faults = verify_preset("tiny").faults
    assert {Path(fault.where).name for fault in faults} == bad | {"model.safetensors", "checkpoint.pt"}


def test_the_last_line_says_what_to_do(project):
    flip(Path("data/tiny/vectors/images.safetensors"), 500)
    lines = run_sclip("verify", "tiny", status=1).splitlines()
    assert lines[-2].endswith(": 1 fault")
    assert lines[-1] == (
        "Delete what is damaged or left over, and run the command that is named or that wrote it. Get recordings and "
        "pictures of your own from a copy."
    )


TYPES = {
    "vectors": [
        ("data/tiny/vectors/index.json", key, value)
        for key, value in (
            *(("skipped", ["a"]), ("notes", {"a": "b"}), ("files", {}), ("files", 5), ("clip", "x"), ("clip", {})),
            *(("fingerprint", 5), ("content", ["x"]), ("skipped", {"a": 1})),
        )
    ],
    "metrics": [
        ("results/tiny/runs/hybrid/seed-0/metrics.json", key, value)
        for key, value in (
            *(
                ("files", ["a"]),
                ("files", 5),
                ("files", {"words.json": 5}),
                ("about", "x"),
                ("counts", {"pictures": "x"}),
            ),
            *(("about", {"encoders": ["a"]}), ("layers", [1]), ("speech_to_image", {"parallel": 5})),
        )
    ],
}


@pytest.mark.parametrize("kind", TYPES)
def test_wrong_types_with_a_right_digest_are_faults(kind, project):
    run_sclip("evaluate", "--arch", "hybrid", "--device", "cpu")
    for name, key, value in TYPES[kind]:
        path = Path(name)
        before = path.read_bytes()
        written = json.loads(before)
        for extra in ("digest", "version"):
            written.pop(extra)
        write_index_file(path, written | {key: value})
        faults = verify_preset("tiny").faults
        assert faults and all(key in fault.what and "again" in fault.what for fault in faults), (key, value, faults)
        if kind == "metrics":
            assert key in run_sclip("report", "tiny", "-S", "run.architectures=[hybrid]", status=1)
        path.write_bytes(before)
    assert verify_preset("tiny").faults == []
