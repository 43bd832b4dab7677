"""Extraction: the store has the encoder's own states, only what changed is computed again, errors name bad input."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from threading import Event, get_ident

import numpy as np
import pytest
import soundfile
import torch
from features.conftest import LENGTHS
from small import speech_encoder

from sclip.config import FeaturesConfig
from sclip.corpora.manifest import read_manifest
from sclip.device import pin
from sclip.encoders.audio import read_audio
from sclip.encoders.mfcc import MfccEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.encode import FeatureEncoder, _Encoding
from sclip.features.extract import WRITERS, extract_features
from sclip.features.online import OnlineStore
from sclip.features.store import FeatureStore, read_index, write_shard
from sclip.features.verify import verify


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Make shards of a few kilobytes, which hold three or four utterances."""
    monkeypatch.setattr("sclip.features.extract.MEGABYTE", 15_000)


def encoder(seed=0):
    torch.manual_seed(seed)
    return speech_encoder()


def extract(corpus, out, speech=None, skip=False, **config):
    problems = Problems(skip)
    options = {"shard_megabytes": 1, "batch_seconds": 1.0} | config
    summary = extract_features(
        speech or encoder(), FeaturesConfig(**options), corpus.path, out, torch.device("cpu"), problems
    )
    return summary, problems


def files(out):
    """Return each file's content, inode and time of modification, which change when a file is written again."""
    return {p.name: (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in out.iterdir() if p.is_file()}


def contents(out):
    return {name: file[0] for name, file in files(out).items()}


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_stored_states_equal_those_of_the_encoder(corpus, tmp_path, precision):
    """Recordings that were encoded in batches have the states of recordings that are encoded one by one."""
    speech = encoder()
    summary, _ = extract(corpus, tmp_path / "out", speech, precision=precision)
    store = FeatureStore.open(tmp_path / "out")
    assert store.ids == [row["id"] for row in corpus.rows]
    assert summary.shards_computed == len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert (store.frame_shape, store.frame_seconds) == ((3, 32), 0.02)
    assert (
        len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
    )  # all files have the same access rights
    batch = store.read(torch.arange(len(store.ids)))
    tolerance = {"fp16": 1e-3, "bf16": 8e-3, "fp32": 1e-5}[precision]
    for row, states in zip(read_manifest(corpus.path, Problems()), batch, strict=True):
        expected = speech([torch.from_numpy(read_audio(row.audio))]).values[0]
        assert states.shape == expected.shape
        assert (states.float() - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
def test_codes_approximate_the_states_and_are_small(corpus, tmp_path):
    speech = encoder()
    summary, _ = extract(corpus, tmp_path / "out", speech, components=60)
    store = FeatureStore.open(tmp_path / "out")
    assert store.frame_shape == (60,)
    assert summary.frames * 60 < summary.gigabytes * 1e9 < summary.frames * 64 * 2
    coded = store.read(torch.arange(len(store.ids)))
    for row, codes in zip(read_manifest(corpus.path, Problems()), coded, strict=True):
        exact = speech([torch.from_numpy(read_audio(row.audio))]).values[0].transpose(0, 1)  # (T, L, D)
        assert (coded.directions.decode(codes) - exact).square().mean() < 0.05 * exact.var()
    assert verify(tmp_path / "out") == []


def test_codes_are_reused_and_damaged_directions_are_computed_again(corpus, tmp_path):
    speech = encoder()
    extract(corpus, tmp_path / "out", speech, components=60)
    before = files(tmp_path / "out")
    summary, _ = extract(corpus, tmp_path / "out", speech, components=60)
    assert summary.shards_computed == 0
    assert {name: file for name, file in files(tmp_path / "out").items() if name != "index.json"} == {
        name: file for name, file in before.items() if name != "index.json"
    }
    damaged = contents(tmp_path / "out")["directions.safetensors"][:-4] + b"1234"
    (tmp_path / "out/directions.safetensors").write_bytes(damaged)
    assert [finding.where for finding in verify(tmp_path / "out")] == ["directions.safetensors"]
    with pytest.raises(UserError, match=r"directions.safetensors: its SHA-256 is not the one in index.json"):
        FeatureStore.open(tmp_path / "out")
    summary, _ = extract(corpus, tmp_path / "out", speech, components=60)
    assert summary.shards_computed == 0
    assert contents(tmp_path / "out") == {name: file[0] for name, file in before.items()}
    extract(corpus, tmp_path / "out", speech)
    assert not (tmp_path / "out/directions.safetensors").exists()


def test_too_many_components_are_refused(corpus, tmp_path):
    with pytest.raises(UserError, match=r"features.components: expected at most 96, the numbers of a frame, found 97"):
        extract(corpus, tmp_path / "out", components=97)


def flip_bit(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def lengths_start(data):
    return 8 + int.from_bytes(data[:8], "little")


def edited_header(data, name, key, value):
    start = lengths_start(data)
    header = json.loads(data[8:start])
    text = json.dumps({**header, name: {**header[name], key: value}}).encode()
    return len(text).to_bytes(8, "little") + text + data[start:]


# Kind of damage: how to do it, and the error on opening the store.
DAMAGED_SHARDS = {
    "hash": (lambda data: flip_bit(data, len(data) - 1), "not the shard that index.json lists"),
    "length": (lambda data: flip_bit(data, lengths_start(data)), "do not fit together"),
    "id": (lambda data: data.replace(b"u0", b"u1"), "not the shard that index.json lists"),
    "offsets": (lambda data: edited_header(data, "states", "data_offsets", [0, 2**40]), "not a complete safetensors"),
    "shape": (lambda data: edited_header(data, "hashes", "shape", [32, -1]), "not a complete safetensors file"),
    "type": (lambda data: edited_header(data, "lengths", "dtype", "F64"), "do not fit together"),
    "end": (lambda data: data[:-1], "not a complete safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGED_SHARDS)
def test_damaged_shard_is_refused_and_computed_again(corpus, tmp_path, damage):
    extract(corpus, tmp_path / "out")
    before = contents(tmp_path / "out")
    name = next(name for name, data in before.items() if b'\\"u0\\"' in data)
    change, message = DAMAGED_SHARDS[damage]
    (tmp_path / "out" / name).write_bytes(change(before[name]))
    with pytest.raises(UserError, match=f"{name}: .*{re.escape(message)}.*; run `sclip extract-features` again"):
        FeatureStore.open(tmp_path / "out")
    assert name in [finding.where for finding in verify(tmp_path / "out")]
    summary, _ = extract(corpus, tmp_path / "out")
    assert summary.shards_computed == 1
    assert contents(tmp_path / "out") == before


def test_shard_of_other_rows_is_computed_again(corpus, tmp_path):
    """This holds without an index, which would have the shard's digest."""
    extract(corpus, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out/index.json").unlink()
    name = next(name for name, data in before.items() if b'\\"u0\\"' in data)
    (tmp_path / "out" / name).write_bytes(before[name].replace(b"u0", b"x0"))
    summary, _ = extract(corpus, tmp_path / "out")
    assert summary.shards_computed == 1
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("online", [False, True])
def test_damaged_index_is_refused_and_written_again(corpus, tmp_path, online):
    path = tmp_path / "out/index.json"
    extract(corpus, tmp_path / "out", online=online)
    before = path.read_text()
    for damaged in (before[:-20], before.replace('"utterances": 10', '"utterances": 11'), "[]", before[1:]):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"index\.json: .*; run `sclip extract-features` again"):
            verify(tmp_path / "out")
        assert extract(corpus, tmp_path / "out", online=online)[0].shards_computed == 0
        assert path.read_text() == before


def test_a_recording_that_changes_after_it_was_listed_for_online_features_is_refused(corpus, tmp_path):
    speech, config = encoder(), FeaturesConfig(online=True, compute="fp32")
    extract(corpus, tmp_path / "out", speech, online=True)
    rows = read_manifest(corpus.path, Problems())
    store = OnlineStore(read_index(tmp_path / "out"), rows, FeatureEncoder(speech, None, config, "cpu"))
    assert store.read(torch.arange(2)).lengths.tolist() == store.lengths[:2].tolist()
    corpus.record("1.wav", 3000)
    message = r"u1: \d+ frames, and \d+ when the recordings were listed: the file has changed; run `sclip extract-feat"
    with pytest.raises(UserError, match=message):
        store.read(torch.arange(2))


def test_directions_are_reused_when_the_corpus_grows(corpus, tmp_path, monkeypatch):
    """The sample has the recordings with the smallest hashes. The new recording has a larger one."""
    monkeypatch.setattr("sclip.features.directions.SAMPLE_SECONDS", 0.5)
    hashes = [sha256((corpus.path.parent / row["audio"]).read_bytes()).hexdigest() for row in corpus.rows]
    last = corpus.rows.pop(max(range(len(hashes)), key=hashes.__getitem__))
    corpus.write()
    extract(corpus, tmp_path / "out", components=60)
    before = contents(tmp_path / "out")
    corpus.rows.append(last)
    corpus.write()
    summary, _ = extract(corpus, tmp_path / "out", components=60)
    assert summary.shards_reused == len(before) - 3  # neither the index, nor the directions, nor the last shard
    assert contents(tmp_path / "out")["directions.safetensors"] == before["directions.safetensors"]


def test_states_do_not_depend_on_the_size_of_batches(corpus, tmp_path):
    extract(corpus, tmp_path / "one", batch_seconds=0.1)
    extract(corpus, tmp_path / "many", batch_seconds=100.0)
    one, many = (FeatureStore.open(tmp_path / name).read(torch.arange(10)).values for name in ("one", "many"))
    torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-3)


def test_reading_in_processes_and_writing_in_threads_gives_the_same_files(corpus, tmp_path, cores, monkeypatch):
    """Simulate a GPU, with which processes read, and threads pin and write, while the main thread encodes."""
    cores(1)
    extract(corpus, tmp_path / "expected")
    for module in ("encode", "inspection", "extract"):
        monkeypatch.setattr(f"sclip.features.{module}.prefetch_count", lambda device, count: count)
    writers, encoders, takers, pinning = set(), set(), set(), set()
    first_writes, both_write, encoded_meanwhile = [], Event(), Event()

    def write_slowly(*arguments):
        """Let the first two writes wait until the encoder computes another batch."""
        if len(first_writes) < WRITERS:
            first_writes.append(get_ident())
            if len(first_writes) == WRITERS:
                both_write.set()
            assert encoded_meanwhile.wait(60)
        return write_shard(*arguments)

    def encode(*arguments):
        if first_writes and both_write.wait(1):  # a second is enough for the second write to start
            encoded_meanwhile.set()
        return SpeechEncoder.forward(speech, *arguments)

    def recording_thread(threads, function):
        return lambda *arguments: threads.add(get_ident()) or function(*arguments)

    for name in ("read_bytes", "read_audio"):
        monkeypatch.setattr(f"sclip.corpora.recordings.{name}", lambda *_: pytest.fail("read in this process"))
    monkeypatch.setattr("sclip.features.extract.write_shard", recording_thread(writers, write_slowly))
    monkeypatch.setattr("sclip.features.encode.pin", recording_thread(pinning, pin))
    monkeypatch.setattr(_Encoding, "finish", recording_thread(takers, _Encoding.finish))
    speech = encoder()
    speech.forward = recording_thread(encoders, encode)
    extract(corpus, tmp_path / "out", speech)
    assert encoders == {get_ident()}
    assert len(writers) == WRITERS
    assert len(takers) == len(pinning) == 1
    assert not encoders & (writers | takers | pinning)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_one_two_and_four_cores_give_identical_files(corpus, tmp_path, cores):
    for count in (1, 2, 4):
        cores(count)
        extract(corpus, tmp_path / str(count), compute="bf16")
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "4")


def test_mfccs_can_be_extracted(corpus, tmp_path):
    corpus.rows.pop(3)  # too short for two frames of MFCCs
    corpus.write()
    extract(corpus, tmp_path / "out", MfccEncoder())
    assert FeatureStore.open(tmp_path / "out").read(torch.tensor([0])).values.shape == (1, 1, 24, 96)


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_states_are_computed_in_the_precision_that_is_set(corpus, tmp_path, compute, bf16):
    extract(corpus, tmp_path / "exact")
    extract(corpus, tmp_path / "out", compute=compute)
    exact, computed = (FeatureStore.open(tmp_path / n).read(torch.arange(10)).values for n in ("exact", "out"))
    difference = (computed.float() - exact.float()).abs().max()
    assert difference == 0 if compute == "fp32" else 1e-3 < difference < 0.1


def test_weights_are_cast_once_for_an_extraction(corpus, tmp_path, bf16):
    speech, types = encoder(), []
    weight = speech.model.feature_projection.projection.weight
    speech.register_forward_hook(lambda *_: types.append(weight.dtype))
    extract(corpus, tmp_path / "out", speech, compute="bf16", components=2)
    in_check, in_extraction = types[:2], types[2:]
    assert set(in_check) == {torch.float32}
    assert set(in_extraction) == {torch.bfloat16}
    assert weight.dtype == torch.float32


def test_a_precision_that_the_device_computes_wrongly_is_refused(corpus, tmp_path, bf16):
    speech = encoder()

    def wrong_in_bf16(module, _, output):
        return output.roll(1, -1) if torch.is_autocast_enabled("cpu") else output

    speech.model.encoder.layers[1].register_forward_hook(wrong_in_bf16)
    with pytest.raises(UserError, match=r"u0\): layer 2: .* in bf16 differ from those in fp32 by \d+%") as error:
        extract(corpus, tmp_path / "out", speech, compute="bf16")
    assert "set features.compute to fp32" in str(error.value)
    extract(corpus, tmp_path / "out", speech, compute="fp32")


def test_interrupted_extraction_resumes(corpus, tmp_path):
    extract(corpus, tmp_path / "expected")
    out, speech = tmp_path / "out", encoder()
    forward = speech.forward

    def failing(waveforms):
        if 5000 in map(len, waveforms):  # the last recording, which is in the last shard
            raise KeyboardInterrupt
        return forward(waveforms)

    speech.forward = failing
    with pytest.raises(KeyboardInterrupt):
        extract(corpus, out, speech)
    unfinished = out / "0123.safetensors.unfinished"
    unfinished.mkdir()
    (unfinished / ".tmp0123").write_bytes(b"half a sha")
    (out / "index.json.unfinished").write_bytes(b"half an in")
    written = files(out)
    with pytest.raises(UserError, match=r"index\.json: no such file"):
        FeatureStore.open(out)
    summary, _ = extract(corpus, out)
    assert 0 < summary.shards_reused == len(written) - 1
    assert len(files(out)) == len(list(out.iterdir()))
    assert contents(out) == contents(tmp_path / "expected")
    assert {name: file for name, file in files(out).items() if name in written}.items() <= written.items()


KILLED = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from small import speech_encoder
import sclip.features.extract as extract
from sclip.config import FeaturesConfig
from sclip.errors import Problems
extract.MEGABYTE = 15_000
torch.manual_seed(0)
config = FeaturesConfig(shard_megabytes=1, batch_seconds=1.0)
speech = speech_encoder()
print("ready", flush=True)
while True:
    for path in Path({out!r}).glob("*"):
        path.unlink()
    extract.extract_features(speech, config, Path({manifest!r}), Path({out!r}), "cpu", Problems())
"""


def test_extraction_can_be_killed_at_any_moment(corpus, tmp_path):
    extract(corpus, tmp_path / "expected")
    out = tmp_path / "out"
    tests = Path(__file__).parent.parent
    program = KILLED.format(tests=str(tests), out=str(out), manifest=str(corpus.path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(random.uniform(0.02, 0.4))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = files(out) if out.exists() else {}
    extract(corpus, out)
    assert len(files(out)) == len(list(out.iterdir()))
    assert contents(out) == contents(tmp_path / "expected")
    after = files(out)
    assert all(after[name] == file for name, file in before.items() if name.endswith(".safetensors"))


def test_only_what_changed_is_computed_again(corpus, tmp_path, caplog):
    out = tmp_path / "out"
    first, _ = extract(corpus, out)
    before = files(out)
    assert extract(corpus, out)[0].shards_computed == 0
    assert contents(out) == {name: file[0] for name, file in before.items()}

    corpus.rows.append(corpus.rows[0] | {"id": "more"})  # only the last shard has room for it, or a new shard
    corpus.write()
    assert extract(corpus, out)[0].shards_computed == 1
    assert "more" in FeatureStore.open(out).ids

    corpus.record(
        "0.wav", 8000, seed=99
    )  # another sound of the same name and size, used in the first and the last shard
    assert extract(corpus, out)[0].shards_computed == 2
    assert verify(out, [row["id"] for row in corpus.rows]) == []

    for differing, changed in (
        ("hash", {"speech": encoder(seed=1)}),
        ("hash, precision", {"precision": "bf16"}),  # and the first encoder again
        ("compute, precision", {"compute": "bf16"}),
    ):
        caplog.clear()
        summary, _ = extract(corpus, out, **changed)
        assert summary.shards_reused == 0
        assert f"all hidden states are computed again, because these differ: {differing}\n" in caplog.text
        assert len(list(out.iterdir())) == summary.shards_computed + 1  # the old shards are removed
    assert first.shards_computed > 2


def truncated(corpus):
    path = corpus.folder / "4.wav"
    path.write_bytes(path.read_bytes()[:20])


def not_a_number(corpus):
    samples = np.full(8000, np.nan, np.float32)
    soundfile.write(corpus.folder / "4.wav", samples, 16000, subtype="FLOAT")


BAD = {
    "cannot be read: ": truncated,
    "is empty": lambda corpus: (corpus.folder / "4.wav").write_bytes(b""),
    "8,000 samples are infinite or not a number": not_a_number,
    "no samples": lambda corpus: soundfile.write(corpus.folder / "4.wav", np.zeros(0), 16000),
    "399 samples at 16 kHz; expected at least 0.025 s, 400 samples": lambda corpus: corpus.record("4.wav", 399),
    "silent": lambda corpus: soundfile.write(corpus.folder / "4.wav", np.full(8000, 0.25), 16000),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_recordings_are_named_and_skipped(corpus, tmp_path, message):
    """This holds when the shard is computed and when it is reused."""
    BAD[message](corpus)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"manifest row 5 \(u4\): audio 4.wav: .*" + message):
        extract(corpus, out)
    assert not (out / "index.json").exists()
    for reused in (False, True):
        summary, problems = extract(corpus, out, skip=True)
        assert message in problems.skipped["manifest row 5 (u4)"]
        assert len(problems.skipped) == 1
        assert summary.utterances == 9
        assert (summary.shards_computed == 0) == reused
    store = FeatureStore.open(out)
    assert "u4" not in store.ids and len(store.ids) == 9
    assert verify(out, [row["id"] for row in corpus.rows]) == []
    with pytest.raises(UserError, match=r"manifest row 5 \(u4\)"):
        extract(corpus, out)


def test_other_rates_and_channels_are_converted_and_noted(corpus, tmp_path):
    corpus.record("4.wav", 44100, rate=44100, channels=2)
    _, problems = extract(corpus, tmp_path / "out")
    case = "manifest row 5 (u4): 44.1 kHz stereo, mixed down and resampled to 16 kHz"
    assert problems.notes == {"recordings that are mixed down or resampled": [case]}
    store = FeatureStore.open(tmp_path / "out")
    assert store.lengths[store.ids.index("u4")] == 49


@pytest.mark.parametrize(("samples", "reason"), [(0, "no samples"), (10, "too short: .*"), (8000, "silent")])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "manifest.jsonl: none of 1 recording can be used"),
        ({"online": True}, "manifest.jsonl: none of 1 recording can be used"),
        ({"components": 60}, "features.components: no recording of the sample can be used"),
    ],
)
def test_a_corpus_without_a_usable_recording_is_refused(corpus, tmp_path, samples, reason, config, message):
    corpus.rows = corpus.rows[:1]
    corpus.write()
    soundfile.write(corpus.folder / "0.wav", np.ones(samples), 16000)
    with pytest.raises(UserError, match=rf"{message}:\n  manifest row 1 \(u0\): audio 0.wav: {reason}$"):
        extract(corpus, tmp_path / "out", skip=True, **config)
    assert not (tmp_path / "out/index.json").exists()


def test_states_too_large_for_fp16_are_refused(corpus, tmp_path):
    speech = encoder()
    speech.model.encoder.layers[1].final_layer_norm.weight.data *= 1e6
    error = r"manifest row \d+ \(u\d\): layer 2: a hidden state of .* fp16; set features.precision to bf16 or fp32"
    with pytest.raises(UserError, match=error):
        extract(corpus, tmp_path / "out", speech)
    extract(corpus, tmp_path / "out", speech, precision="bf16")


class LoudUtterance(torch.nn.Module):
    """An encoder that multiplies one layer of the utterance with a given number of samples."""

    def __init__(self, samples, layer, factor):
        super().__init__()
        self.inner, self.samples, self.layer, self.factor = encoder(), samples, layer, factor

    def forward(self, waveforms):
        output = self.inner(waveforms)
        for row, waveform in zip(output.values, waveforms, strict=True):
            if len(waveform) == self.samples:
                row[self.layer] *= self.factor
        return output

    def __getattr__(self, name):
        return getattr(self.inner, name) if name not in ("inner", "_modules") else super().__getattr__(name)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1e6, "layer 1: a hidden state of .* does not fit fp16; set features.precision to bf16 or fp32"),
        (np.inf, "layer 1: hidden states computed in fp32 are not finite"),
        (np.nan, "layer 1: hidden states computed in fp32 are not finite"),
    ],
)
def test_an_utterance_whose_states_are_not_finite_is_named_or_skipped(corpus, tmp_path, factor, message):
    speech = LoudUtterance(LENGTHS[4], 1, factor)
    with pytest.raises(UserError, match=rf"manifest row 5 \(u4\): {message}"):
        extract(corpus, tmp_path / "out", speech)
    for computed in (True, False):
        summary, problems = extract(corpus, tmp_path / "out", speech, skip=True)
        assert summary.utterances == 9 and (summary.shards_computed > 0) == computed
        assert list(problems.skipped) == ["manifest row 5 (u4)"]
        assert re.match(message, problems.skipped["manifest row 5 (u4)"])
    exact, _ = extract(corpus, tmp_path / "exact")
    one, other = FeatureStore.open(tmp_path / "out"), FeatureStore.open(tmp_path / "exact")
    assert exact.utterances == 10
    for name in one.ids:  # utterances of the same batch keep their states
        assert torch.equal(one.utterance(one.ids.index(name)), other.utterance(other.ids.index(name)))


def test_directions_leave_out_an_utterance_whose_states_are_not_finite(corpus, tmp_path):
    speech = LoudUtterance(LENGTHS[4], 1, np.nan)
    with pytest.raises(
        UserError, match=r"manifest row 5 \(u4\): layer 1: hidden states computed in fp32 are not finite"
    ):
        extract(corpus, tmp_path / "out", speech, components=60)
    _, problems = extract(corpus, tmp_path / "out", speech, skip=True, components=60)
    assert list(problems.skipped) == ["manifest row 5 (u4)"]
    extract(corpus, tmp_path / "exact", precision="fp32")
    codes, exact = (FeatureStore.open(tmp_path / name) for name in ("out", "exact"))
    directions = codes.read(torch.tensor([0])).directions
    for i, name in enumerate(codes.ids):
        states = exact.utterance(exact.ids.index(name))
        assert (directions.decode(codes.utterance(i)) - states).square().mean() < 0.05 * states.var()


class OverflowingUtterance(LoudUtterance):
    """An encoder whose states of one utterance are infinite in half precision alone."""

    def forward(self, waveforms):
        self.factor = np.inf if torch.is_autocast_enabled("cpu") else 1.0
        return super().forward(waveforms)


def test_the_first_utterance_may_overflow_in_half_precision(corpus, tmp_path, bf16):
    """The check of the precision reads this utterance."""
    speech = OverflowingUtterance(LENGTHS[0], 1, 1.0)
    summary, problems = extract(corpus, tmp_path / "out", speech, skip=True, compute="bf16")
    assert summary.utterances == 9
    assert "computed in bf16 are not finite" in problems.skipped["manifest row 1 (u0)"]
