"""Transcripts of a split: written once, resumed, and found by the evaluation."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner
from shipped import PARAMS
from small import recordings
from torch import nn

from sclip.cli import main
from sclip.corpora.manifest import read_manifest, write_manifest
from sclip.encoders.source import Source
from sclip.errors import Problems, UserError
from sclip.features import transcripts
from sclip.features.transcripts import Transcripts, transcribe
from sclip.index_file import read_index_file, write_index_file


class Counter(nn.Module):
    """A recogniser that writes how long a recording is."""

    language, source = "en", Source("counter", "1")

    def __init__(self):
        super().__init__()
        self.heard = []

    def forward(self, waveforms):
        self.heard += [len(waveform) for waveform in waveforms]
        return [f"{len(waveform)} samples" for waveform in waveforms]

    def fingerprint(self):
        return f"abc {self.language}"


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for i, waveform in enumerate(recordings(*range(8000, 8006))):
        soundfile.write(tmp_path / f"{i}.wav", waveform.numpy(), 16000)
        split = "train" if i == 5 else "test"
        rows.append({"id": f"u{i}", "split": split, "audio": f"{i}.wav", "image": "a.png", "image_id": "a"})
    write_manifest(tmp_path / "manifest.jsonl", rows)
    return tmp_path / "manifest.jsonl"


def test_only_what_is_new_or_changed_is_recognised(manifest, monkeypatch):
    monkeypatch.setattr(transcripts, "SAVED_TOGETHER", 2)
    out, first = manifest.with_name("transcripts.json"), Counter()
    assert transcribe(first, manifest, out, Problems()).computed == 5
    assert first.heard == [8000, 8001, 8002, 8003, 8004]
    rows = [row for row in read_manifest(manifest, Problems()) if row.split == "test"]
    found = Transcripts.find(rows, out)
    assert found == Transcripts("counter", {f"u{i}": f"{8000 + i} samples" for i in range(5)})
    soundfile.write(manifest.with_name("3.wav"), recordings(9000)[0].numpy(), 16000)
    with pytest.raises(UserError, match=r"of manifest row 4 \(u3\) has changed since; run `sclip transcribe`"):
        Transcripts.find(rows, out)
    again = Counter()
    result = transcribe(again, manifest, out, Problems())
    assert (result.transcripts, result.computed, again.heard) == (5, 1, [9000])
    assert Transcripts.find(rows, out).texts["u3"] == "9000 samples"
    other = Counter()
    other.language = "fr"
    assert transcribe(other, manifest, out, Problems()).computed == 5


def test_an_interrupted_run_resumes(manifest, monkeypatch):
    monkeypatch.setattr(transcripts, "SAVED_TOGETHER", 2)
    out, interrupted = manifest.with_name("transcripts.json"), Counter()
    interrupted.forward = lambda waveforms: Counter.forward(interrupted, waveforms) if not interrupted.heard else 1 / 0
    with pytest.raises(ZeroDivisionError):
        transcribe(interrupted, manifest, out, Problems())
    rows = [row for row in read_manifest(manifest, Problems()) if row.split == "test"]
    with pytest.raises(UserError, match=r"no transcript of manifest row 3 \(u2\); run `sclip transcribe` again"):
        Transcripts.find(rows, out)
    again = Counter()
    assert transcribe(again, manifest, out, Problems()).computed == 3
    assert again.heard == [8002, 8003, 8004]


@pytest.mark.parametrize(
    "content",
    [
        {"texts": []},
        {"texts": {"u0": ["abc"]}},
        {"texts": {"u0": ["abc", 1]}},
        {"recognizer": {"name": 5, "revision": None, "hash": "abc", "language": None}},
        {"skipped": None},
    ],
)
def test_a_file_of_other_types_is_refused_and_written_again(content, manifest):
    out = manifest.with_name("transcripts.json")
    transcribe(Counter(), manifest, out, Problems())
    index = read_index_file(out, transcripts.FORMAT, "transcribe")
    write_index_file(out, index | content)
    rows = [row for row in read_manifest(manifest, Problems()) if row.split == "test"]
    with pytest.raises(UserError, match=r"transcripts\.json: "):
        Transcripts.find(rows, out)
    assert transcribe(Counter(), manifest, out, Problems()).computed == 5
    assert len(Transcripts.find(rows, out).texts) == 5


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_faulty_recordings_are_named_and_left_out(fault, manifest):
    recording, out = manifest.with_name("1.wav"), manifest.with_name("transcripts.json")
    recording.unlink() if fault == "missing" else recording.write_bytes(b"no recording")
    message = {"damaged": "cannot be read", "missing": "no such file"}[fault]
    with pytest.raises(UserError, match=rf"manifest row 2 \(u1\): audio 1.wav: {message}"):
        transcribe(Counter(), manifest, out, Problems())
    problems = Problems(skip=True)
    assert transcribe(Counter(), manifest, out, problems).transcripts == 4
    assert list(problems.skipped) == ["manifest row 2 (u1)"]
    rows = [row for row in read_manifest(manifest, Problems()) if row.split == "test"]
    assert "u1" not in Transcripts.find(rows, out).texts


def test_transcripts_of_the_corpus_come_first(manifest):
    rows = [json.loads(line) | {"transcript": "a dog"} for line in manifest.read_text().splitlines()]
    write_manifest(manifest, rows)
    read = read_manifest(manifest, Problems())
    found = Transcripts.find(read, manifest.with_name("none.json"))
    assert found.source == "transcripts of the corpus" and set(found.texts.values()) == {"a dog"}
    with pytest.raises(UserError, match="has transcripts already"):
        transcribe(Counter(), manifest, manifest.with_name("transcripts.json"), Problems())
    write_manifest(manifest, [{key: value for key, value in rows[0].items() if key != "transcript"}])
    assert Transcripts.find(read_manifest(manifest, Problems()), manifest.with_name("none.json")) is None


def test_the_command_writes_what_whisper_recognises(manifest, monkeypatch):
    from encoders.test_whisper import write_whisper

    folder = manifest.parent / "project/data/scenes"
    shutil.copytree(manifest.parent, folder, ignore=shutil.ignore_patterns("project"))
    monkeypatch.chdir(manifest.parent / "project")
    shutil.copy(PARAMS, "params.yaml")
    Path("whisper").mkdir()
    write_whisper(Path("whisper"))
    options = ["transcribe", "whisper", "--language", "en", "--preset", "scenes", "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["transcripts"] == 5
    index = json.loads((folder / "transcripts.json").read_text())
    assert index["recognizer"]["name"] == "whisper" and index["recognizer"]["language"] == "en"
    assert len(index["texts"]) == 5 and all(text for _, text in index["texts"].values())
    Path("elsewhere").mkdir()
    shutil.move("whisper", "elsewhere")
    monkeypatch.chdir("elsewhere")  # the path of a folder is relative to the user, not to params.yaml
    options[1:1] = ["--params", "../params.yaml"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["transcripts"] == 5


def test_the_command_refuses_a_corpus_before_it_opens_whisper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, "params.yaml")
    result = CliRunner().invoke(main, ["transcribe", "openai/no-such-whisper", "scenes"])
    assert (result.exit_code, "manifest.jsonl: no such file; `sclip make-corpus`" in result.output) == (1, True)
    Path("data/scenes").mkdir(parents=True)
    row = {"id": "a", "split": "test", "audio": "a.wav", "image": "a.png", "image_id": "a", "transcript": "a dog"}
    write_manifest(Path("data/scenes/manifest.jsonl"), [row | {"id": "b", "transcript": None}, row])
    result = CliRunner().invoke(main, ["transcribe", "openai/no-such-whisper", "scenes"])
    assert (result.exit_code, "has transcripts already" in result.output) == (1, True)
