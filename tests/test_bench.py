"""The alternatives of a benchmark give the same results. No test depends on a timing."""

import dataclasses
import json

import pytest
import torch

from sclip.bench import cases, evaluation, index, long_training, manifest, models, run
from sclip.config import load_params
from sclip.encoders.open import open_clip_encoder, open_speech
from sclip.evaluation.inference import infer

TINY = dataclasses.replace(
    cases.SCENES, seconds=(0.5, 1.0), recordings=4, state_recordings=2, utterances=300, batch=4, components=20
)


def test_alternatives_give_the_same_results(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    for name, value in (("UTTERANCES", 60), ("PICTURES", 20), ("SLICE", 20)):
        monkeypatch.setattr(evaluation, name, value)
    result = run.run_bench(load_params(), "cpu", ("extraction", "attention", "cif", "evaluation"), tmp_path)
    assert "GFLOP/s" in next(run.describe(result))
    cases_by_name = {case["name"]: case for case in json.loads((tmp_path / "bench.json").read_text())["cases"]}
    assert cases_by_name.keys() == {"extraction", "attention", "cif", "evaluation"}
    assert len(cases_by_name["attention"]["notes"]) == 2
    assert max(cases_by_name["attention"]["notes"].values()) < 1e-5
    assert cases_by_name["cif"]["notes"]["largest difference to scattering"] < 1e-5
    assert cases_by_name["cif"]["notes"]["largest difference to the loop"] < 1e-5
    assert cases_by_name["evaluation"]["notes"]["the same recalls"] is True
    for case in cases_by_name.values():
        assert case["rows"][0]["timed"]["ratio"] == 1
        assert all(row["timed"]["seconds"] > 0 for row in case["rows"])


def test_both_ways_to_read_a_manifest_give_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    for name, value in (("ROWS", 40), ("PARSED", 20)):
        monkeypatch.setattr(manifest, name, value)
    run.run_bench(load_params(), "cpu", ("manifest",), tmp_path)
    (case,) = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert case["notes"]["the same rows"] is True
    assert [row["rate"].endswith(" MB") for row in case["rows"]] == [True] * 5


def test_the_search_finds_the_same_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    for name, value in (("PICTURES", 8), ("LOOP_PICTURES", 4), ("VECTORS", 1000)):
        monkeypatch.setattr(index, name, value)
    run.run_bench(load_params(), "cpu", ("index",), tmp_path)
    built, searched = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert (built["name"], searched["name"]) == ("index", "search")
    assert searched["notes"]["the same pictures"] is True
    assert all(row["timed"]["seconds"] > 0 for case in (built, searched) for row in case["rows"])


def test_training_is_timed_with_stored_features_and_with_encoders(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    params = load_params()
    experiments = {TINY.preset: {"hybrid-cif": params.experiment(TINY.preset, "hybrid-cif")}}
    params = dataclasses.replace(params, experiments=experiments)
    run.run_bench(params, "cpu", ("training",), tmp_path)
    (case,) = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert [row["timed"]["name"] for row in case["rows"]] == [
        "states, on the device", "states, from the cache", "codes, on the device", "codes, from the cache",
        "the speech encoder in every step", "both encoders in every step",
    ]  # fmt: skip
    assert sum(case["notes"]["operators, %"].values()) <= 100 + torch.finfo(torch.float32).eps


def test_duration_of_a_training_is_computed_from_its_steps_and_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", TINY)
    monkeypatch.setattr(long_training, "STEPS", 2)
    params = load_params()
    experiments = {TINY.preset: {"parallel": params.experiment(TINY.preset, "parallel")}}
    run.run_bench(dataclasses.replace(params, experiments=experiments), "cpu", ("long-training",), tmp_path)
    (case,) = json.loads((tmp_path / "bench.json").read_text())["cases"]
    step, evaluation_seconds = (row["timed"]["seconds"] for row in case["rows"])
    ((name, minutes),) = case["notes"].items()
    assert name == "minutes of parallel, 450 steps and 3 evaluations"
    assert minutes == pytest.approx((450 * step + 3 * evaluation_seconds) / 60, abs=0.06)


def test_a_random_model_finds_about_as_many_keywords_as_a_trained_one():
    experiment = load_params().experiment(TINY.preset, "cascaded-cif")
    speech, clip = open_speech(TINY.speech), open_clip_encoder(TINY.clip)
    untrained = models.random_model("cascaded-cif", experiment, speech, clip)
    workload = dataclasses.replace(TINY, seconds=(3.0, 4.0))
    data = long_training.random_resident_dataset(workload, 20, speech, clip.joint_width, torch.device("cpu"))
    keywords = infer(untrained, data).keywords
    head = experiment.architecture.head
    target = data.frames.float().mean() / head.pool_frames / head.keywords.cif.frames_per_slot
    assert 0.5 < float(keywords.lengths.float().mean() / target) < 1.5
