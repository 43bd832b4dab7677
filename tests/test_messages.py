"""What a user reads after a mistake: what was found, what was expected, and what to do."""

import errno
import json
import os
import unicodedata
from pathlib import Path

import pytest
import small
import torch
from project import run_sclip
from safetensors import SafetensorError
from shipped import PARAMS
from small import clip_encoder, speech_encoder
from stored_corpus import write_corpus
from training.interrupted_run import run

import sclip
from sclip.config import Columns, FeaturesConfig, TableConfig, load_params
from sclip.corpora.check import check_corpus
from sclip.corpora.table import list_table
from sclip.encoders.audio import read_audio
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.pictures import picture_fault, read_rgb
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import Problems, UserError
from sclip.evaluation.metrics_file import check_other_files, read_metrics, write_results
from sclip.features.settings import describe
from sclip.files import missing_file_reason
from sclip.parsing import read_text, read_yaml
from sclip.tensors import write_tensors


def table(path: Path) -> TableConfig:
    return TableConfig(kind="table", path=str(path), columns=Columns("audio", "image"))


def test_a_full_disk_below_the_curves_is_named_with_what_to_do(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the error of a write: without a file

    monkeypatch.chdir(tmp_path)  # DVCLive writes to `.dvc` of the repository it is in
    corpus = write_corpus(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("dvclive.live.Live.make_summary", write)
        with pytest.raises(OSError, match="No space left on device; run the same command again to resume") as raised:
            run(corpus, "parallel", "run")
    assert raised.value.filename == str(corpus / "run-curves")
    assert run(corpus, "parallel", "run").step
    assert (corpus / "run-curves/metrics.json").is_file()


def test_a_full_disk_names_a_file_of_tensors_once(tmp_path, monkeypatch):
    def save(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("sclip.tensors.save_file", save)
    with pytest.raises(OSError) as raised:
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    error = raised.value
    assert (error.filename, error.strerror) == (str(tmp_path / "a.safetensors"), "No space left on device")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("t.csv", "audio;image", "separated by ';'; save it with commas, or as .tsv with tabs"),
        ("t.csv", "audio\timage", "separated by tabs; save it with commas, or name it .tsv"),
        ("t.tsv", "audio,image", "separated by ','; save it with tabs, or name it .csv"),
        ("t.tsv", "audio;image", "separated by ';'; save it with tabs, or as .csv with commas"),
    ],
)
def test_a_table_with_another_separator_blames_no_line(tmp_path, name, line, message):
    (tmp_path / name).write_text(f"{line}\n1,5 a.wav;b.jpg\n")
    with pytest.raises(UserError, match=rf"{name}: its columns are {message}$"):
        list_table(table(tmp_path / name), Problems(skip=True))


def test_a_folder_or_a_url_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r": is a folder; expected a file$"):
        list_table(table(tmp_path), Problems())
    assert "is a folder; expected a file, such as" in run_sclip("plan", "--params", str(tmp_path), status=1)
    (tmp_path / "params.yaml").touch()
    assert "params.yaml: is a file; choose a new" in run_sclip("init", str(tmp_path / "params.yaml"), status=1)
    found = f"presets.scenes-mfcc.corpus={{kind: manifest, path: {tmp_path}}}"
    printed = run_sclip("check-corpus", "scenes-mfcc", "--params", str(PARAMS), "-S", found, status=1)
    assert f"{tmp_path}: is a folder; expected a file\n" in printed
    assert "a.wav: URLs are not read; download" in run_sclip("keywords", "https://example.com/a.wav", status=1)


def test_a_name_in_another_unicode_form_is_named(tmp_path):
    on_disk, in_table = (unicodedata.normalize(form, "cão.wav") for form in ("NFD", "NFC"))
    for name in (on_disk, "a.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text(f"audio,image\n{in_table},a.jpg\nmaçã.wav,a.jpg\n")
    with pytest.raises(UserError) as raised:
        check_corpus(table(tmp_path / "t.csv"), tmp_path / "manifest.jsonl")
    _, first, second = str(raised.value).split("\n")
    assert r"no such file; one whose name differs only in its Unicode form exists ('ca\u0303o.wav')" in first
    assert second.endswith("maçã.wav: no such file")


def test_a_folder_in_another_unicode_form_is_named(tmp_path):
    on_disk, given = (tmp_path / unicodedata.normalize(form, "cão") for form in ("NFD", "NFC"))
    on_disk.mkdir()
    (on_disk / "a.wav").touch()
    assert missing_file_reason(given / "a.wav").endswith(r"exists ('ca\u0303o'); rename it")


def test_a_name_that_is_too_long_for_a_file_is_no_file():
    for letter in "aé":
        assert missing_file_reason(letter * 300) == "no such file"


def test_an_empty_recording_or_picture_is_called_empty(tmp_path):
    for name in ("a.wav", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.wav: is empty \(0 bytes\)"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(OSError) as raised:
        read_rgb(tmp_path / "a.jpg")
    assert picture_fault(tmp_path / "a.jpg", raised.value) == "image a.jpg: is empty (0 bytes)"


def test_other_encodings_and_yaml_are_named_without_jargon(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("audio,image\nmaçã.wav,a.jpg\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.csv: not UTF-8: line 2: found the byte 0xe7, perhaps of Latin-1; save"):
        read_text(path)
    path.write_bytes("audio\timage\n".encode("utf-16"))
    with pytest.raises(UserError, match="not UTF-8: line 1: found the byte 0xff, perhaps of UTF-16"):
        read_text(path)
    for text in ("run: [", "run: \a"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"t\.csv: not YAML: .* in \S*t\.csv, ") as raised:
            read_yaml(path)
        assert "unicode string" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=5", "'training.steps=5': give the full key, presets.PRESET.training.steps$"),
        ("presets.scenes.training.warmup_steps=10000000", "warmup_steps: .* lower warmup_steps or raise steps"),
        ("trainin.steps=5", "trainin: no such key"),
    ],
)
def test_a_wrong_override_says_what_to_write(override, message):
    with pytest.raises(UserError, match=message):
        load_params(PARAMS, [override])


def test_a_sentence_and_a_picture_in_place_of_a_recording_get_their_option():
    assert "for a sentence use --text 'um gato'" in run_sclip("search", "fotos.index", "um gato", status=1)
    assert "--text" not in run_sclip("search", "fotos.index", "gato.wav", status=1)
    assert "foto.jpg: a picture; search for it with --image foto.jpg" in run_sclip("search", "i", "foto.jpg", status=1)


def test_a_folder_of_another_kind_is_no_encoder(tmp_path):
    small.model("parallel").save(tmp_path / "model")
    clip_encoder().save(tmp_path / "clip")
    speech_encoder().save(tmp_path / "speech")
    for name, kind in (("model", "a trained model of sclip"), ("clip", "a CLIP of open_clip")):
        with pytest.raises(UserError, match=rf"{name}: {kind}, not a speech encoder; .* models/mini-hubert"):
            SpeechEncoder.from_pretrained(str(tmp_path / name))
    for name, kind in (("model", "a trained model of sclip"), ("speech", "a hubert of transformers")):
        with pytest.raises(UserError, match=rf"{name}: {kind}, not a CLIP; .* local-dir:models/mini-clip"):
            ClipEncoder.from_pretrained(f"local-dir:{tmp_path / name}")


def test_too_many_components_are_refused_by_the_check_of_the_extraction():
    encoder = speech_encoder()
    with pytest.raises(UserError, match=r"features\.components: expected at most 96, the numbers of a frame, found 97"):
        describe(encoder, FeaturesConfig(components=97))
    assert describe(encoder, FeaturesConfig(components=96))["components"] == 96


def test_damaged_files_say_what_to_do(tmp_path):
    small.model("parallel").save(tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"model\.safetensors: its SHA-256 .*; copy the model again, or train it again"):
        sclip.load(tmp_path / "m")
    (tmp_path / "outcomes.safetensors").touch()
    write_results(tmp_path, {}, [], [])
    metrics = read_metrics(tmp_path / "metrics.json")
    (tmp_path / "examples.json").write_text("[1]")
    with pytest.raises(UserError, match=r"examples\.json: .*; run `sclip evaluate` again"):
        check_other_files(tmp_path, metrics)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: not JSON: .*; run `sclip evaluate` again"):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize("place", ["models", "results", "disk"])
def test_train_refuses_a_folder_that_it_cannot_write_before_it_opens_an_encoder(tmp_path, place, monkeypatch):
    (tmp_path / "params.yaml").write_bytes(PARAMS.read_bytes())
    (tmp_path / place).mkdir()
    if place == "disk":  # where the model folder leads to
        (tmp_path / "models/scenes/parallel").mkdir(parents=True)
        (tmp_path / "models/scenes/parallel/seed-0").symlink_to(tmp_path / "disk/seed-0")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != place and access(path, mode))
    monkeypatch.setattr("sclip.training.run.open_speech", None)
    printed = run_sclip("train", "scenes", "--arch", "parallel", "--params", str(tmp_path / "params.yaml"), status=1)
    refused = str(tmp_path / place) if place == "disk" else place
    assert f"cannot be written: no permission to write to {refused}\n" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_a_user_error(tmp_path):
    assert "; use --device cpu\n" in run_sclip("keywords", __file__, "--device", "cuda", status=1)
    small.model("parallel").save(tmp_path / "m")
    with pytest.raises(UserError, match=r"device cuda: .*; use device cpu$"):
        sclip.load(tmp_path / "m", device="cuda")


def test_a_push_without_a_network_says_that_nothing_was_uploaded(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    small.model("parallel").save(tmp_path / "m")
    monkeypatch.setattr("sclip.apps.hub.get_token", lambda: "token")
    monkeypatch.setattr("sclip.apps.hub.HfApi.create_repo", refuse)
    with pytest.raises(UserError, match="Nothing was uploaded; run the command again with a network") as raised:
        sclip.push(tmp_path / "m", "org/name")
    assert "cache" not in str(raised.value)


def test_the_formats_of_keywords_are_those_that_its_message_lists(tmp_path):
    wav = str(Path("data/examples/dog.wav").absolute())
    printed = run_sclip("keywords", wav, "--out", f"{tmp_path}/out.ff/", status=1)
    (listed,) = [line.rpartition("one of ")[2] for line in printed.splitlines() if "choose --format" in line]
    assert listed == "textgrid, vtt, ctm, csv, json"
    run_sclip("keywords", wav, "--format", "json", "--out", f"{tmp_path}/out.ff/")
    assert json.loads((tmp_path / "out.ff/dog.json").read_text())["recordings"]
    twice = run_sclip("keywords", wav, wav, "--format", "vtt", "--out", f"{tmp_path}/out.ff/", status=1)
    assert "dog.wav: given 2 times; its file would be written twice; give it once" in twice
