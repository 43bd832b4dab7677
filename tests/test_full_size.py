"""`make rehearse`: run the papers' experiments from end to end at full size.

The data is a few dozen recordings, and the encoders have random weights.
"""

import json
import shutil
from pathlib import Path

import miniature
import pytest
import yaml
from project import run_sclip

pytestmark = pytest.mark.full_size
ROOT = Path(__file__).parents[1]
SECONDS = (1.1, 2.6, 3.4, 4.2, 1.9, 2.2, 5.3)
QUICK = {"training.steps": 3, "training.warmup_steps": 1, "training.batch": 16, "training.precision": "bf16"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Write both corpora to the paths of params.yaml."""
    folder = tmp_path_factory.mktemp("full_size")
    miniature.flickr8k(folder / "data/flickr8k", seconds=SECONDS)
    miniature.spokencoco(folder / "data/spokencoco", seconds=SECONDS)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "results").mkdir()
    (folder / "results/paper.yaml").write_text((ROOT / "results/paper.yaml").read_text())
    return folder


@pytest.mark.parametrize(
    ("preset", "archs"),
    [
        ("flickr8k-base", ("parallel", "cascaded", "cascaded-cif", "hybrid", "hybrid-cif")),
        ("flickr8k-base-sclip", ("cascaded", "hybrid-cif")),
        ("flickr8k-large", ("hybrid-cif",)),
        ("spokencoco-large", ("hybrid",)),
    ],
)
def test_the_stages_run_from_recordings_to_the_papers_tables(preset, archs, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    presets = yaml.safe_load(Path("params.yaml").read_text())["presets"]
    overrides = {"features.compute": "fp32", **QUICK} | {
        f"arch.{arch}.training.{key}": value
        for arch in archs
        for key, value in {"batch": 16, "accumulate": 1}.items()
        if key in presets[preset]["arch"].get(arch, {}).get("training", {})
    }
    settings = [word for key, value in overrides.items() for word in ("-S", f"presets.{preset}.{key}={value}")]
    stage = ("--preset", preset, "--device", "cpu", "--random-encoders", *settings)
    run_sclip("make-corpus", preset)
    planned = json.loads(run_sclip("plan", preset, "--json", *stage[2:]))["state_bytes"]["fp16"]
    run_sclip("extract-features", *stage)
    run_sclip("embed-clip", *stage)
    for kind in ("features", "vectors"):
        assert "random weights, seed 0" in Path(f"data/{preset}/{kind}/index.json").read_text()
    for arch in archs:
        run_sclip("train", "--arch", arch, *stage)
        run_sclip("evaluate", "--arch", arch, "--preset", preset, "--device", "cpu", *settings)
        metrics = json.loads(Path(f"results/{preset}/runs/{arch}/seed-0/metrics.json").read_text())
        assert all("random weights" in name for name in metrics["about"]["encoders"].values())
        assert metrics["counts"]["pictures"] == miniature.PICTURES["test"]
        shutil.rmtree(f"models/{preset}/{arch}")  # large, because it contains both encoders

    size = sum(path.stat().st_size for path in Path(f"data/{preset}/features").glob("*.safetensors"))
    assert planned == pytest.approx(size, abs=1e6)
    run_sclip("report", "--preset", preset)
    assert "Not a result of trained encoders" in Path(f"results/{preset}/table.md").read_text()
    if not preset.endswith("sclip"):  # the papers' tables have no rows for this project's recipe
        assert "ours, with random encoder weights" in run_sclip("table")
