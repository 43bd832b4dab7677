"""Test what the demo answers, without a browser and without Gradio. tests/browser tests its page."""

import re
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from PIL import Image
from small import model

from sclip.apps import demo_answer
from sclip.apps.demo_answer import Demo, open_demo
from sclip.cli import main
from sclip.errors import UserError
from sclip.report.utterances import NearestToken, Slot, Span, timeline_width

COUNT = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write models, a folder of pictures with one that cannot be read, and a recording among the pictures."""
    folder = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    (folder / "pictures/more").mkdir(parents=True)
    for i in range(COUNT):
        pixels = rng.integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / ("more" if i % 2 else ".") / f"{i}&.png")
    (folder / "pictures/broken.png").write_text("no picture")
    (folder / "pictures/notes.txt").write_text("no picture either")
    soundfile.write(folder / "pictures/example.wav", rng.normal(size=16_000) / 10, 16_000)
    for arch in ("parallel", "cascaded", "hybrid-cif"):
        model(arch).save(folder / arch)
    return folder


@pytest.fixture(scope="module")
def demo(folder) -> Demo:
    names = [str(folder / arch) for arch in ("parallel", "cascaded", "hybrid-cif")]
    return open_demo(names, folder / "pictures", "cpu")


def sections(html: str) -> list[str]:
    """Return the part of each model."""
    return re.findall(r"<section.*?</section>", html, re.DOTALL)


def test_pictures_and_recordings_of_a_folder_are_found(demo, folder, caplog):
    open_demo([str(folder / "parallel")], folder / "pictures", "cpu")
    assert [path.name for path in demo.pictures] == [f"{i}&.png" for i in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    assert [path.name for path in demo.examples] == ["example.wav"]
    assert caplog.messages == [
        "image broken.png: cannot be read: not a picture in a supported format "
        "(BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP); left out"
    ]


def test_models_with_the_same_clip_share_its_vectors(demo):
    assert demo.models[0].vectors is demo.models[1].vectors is demo.models[2].vectors


def test_each_branch_ranks_the_pictures_as_the_python_interface_does(demo):
    recording = str(demo.examples[0])
    parts = sections(demo.answer(recording))
    assert len(parts) == 3
    for demo_model, part in zip(demo.models, parts, strict=True):
        head = demo_model.model.architecture.head
        branches = [*["cascaded"] * (head.keywords is not None), *["parallel"] * head.utterance]
        lists = re.findall(r'<ol class="pictures">(.*?)</ol>', part, re.DOTALL)
        assert len(lists) == len(branches)
        for branch, shown in zip(branches, lists, strict=True):
            images = demo_model.model.encode_image(demo.pictures)
            scores = demo_model.model.encode_speech([recording], branch=branch)[0] @ images.T
            best = scores.topk(demo_answer.SHOWN_PICTURES)
            names = [demo.pictures[i].name.replace("&", "&amp;") for i in best.indices.tolist()]
            assert re.findall(r'alt="Picture (.*?)"', shown) == names
            assert re.findall(r"\d · (-?[\d.]+)", shown) == [f"{score:.3f}" for score in best.values.tolist()]


def test_keywords_and_firings_are_those_of_the_model(demo):
    recording = str(demo.examples[0])
    parallel, cascaded, cif = sections(demo.answer(recording))
    assert "This architecture has no keywords." in parallel
    for demo_model, part in ((demo.models[1], cascaded), (demo.models[2], cif)):
        (slots,) = demo_model.model.keywords([recording])
        texts = [piece.text for slot in slots for piece in slot.pieces]
        assert re.findall(r'<span class="token">(\S+) <small>', part) == texts
    waveform = torch.from_numpy(soundfile.read(recording, dtype="float32")[0])
    tested = demo.models[2].model
    firing = tested.head(tested.speech([waveform]), tested.text_tower).cif.firing
    assert cif.count('class="fired"') == int(firing.fired.sum()) > 0
    assert "fired" not in parallel + cascaded


def test_columns_are_as_wide_as_their_keywords():
    tokens = [NearestToken("mushroom", 0.8, False), NearestToken("a longer piece", 0.1, False)]
    narrow, wide = (Slot(Span(0, width), tokens) for width in (10, 60))
    assert timeline_width(1.0, [wide]) == 200
    assert timeline_width(2.0, [wide, narrow]) * 0.10 >= 8 * len("mushroom")
    assert timeline_width(2.0, [Slot(Span(0, 0.5), tokens)]) == 1200  # of a single frame
    assert timeline_width(1.0, [Slot(None, tokens)]) == 200


def write(path, samples) -> str:
    soundfile.write(path, samples, 16_000)
    return str(path)


def test_mistakes_are_one_line_without_the_folder(demo, tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "nothing.wav").touch()
    mistakes = {
        str(tmp_path / "text.wav"): r"audio text\.wav: cannot be read: .*Format not recognised",
        str(tmp_path / "nothing.wav"): r"audio nothing\.wav: is empty \(0 bytes\)",
        write(
            tmp_path / "one.wav", np.zeros(1)
        ): "audio one.wav: too short: 0.0001 s, 1 sample at 16 kHz; expected at least 0.025 s, 400",
        write(tmp_path / "long.wav", np.zeros(16_000 * 361)): r"audio long.wav: 361.0 s long; expected at most 360 s",
    }
    for recording, message in mistakes.items():
        html = demo.answer(recording)
        (text,) = re.findall(r'<p class="error" role="alert">(.*?)</p>', html)
        assert re.match(message, text), text
        assert str(tmp_path) not in html
        assert not sections(html)


def test_silence_is_answered_with_a_warning(demo, tmp_path):
    html = demo.answer(write(tmp_path / "silent.wav", np.zeros(16_000)))
    assert "The recording is silent" in html
    assert len(sections(html)) == 3


def test_a_cleared_recording_clears_the_answer(demo):
    assert demo.answer(None) == ""


def test_a_fault_of_the_program_is_shown_and_logged(demo, monkeypatch, caplog):
    def fail(path):
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(demo_answer, "read_audio", fail)
    html = demo.answer("/elsewhere/a<b>.wav")
    assert "a&lt;b&gt;.wav: the demo failed: RuntimeError; its terminal shows where" in html
    assert "out of <memory>" in caplog.text


def test_a_folder_without_pictures_is_refused(folder, tmp_path, monkeypatch):
    names = [str(folder / "parallel")]
    with pytest.raises(UserError, match=r"none: no such folder; give the folder of the pictures"):
        open_demo(names, tmp_path / "none", "cpu")
    with pytest.raises(UserError, match=r"no pictures there; expected one of \.bmp \.gif"):
        open_demo(names, tmp_path, "cpu")
    (tmp_path / "broken.png").touch()
    loaded = [demo_answer.load(name, device="cpu") for name in 2 * names]
    for i, each in enumerate(loaded):
        monkeypatch.setattr(each.clip, "fingerprint", lambda i=i: str(i))  # as if the two had different CLIPs
    monkeypatch.setattr(demo_answer, "load", lambda *_, **__: loaded.pop())
    with pytest.raises(UserError, match=r"none of its pictures can be read"):
        open_demo(2 * names, tmp_path, "cpu")


def test_pictures_that_claim_to_be_enormous_are_left_out(folder, tmp_path, caplog):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "good.png")
    content = bytearray((tmp_path / "good.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "huge.png").write_bytes(content)
    opened = open_demo([str(folder / "parallel")], tmp_path, "cpu")
    assert [path.name for path in opened.pictures] == ["good.png"]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "image huge.png: cannot be read: more than 179 million pixels; expected at most "
    )


def test_names_that_are_not_unicode_are_shown_escaped(folder, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "1.png")
    (tmp_path / "1.png").rename(tmp_path / "x\udcff.png")
    opened = open_demo([str(folder / "parallel")], tmp_path, "cpu")
    html = opened.answer(str(folder / "pictures/example.wav"))
    assert "x\\udcff.png" in html
    assert html.encode()  # no lone surrogates


def test_a_port_in_use_is_one_line_and_imports_no_torch():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
import sys
from click.testing import CliRunner
from sclip.cli import main

result = CliRunner().invoke(main, ["demo", "--port", "{port}"])
assert result.exit_code == 1, result.exception
assert result.output == "Error: port {port}: Address already in use; choose another one with --port\\n", result.output
assert not {{"torch", "transformers", "gradio"}} & set(sys.modules)
"""
        subprocess.run([sys.executable, "-c", code], check=True)


def test_the_demo_without_gradio_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = CliRunner().invoke(main, ["demo", "--port", str(port)])
    assert result.exit_code == 1
    assert result.output == "Error: the demo needs Gradio; run `make demo` in a clone of sclip, or pip install gradio\n"
