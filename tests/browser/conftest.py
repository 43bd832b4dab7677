"""A browser without a network, and a corpus whose pictures the shipped model finds. `make test-browser` runs this."""

import shutil
from dataclasses import dataclass, field

import pytest

from sclip.config import ScenesConfig, Splits
from sclip.corpora.make import make_corpus
from sclip.corpora.manifest import read_manifest
from sclip.errors import Problems

PICTURES = 24
LOCAL = ("http://127.0.0.1:", "file:", "data:", "blob:")


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Write pictures and captions of things that the shipped model knows, in voices that it does not."""
    manifest = tmp_path_factory.mktemp("corpus") / "scenes/manifest.jsonl"
    manifest.parent.mkdir()
    make_corpus(
        ScenesConfig("scenes", 99, Splits(1, 1, PICTURES), Splits(1, 1, 1), Splits(1, 1, 3), nouns=60),
        manifest,
        Problems(),
    )
    return [row for row in read_manifest(manifest, Problems()) if row.split == "test"]


@pytest.fixture(scope="session")
def chromium():
    """Start Debian's Chromium, or the one that Playwright downloads. Its microphone is a beep."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and what went on while it was open."""

    page: object
    outside: list[str] = field(default_factory=list)  # requests to other machines
    errors: list[str] = field(default_factory=list)  # of the console and of scripts


@pytest.fixture
def visit(chromium):
    """Return a function that opens an address in a window of its own, where other machines cannot be reached."""
    contexts = []

    def open_page(address: str, width: int = 1180, **options) -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        found = Visit(context.new_page())

        def confine(route):
            if route.request.url.startswith(LOCAL):
                return route.continue_()
            found.outside.append(route.request.url)
            return route.abort()

        context.route("**/*", confine)
        found.page.on("console", lambda line: found.errors.append(line.text) if line.type == "error" else None)
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.goto(address)
        return found

    yield open_page
    for context in contexts:
        context.close()
