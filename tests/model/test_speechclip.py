"""A model folder round-trips bit for bit, takes whatever a user has, and says in one line what is wrong."""

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import open_clip
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small import ARCHITECTURES, CAPTIONS, CLIP_CONFIG, model, recordings, speech_encoder, vocabulary_of

import sclip
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.encoders.waveforms import as_waveform
from sclip.model.folder import written_files

SHORT_CONTEXT = CLIP_CONFIG | {"text_cfg": CLIP_CONFIG["text_cfg"] | {"context_length": 12}}
RECORDINGS = recordings(16000, 400, 9000, 12345)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model("hybrid-cif").save(tmp_path_factory.mktemp("models") / "hybrid-cif")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_saved_model_loads_with_the_same_outputs_and_files(arch, tmp_path):
    first = model(arch)
    again = sclip.load(first.save(tmp_path / "model"))
    assert dataclasses.asdict(again.architecture) == dataclasses.asdict(first.architecture)
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(again.encode_speech(RECORDINGS), first.encode_speech(RECORDINGS))
    assert torch.equal(again.encode_text(CAPTIONS), first.encode_text(CAPTIONS))
    if first.vocabulary is not None:
        assert again.keywords(RECORDINGS) == first.keywords(RECORDINGS)
    second = again.save(tmp_path / "again")
    for path in sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file()):
        assert (second / path).read_bytes() == (tmp_path / "model" / path).read_bytes(), path


def test_vectors_do_not_depend_on_the_batch_or_the_kind_of_input(folder, tmp_path):
    loaded = sclip.load(folder)
    soundfile.write(tmp_path / "a.wav", RECORDINGS[0].numpy(), 16000, "FLOAT")
    kinds = [RECORDINGS[0], RECORDINGS[0].numpy(), str(tmp_path / "a.wav"), tmp_path / "a.wav"]
    for branch in (None, "parallel", "cascaded"):
        vectors = loaded.encode_speech([*kinds, *RECORDINGS], branch=branch, batch_size=3)
        assert vectors.shape == (8, 20)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8))
        torch.testing.assert_close(vectors[:4], vectors[4:5].expand(4, -1))
        one_by_one = loaded.encode_speech(RECORDINGS, branch=branch, batch_size=1)
        torch.testing.assert_close(vectors[4:], one_by_one, rtol=1e-4, atol=1e-5)
    assert loaded.encode_speech([]).shape == (0, 20)
    picture = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
    assert loaded.encode_image([picture] * 3, batch_size=2).shape == (3, 20)
    with pytest.raises(sclip.UserError, match="architecture hybrid-cif: no branch 'middle'"):
        loaded.encode_speech(RECORDINGS, branch="middle")


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_same_numbers(folder):
    """The same calls, and in fp32 nearly the same numbers."""
    there, here = sclip.load(folder, device="cuda"), sclip.load(folder)
    given = [RECORDINGS[0].cuda(), *RECORDINGS[1:]]
    for branch in ("parallel", "cascaded"):
        vectors = there.encode_speech(given, branch=branch)
        assert vectors.device.type == "cuda"
        torch.testing.assert_close(vectors.cpu(), here.encode_speech(RECORDINGS, branch=branch), rtol=1e-3, atol=1e-4)
    picture = torch.randn(3, 16, 16)
    torch.testing.assert_close(there.encode_image([picture]).cpu(), here.encode_image([picture]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(there.encode_text(CAPTIONS).cpu(), here.encode_text(CAPTIONS), rtol=1e-3, atol=1e-4)
    found, expected = there.keywords(RECORDINGS), here.keywords(RECORDINGS)
    assert [[k.pieces[0].token for k in slots] for slots in found] == [[k.pieces[0].token for k in s] for s in expected]


def test_keywords_have_sorted_scores_and_spans(folder):
    loaded = sclip.load(folder)
    everything = len(loaded.vocabulary) - 3
    assert all(len(slot.pieces) == everything for slot in loaded.keywords(RECORDINGS[:1], top=999)[0])
    found = loaded.keywords(RECORDINGS, top=3)
    assert len(found) == 4
    for slots, recording in zip(found, RECORDINGS, strict=True):
        assert slots
        end = 0.0
        for slot in slots:
            assert [p.score for p in slot.pieces] == sorted((p.score for p in slot.pieces), reverse=True)
            assert len(slot.pieces) == 3
            assert all(p.token not in (0, 49406, 49407) for p in slot.pieces)
            assert all(loaded.clip.piece(p.token) == p.text + "</w>" * p.ends_word for p in slot.pieces)
            start, stop = slot.span
            assert max(0.0, end - 0.02 - 1e-9) <= start < stop <= len(recording) / 16000
            end = stop
    fixed = model("cascaded").keywords(RECORDINGS)
    assert [len(slots) for slots in fixed] == [8] * 4
    assert all(slot.span is None for slots in fixed for slot in slots)


def test_recordings_are_decoded_batch_by_batch(folder, tmp_path, monkeypatch):
    loaded, events = sclip.load(folder), []
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    for path, samples in zip(paths, recordings(900, 800, 700, 600, 500), strict=True):
        soundfile.write(path, samples.numpy(), 16000, "FLOAT")
    decode, encode = as_waveform, loaded.speech.forward
    monkeypatch.setattr("sclip.model.inputs.as_waveform", lambda *given: [events.append("decode"), decode(*given)][1])
    monkeypatch.setattr(loaded.speech, "forward", lambda *given: [events.append("encode"), encode(*given)][1])
    assert len(loaded.encode_speech(paths, batch_size=2)) == 5
    assert events == ["decode", "decode", "encode"] * 2 + ["decode", "encode"]


def test_recordings_that_are_too_long_are_refused_before_any_is_decoded(folder, monkeypatch):
    loaded = sclip.load(folder)
    monkeypatch.setattr("sclip.model.inputs.as_waveform", lambda *_: pytest.fail("decoded one"))
    for call in (loaded.encode_speech, loaded.keywords):
        with pytest.raises(sclip.UserError, match=r"recording 1: 361\.0 s long; expected at most 360 s; cut it"):
            call([RECORDINGS[0], torch.zeros(361 * 16000)])


def test_batches_are_no_longer_than_the_longest_recording(folder, monkeypatch):
    loaded, totals = sclip.load(folder), []
    encode = loaded.speech.forward
    monkeypatch.setattr("sclip.model.inputs.LONGEST_SECONDS", 1.0)
    monkeypatch.setattr(loaded.speech, "forward", lambda w: [totals.append(sum(map(len, w))), encode(w)][1])
    loaded.encode_speech(recordings(*[8000] * 4, 9000))
    assert totals == [9000, 16000, 16000]


def test_recordings_with_little_in_them_are_named(folder, caplog):
    loaded = sclip.load(folder)
    loaded.keywords([torch.zeros(16000), *recordings(480, 16000)])
    assert [record.getMessage() for record in caplog.records] == [
        "recording 0: silent; its vectors and keywords mean nothing",
        "recording 1: only 0.03 s long; its vectors and keywords mean little",
    ]


def test_quiet_recordings_are_named_if_the_encoder_does_not_adjust_the_level(folder, caplog):
    loaded, loud = sclip.load(folder), recordings(16000)[0]
    quiet = 0.04 * loud / loud.abs().max()
    loaded.encode_speech([loud, quiet])
    (message,) = caplog.messages
    assert message.startswith("recording 1: quiet: its loudest sample is 4.0 % of full scale, and this model's speech ")
    caplog.clear()
    loaded.speech.input.normalize = True
    loaded.encode_speech([quiet])
    assert not caplog.messages


def test_texts_that_do_not_fit_are_named(folder, caplog):
    sclip.load(folder).encode_text(["a dog", "dog " * 100])
    assert caplog.messages == ["text 1: 100 tokens, cut to CLIP's 75"]


def test_keywords_that_do_not_fit_are_named(folder, caplog):
    """75 of them, or as many as CLIP's text tower has positions for."""
    loaded = sclip.load(folder)
    short = ClipEncoder.from_tensors(SHORT_CONTEXT, open_clip.CLIP(**SHORT_CONTEXT).state_dict(), "short")
    vocabulary = vocabulary_of(CAPTIONS, short)
    for built, most in (
        (loaded, 75),
        (sclip.SpeechCLIP("hybrid-cif", loaded.architecture, loaded.speech, short, vocabulary), 10),
    ):
        caplog.clear()
        torch.nn.init.constant_(built.head.cif.score.bias, 9.0)  # nearly every frame fires
        found = built.keywords(recordings(8000, 32000))
        assert [len(slots) for slots in found] == [min(24, most), most]
        named = [f"recording {i}: more than {most} keywords" for i in (0, 1) if i or most < 24]
        assert sorted(record.getMessage().split(";")[0] for record in caplog.records) == named
        for branch, lost in (("cascaded", len(named)), ("parallel", 0)):  # the utterance vector needs no keywords
            caplog.clear()
            built.encode_speech(recordings(8000, 32000), branch=branch)
            assert len(caplog.messages) == lost
    with pytest.raises(sclip.UserError, match=r"head\.keywords\.slots: expected at most 10, .*; found 12"):
        config = ARCHITECTURES["cascaded"]
        twelve = dataclasses.replace(config.head, keywords=dataclasses.replace(config.head.keywords, slots=12))
        sclip.SpeechCLIP("twelve", dataclasses.replace(config, head=twelve), loaded.speech, short, vocabulary)


def test_encoders_outside_the_folder_are_found_by_path_and_checked_by_hash(tmp_path):
    """Named by place and hash; a changed encoder is noticed."""
    inside = model("cascaded")
    inside.speech.save(tmp_path / "hubert")
    inside.clip.save(tmp_path / "clip")
    speech = SpeechEncoder.from_pretrained(str(tmp_path / "hubert"))
    clip = ClipEncoder.from_pretrained(str(tmp_path / "clip"))
    outside = sclip.SpeechCLIP("cascaded", inside.architecture, speech, clip, inside.vocabulary)
    outside.head.load_state_dict(inside.head.state_dict())
    folder = outside.save(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "vocabulary.json",
    ]  # fmt: skip
    tensors = load_file(folder / "model.safetensors")
    assert all(name.startswith(("head.", "objective.")) for name in tensors)
    assert torch.equal(sclip.load(folder).encode_speech(RECORDINGS), inside.encode_speech(RECORDINGS))
    shutil.rmtree(tmp_path / "hubert")
    speech_encoder().save(tmp_path / "hubert")
    with pytest.raises(sclip.UserError, match=r"hubert: not the one that .*: expected hash \w{12}…, found \w{12}…"):
        sclip.load(folder)
    shutil.rmtree(tmp_path / "hubert")
    with pytest.raises(sclip.UserError, match=r"hubert: no such folder, and not the name of a hub repo"):
        sclip.load(folder)


def test_save_pretrained_and_from_pretrained_use_the_same_folder(folder, tmp_path):
    """PyTorchModelHubMixin's save_pretrained and from_pretrained write and read the same folder."""
    loaded = sclip.SpeechCLIP.from_pretrained(str(folder))
    loaded.save_pretrained(tmp_path / "saved")
    for name in ("config.json", "model.safetensors", "README.md", "speech/model.safetensors"):
        assert (tmp_path / "saved" / name).read_bytes() == (folder / name).read_bytes()
    assert len({path.stat().st_mode for path in folder.rglob("*.*")}) == 1  # who may read one may read all
    assert "hybrid-cif" in (folder / "README.md").read_text()


def test_training_leaves_the_encoders_as_they_are(folder):
    loaded = sclip.load(folder).train()
    assert loaded.head.training
    assert not loaded.speech.model.training
    assert not loaded.clip.model.training
    assert all(not p.requires_grad for part in (loaded.speech, loaded.clip) for p in part.parameters())


def sign(folder) -> None:
    """Write new digests, so that damage is found by what reads the file."""
    edit_config(folder, "files", written_files(folder))


def edit_config(folder, path: str, value) -> None:
    config = json.loads((folder / "config.json").read_text())
    *parents, last = path.split(".")
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    config.pop("digest", None)
    (folder / "config.json").write_text(json.dumps(config))


def edit_vocabulary(folder, **changes) -> None:
    path = folder / "vocabulary.json"
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps(vocabulary | {key: change(vocabulary[key]) for key, change in changes.items()}))
    sign(folder)


def edit_encoder(folder, name: str, key: str, value) -> None:
    config = json.loads((folder / name).read_text())
    write(folder, name, json.dumps(config | {key: value}))


def write(folder, name: str, text: str) -> None:
    (folder / name).write_text(text)
    sign(folder)


def edit_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    sign(folder)


def replace_tensors(folder, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    sign(folder)


def flip_a_bit(path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


ELSE = "; name a folder with a trained model; `sclip list models` lists them"


def test_an_encoder_is_not_a_model_folder_and_is_named(folder, tmp_path):
    for name, what in (
        ("speech", ", but a speech encoder in transformers' format"),
        ("clip", ", but a CLIP model in open_clip's format"),
    ):
        with pytest.raises(sclip.UserError) as error:
            sclip.load(folder / name)
        assert str(error.value) == f"{folder / name}: not a model folder{what}{ELSE}"


@pytest.mark.parametrize("content", ["{} // a comment", "[1]", '{"name": "of another program"}', None, "a pipe"])
def test_files_of_other_programs_below_a_folder_do_not_hide_what_it_is(folder, tmp_path, content):
    """One of them, with a comment in it, was the error of the whole folder: "not JSON"."""
    path = tmp_path / "other/config.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    elif content == "a pipe":
        os.mkfifo(path)
    else:
        path.write_text(content)
    with pytest.raises(sclip.UserError) as error:
        sclip.load(tmp_path)
    assert str(error.value) == f"{tmp_path}: not a model folder ({tmp_path}/config.json: no such file){ELSE}"
    shutil.copytree(folder, tmp_path / "model")
    with pytest.raises(sclip.UserError) as error:
        sclip.load(tmp_path)
    assert str(error.value).endswith(f"not a model folder, but models are below it; load one of {tmp_path}/model")


@pytest.mark.parametrize("content", ['{"name": "x"}', '{"model_type": []}'])
def test_a_config_without_a_format_is_of_another_program(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(sclip.UserError) as error:
        sclip.load(tmp_path)
    found = f"({tmp_path}/config.json: format: expected 'sclip model 2', found None)"
    assert str(error.value) == f"{tmp_path}: not a model folder {found}{ELSE}"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: edit_config(f, "format", "other"), "format: expected 'sclip model 2', found 'other'"),
        (lambda f: edit_config(f, "head.atention", {}), "head.atention: no such key; did you mean 'attention'?"),
        (
            lambda f: edit_config(f, "sizes.speech_width", 48),
            "found encoders of EncoderSizes(states=3, speech_width=32",
        ),
        (lambda f: edit_config(f, "head.keywords", {"slots": 4}), "objective.quantity: the head has no such output"),
        (
            lambda f: edit_config(f, "head.utterance_hidden", [9]),
            "utterance.0.weight: expected (9, 32), found (20, 32)",
        ),
        (lambda f: replace_tensors(f, b"x" * 99), "model.safetensors: not a complete safetensors file"),
        (lambda f: flip_a_bit(f / "model.safetensors"), "model.safetensors: its SHA-256 is not the one in config.json"),
        (lambda f: flip_a_bit(f / "vocabulary.json"), "vocabulary.json: its SHA-256 is not the one in config.json"),
        (lambda f: edit_config(f, "files", {}), "model.safetensors: its SHA-256 is not the one in config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda f: edit_tensors(f, lambda t: t.pop("head.tokens")), "model.safetensors: head.tokens is missing"),
        (lambda f: edit_tensors(f, lambda t: t.update({"head.x": torch.ones(1)})), "head.x: no such tensor"),
        (lambda f: (f / "vocabulary.json").unlink(), "vocabulary.json: no such file"),
        (lambda f: edit_vocabulary(f, ids=lambda i: i[::-1]), "model: vocabulary: row 0: expected token"),
        (lambda f: edit_vocabulary(f, ids=lambda i: [*i[:-1], 99999]), "expected token 99999 to be"),
        (
            lambda f: edit_vocabulary(f, ids=lambda i: [*i[:-1], i[0]]),
            "expected distinct ids, and one piece for each id",
        ),
        (lambda f: edit_vocabulary(f, pieces=lambda p: p[:-1]), "one piece for each id"),
        (lambda f: edit_vocabulary(f, blocked=lambda b: [999]), "blocked: expected some rows of the vocabulary"),
        (
            lambda f: edit_encoder(f, "speech/config.json", "hidden_act", "relu"),
            "not the one that the head was trained",
        ),
        (
            lambda f: edit_encoder(f, "clip/open_clip_config.json", "preprocess_cfg", {"mean": [0, 0, 0]}),
            "not the one that the head was trained with",
        ),
        (lambda f: write(f, "clip/open_clip_config.json", "[]"), "expected a table with model_cfg"),
        (lambda f: (f / "clip/open_clip_config.json").unlink(), "open_clip_config.json: no such file"),
        (lambda f: write(f, "clip/open_clip_config.json", "{"), "open_clip_config.json: not JSON"),
        (lambda f: (f / "clip/open_clip_model.safetensors").write_bytes(b"x" * 9), "CLIP "),
        (lambda f: (f / "speech/model.safetensors").write_bytes(b"x" * 9), "speech encoder "),
        (lambda f: write(f, "speech/config.json", "{"), "speech/config.json: not JSON"),
        (
            lambda f: edit_config(f, "format", "sclip model 1"),
            "found 'sclip model 1'; download the model again, or train or import it again",
        ),
    ],
)
def test_damaged_folders_give_one_line_errors(folder, tmp_path, damage, message):
    damaged = tmp_path / "model"
    shutil.copytree(folder, damaged)
    damage(damaged)
    with pytest.raises(sclip.UserError, match=re.escape(message)) as error:
        sclip.load(damaged)
    assert "\n" not in str(error.value)


def test_invalid_inputs_are_user_errors(folder, tmp_path):
    loaded = sclip.load(folder)
    with pytest.raises(
        sclip.UserError, match=r"recording 1: too short: 0\.0249 s, 399 samples .* at least 0\.025 s, 400 "
    ):
        loaded.encode_speech([RECORDINGS[0], RECORDINGS[0][:399]])
    for single in ("a.wav", RECORDINGS[0], RECORDINGS[0].numpy()):
        with pytest.raises(sclip.UserError, match="expected a list, found a single"):
            loaded.encode_speech(single)
    for single in ("a dog", Image.new("RGB", (9, 9))):
        for encode in (loaded.encode_text, loaded.encode_image):
            with pytest.raises(sclip.UserError, match="expected a list, found a single"):
                encode(single)
    for call in (loaded.encode_speech, loaded.keywords):
        with pytest.raises(sclip.UserError, match="batch_size: expected at least 1, found 0"):
            call(RECORDINGS, batch_size=0)
    with pytest.raises(sclip.UserError, match="top: expected at least 1, found -1"):
        loaded.keywords(RECORDINGS, top=-1)
    with pytest.raises(sclip.UserError, match="text 1: expected text, found NoneType"):
        loaded.encode_text(["a dog", None])
    with pytest.raises(sclip.UserError, match="already exists"):
        loaded.save(folder)
    with pytest.raises(sclip.UserError, match="has keywords, and no vocabulary was given"):
        sclip.SpeechCLIP("cascaded", ARCHITECTURES["cascaded"], loaded.speech, loaded.clip)
    with pytest.raises(sclip.UserError, match="nobody/nothing: no such folder, and not available as a hub repo"):
        sclip.load("nobody/nothing")
