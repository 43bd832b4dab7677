"""Test the demo's page in a browser: a recording goes in, and pictures and keywords come out."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sclip

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/scenes-hybrid-cif"
PATIENCE = 60_000  # milliseconds; no test waits this long when all is well


class Server:
    """A demo that runs as a process of its own."""

    def __init__(self, folder: Path, *options: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address, self.outside = f"http://127.0.0.1:{self.port}", folder / "outside.txt"
        self.uploads = folder / "tmp"
        self.uploads.mkdir()
        self.log = folder / "log.txt"
        command = [sys.executable, str(Path(__file__).with_name("guarded.py")), "demo", "--port", str(self.port)]
        environment = os.environ | {"OUTSIDE": str(self.outside), "TMPDIR": str(self.uploads)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stderr=log, stdout=log)
        while "Ctrl-C stops it" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def stop(self, how: int = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def caption(rows):
    """Return the row whose picture the shipped model finds with the largest margin, by the keywords."""
    model = sclip.load(MODEL)
    images = model.encode_image([row.image for row in rows])
    scores = model.encode_speech([row.audio for row in rows], branch="cascaded") @ images.T
    best = scores.topk(2)
    correct = best.indices[:, 0] == torch.arange(len(rows))
    return rows[int((best.values.diff(dim=1)[:, 0].neg() * correct).argmax())]


@pytest.fixture(scope="module")
def pictures(rows, caption, tmp_path_factory):
    """Return a folder with the pictures and one recording, which the page offers as an example."""
    folder = tmp_path_factory.mktemp("pictures")
    for row in rows:
        shutil.copy(row.image, folder)
    samples, rate = soundfile.read(caption.audio)
    soundfile.write(folder / "caption.wav", samples, rate)
    return folder


@pytest.fixture(scope="module")
def server(pictures, tmp_path_factory):
    """Run a demo of two models: the shipped one and a copy."""
    folder = tmp_path_factory.mktemp("server")
    sclip.load(MODEL).save(folder / "copy")
    running = Server(folder, "--images", str(pictures), "--model", str(MODEL), "--model", str(folder / "copy"))
    yield running
    running.stop()


def upload(page, file) -> None:
    page.get_by_label("Upload file").click()
    page.locator("input[type=file]").set_input_files(file)


def answers(page):
    """Wait for the answer, and return its part for each model."""
    page.locator("#answer .pictures img").first.wait_for(timeout=PATIENCE)
    return page.locator("#answer section").all()


def check_answer(page, caption) -> None:
    """The right picture comes first for each model, and keywords of the caption appear."""
    parts = answers(page)
    assert len(parts) == 2
    for part in parts:
        first = part.locator(".pictures").first.locator("img").first
        assert first.get_attribute("alt") == f"Picture {caption.image.name}"
        keywords = {re.sub(r"[\d.\s]", "", text) for text in part.locator(".slots .token").all_inner_texts()}
        assert len(keywords & set(caption.text.split())) >= 2
        assert part.locator(".fired").count() >= 2


def test_a_wav_finds_its_picture_and_its_keywords(server, visit, caption, pictures):
    visited = visit(server.address)
    upload(visited.page, pictures / "caption.wav")
    check_answer(visited.page, caption)
    assert not visited.outside
    assert not visited.errors


def test_an_example_is_chosen_with_the_keyboard(server, visit, caption):
    page = visit(server.address).page
    page.get_by_role("button", name="caption.wav").focus()
    page.keyboard.press("Enter")
    check_answer(page, caption)


def test_the_microphone_records(server, visit):
    visited = visit(server.address, permissions=["microphone"])
    visited.page.get_by_role("button", name="Record", exact=True).click()
    visited.page.wait_for_timeout(1500)
    visited.page.get_by_role("button", name="Stop").first.click()
    assert len(answers(visited.page)) == 2
    seconds = visited.page.locator("#answer audio").evaluate("audio => audio.duration")
    assert 0.5 < seconds < 10
    assert not visited.outside


def test_keywords_appear_while_the_recording_plays(server, visit, pictures):
    page = visit(server.address).page
    upload(page, pictures / "caption.wav")
    answers(page)
    audio, later = page.locator("#answer audio"), page.locator("#answer section:first-child .slots li.later")
    assert later.count() == 0
    audio.evaluate("audio => { audio.currentTime = 0.3; return audio.play(); }")
    page.wait_for_function("document.querySelectorAll('#answer .slots li.later').length > 0", timeout=PATIENCE)
    page.wait_for_function("document.querySelector('#answer audio').ended", timeout=PATIENCE)
    page.wait_for_function("document.querySelectorAll('#answer .slots li.later').length == 0", timeout=PATIENCE)


def test_a_click_on_the_time_axis_seeks(server, visit, pictures):
    page = visit(server.address).page
    upload(page, pictures / "caption.wav")
    answers(page)
    page.wait_for_function("document.querySelector('#answer audio').duration > 0", timeout=PATIENCE)
    box = page.locator("#answer .timeline").first.bounding_box()
    page.locator("#answer .signal").first.click(position={"x": box["width"] / 2, "y": 10})
    share = page.locator("#answer audio").evaluate("audio => audio.currentTime / audio.duration")
    assert share == pytest.approx(0.5, abs=0.02)


def test_mistakes_are_one_line_in_the_page_which_goes_on_working(server, visit, caption, pictures, tmp_path):
    page = visit(server.address).page
    (tmp_path / "text.wav").write_text("hello " * 100)
    upload(page, tmp_path / "text.wav")
    alert = page.locator("#answer [role=alert]")
    alert.wait_for(timeout=PATIENCE)
    assert alert.inner_text().startswith("audio text.wav: cannot be read: ")
    page.get_by_role("button", name="caption.wav").click()
    check_answer(page, caption)


def test_a_file_of_500_mb_is_refused(server, visit, tmp_path):
    with (tmp_path / "big.wav").open("wb") as file:
        file.truncate(500_000_000)
    page = visit(server.address).page
    assert "40 MB" in page.locator(".sclip").first.inner_text()
    upload(page, tmp_path / "big.wav")
    toast = page.get_by_text("exceed the maximum allowed size of 40")
    toast.wait_for(timeout=PATIENCE)
    assert page.locator("#answer section").count() == 0
    assert not [path for path in server.uploads.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]


def test_the_server_refuses_a_large_file_too(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        length = len(head) + 41 * 2**20
        request = "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x"
        connection.sendall(f"{request}\r\nContent-Length: {length}\r\n\r\n".encode() + head)
        try:
            for _ in range(41):
                connection.sendall(bytes(2**20))
        except ConnectionError:  # the server has closed the connection before the end
            pass
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_closed_browser_stops_nothing(server, visit, caption, pictures, tmp_path):
    noise = np.random.default_rng(0).normal(size=16_000 * 60) / 10
    soundfile.write(tmp_path / "minute.wav", noise, 16_000)
    visited = visit(server.address)
    with visited.page.expect_request("**/gradio_api/queue/join*"):
        upload(visited.page, tmp_path / "minute.wav")
    visited.page.close()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # closed in the middle of an upload
        connection.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n--x")
    page = visit(server.address).page
    upload(page, pictures / "caption.wav")
    check_answer(page, caption)
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


def test_the_page_fits_a_narrow_window(server, visit, pictures):
    for scheme in ("light", "dark"):
        page = visit(server.address, 390, color_scheme=scheme).page
        upload(page, pictures / "caption.wav")
        answers(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_is_served_to_this_machine_alone(server):
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, server.port), timeout=5)


def test_a_port_in_use_is_one_line(server):
    command = [sys.executable, "-m", "sclip", "demo", "--port", str(server.port)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"Error: port {server.port}: Address already in use; choose another one with --port\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_end_leaves_nothing_and_no_connection_led_outside(pictures, tmp_path, visit, how):
    running = Server(tmp_path, "--images", str(pictures))
    page = visit(running.address).page
    upload(page, pictures / "caption.wav")
    answers(page)
    assert list(running.uploads.glob("sclip-demo-*"))
    assert running.stop(how) == 0
    assert not list(running.uploads.glob("sclip-demo-*"))
    assert not running.outside.exists()
    lines = running.log.read_text().splitlines()
    assert lines == [f"{running.address}/ shows 24 pictures; Ctrl-C stops it"]


def test_the_shipped_examples_find_their_pictures(tmp_path, visit):
    running = Server(tmp_path)
    page = visit(running.address).page
    for name, picture in (("mushroom", "00027"), ("pumpkins", "00030"), ("dog", "00035")):
        page.get_by_role("button", name=f"{name}.wav").click()
        page.locator(f"#answer audio[aria-label*={name}]").wait_for(timeout=PATIENCE)
        for ranking in page.locator("#answer .pictures").all():
            assert ranking.locator("img").first.get_attribute("alt") == f"Picture {picture}.png"
    assert page.locator("#answer .token").filter(has_text="green").count() > 0
    running.stop()


def test_no_connection_of_the_server_led_outside(server):
    assert not server.outside.exists()  # after all that the tests above did
