"""The page of a search shows all results, needs nothing else, and runs nothing that a name contains."""

import re
import tempfile
import webbrowser
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from file_examples import write_pictures, write_recordings

import sclip
from sclip.apps.contact_sheet import contact_sheet
from sclip.cli import main


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def sources(self, tag: str) -> list[str]:
        return [attributes["src"] for name, attributes in self.elements if name == tag]


def test_the_page_shows_queries_and_results_and_escapes_them(folder, model):
    name = "a/<img src=x onerror=alert(1)>&'\".png"
    write_pictures(name, "a/2.png")
    write_recordings("<b>.wav")
    sclip.index("a", "index", model=model)
    rankings = sclip.search("index", ["<b>.wav"], text=["<script>alert(1)</script>"], image=["a/2.png"])
    page = Page(contact_sheet(rankings, folder / "page.html").read_text())
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "div", "ol", "li", "figure", "img",
        "audio", "figcaption", "b", "br", "span",
    }  # fmt: skip
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    for text in ("<script>alert(1)</script>", "<b>.wav", Path(name).name, "2.png"):
        assert text in page.text
    images, sounds = page.sources("img"), page.sources("audio")
    assert (len(images), len(sounds)) == (7, 1)  # two results for each query, and the picture that was searched for
    assert all(source.startswith("data:image/webp;base64,") for source in images)
    assert sounds[0].startswith("data:audio/flac;base64,")
    assert not re.findall(r"https?:|src=\"(?!data:)|@import|url\(", (folder / "page.html").read_text())


def test_recordings_can_be_played_and_files_that_are_gone_are_named(folder, model):
    write_recordings("b/1.wav", "b/2.wav")
    sclip.index("b", "index", model=model)
    rankings = sclip.search("index", text=["a dog"])
    Path("b/2.wav").unlink()
    page = Page(contact_sheet(rankings, folder / "page.html").read_text())
    assert len(page.sources("audio")) == 1
    assert "cannot be shown" in page.text
    assert "2.wav" in page.text


@pytest.mark.parametrize("browser", [True, False])
def test_open_shows_the_page_and_prints_where_it_is(folder, model, monkeypatch, browser):
    write_pictures("a/1.png")
    sclip.index("a", "index", model=model)
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or browser)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    result = CliRunner().invoke(main, ["search", "index", "--text", "a dog", "--open"])
    assert result.exit_code == 0, result.output
    page = Path(result.stderr.strip().split(": no browser")[0])
    assert ("no browser was found" in result.stderr) != browser
    assert opened == [page.as_uri()]
    assert "a dog" in page.read_text()
    assert result.stdout.endswith("a/1.png\n")
