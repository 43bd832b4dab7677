"""What is timed does the same work; how fast is not a matter for tests."""

import dataclasses
import json

import torch

from sclip.bench import cases, evaluation, run
from sclip.config import load_params

TINY = dataclasses.replace(cases.SCENES, seconds=(0.5, 1.0), recordings=4, batch=4, components=20)


def test_all_that_is_compared_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    for name, value in (("UTTERANCES", 60), ("PICTURES", 20), ("SLICE", 20)):
        monkeypatch.setattr(evaluation, name, value)
    lines = list(run.run_bench(load_params(), "cpu", ("extraction", "cif", "evaluation"), tmp_path))
    assert "GFLOP/s" in lines[0]
    found = {case["name"]: case for case in json.loads((tmp_path / "bench.json").read_text())["cases"]}
    assert found.keys() == {"extraction", "cif", "evaluation"}
    assert found["cif"]["notes"]["largest difference to scattering"] < 1e-5
    assert found["cif"]["notes"]["largest difference to the loop"] < 1e-5
    assert found["evaluation"]["notes"]["the same recalls"] is True
    for case in found.values():
        assert case["rows"][0]["timed"]["ratio"] == 1
        assert all(row["timed"]["seconds"] > 0 for row in case["rows"])
    assert (tmp_path / "bench.svg").read_text().startswith("<svg")


def test_a_training_step_from_the_cache_and_the_published_way(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    params = load_params()
    params = dataclasses.replace(params, arch={"hybrid-cif": params.arch["hybrid-cif"]})
    list(run.run_bench(params, "cpu", ("training",), tmp_path))
    (case,) = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert [row["timed"]["name"] for row in case["rows"]] == [
        "states, on the device", "states, from the cache", "codes, on the device", "codes, from the cache",
        "the speech encoder in every step", "both encoders in every step",
    ]  # fmt: skip
    assert sum(case["notes"]["operators, %"].values()) <= 100 + torch.finfo(torch.float32).eps
