"""`sclip verify` reads every byte that later stages read, and names each file that is damaged."""

import json
import shutil
from pathlib import Path

import pytest
from project import run_sclip, write_encoders, write_preset

from sclip.apps.verify import verify_preset
from sclip.errors import UserError
from sclip.features.vectors import ClipVectors
from sclip.fingerprints import data_fingerprint
from sclip.index_file import read_index_file
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
    assert "images.safetensors" in vectors.what
    Path("data/tiny/manifest.jsonl").unlink()
    with pytest.raises(UserError, match=r"manifest\.jsonl: no such file; `sclip make-corpus` writes it"):
        verify_preset("tiny")


def test_a_manifest_without_a_digest_is_a_fault(project):
    Path("data/tiny/manifest.digest.json").unlink()
    (fault,) = verify_preset("tiny").faults
    assert fault.where == "data/tiny/manifest.digest.json"
    assert fault.what.endswith("`sclip make-corpus` writes it")
    run_sclip("make-corpus", "tiny")
    assert verify_preset("tiny").faults == []


@pytest.mark.parametrize("kind", ["audio", "images"])
def test_a_recording_or_picture_that_changed_is_found(project, kind):
    first, second = sorted(Path("data").glob(f"scenes-*/{kind}/train/*"))[:2]
    shutil.copy(second, first)
    faults = verify_preset("tiny").faults
    assert len(faults) == 1
    assert "a file or a row has changed since" in faults[0].what
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


def test_damaged_results_are_found(project):
    run_sclip("evaluate", "--arch", "hybrid", "--device", "cpu")
    assert "1 result: 0 faults" in run_sclip("verify", "tiny")
    path = Path("results/tiny/runs/hybrid/seed-0/words.json")
    path.write_bytes(path.read_bytes() + b" ")
    assert "words.json: its SHA-256 is not the one in metrics.json" in run_sclip("verify", "tiny", status=1)
