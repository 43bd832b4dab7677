"""Test the report's page in a browser: widths, colours, keyboard, search, and nothing from elsewhere."""

import json
import re
from pathlib import Path

import pytest
import yaml
from project import run_sclip

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
TEST_PICTURES, SCENES_PICTURES = 30, 500


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Run the stages with a small corpus and two training steps, and return the page."""
    folder = tmp_path_factory.mktemp("report")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["presets"]["scenes"]["corpus"]["pictures"] = {"train": 40, "dev": 8, "test": TEST_PICTURES}
    params["presets"]["scenes"]["training"] |= {"steps": 2, "warmup_steps": 1, "batch": 8, "dev_every": 2}
    params["presets"]["scenes"]["features"] |= {"components": 32, "compute": "fp32"}
    params["presets"]["scenes"]["arch"] = {name: {} for name in params["presets"]["scenes"]["arch"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "models").mkdir()
    for encoder in ("mini-hubert", "mini-clip"):
        (folder / "models" / encoder).symlink_to(ROOT / "models" / encoder)
    where = ("--params", str(folder / "params.yaml"))
    for command in ("make-corpus", "extract-features", "embed-clip"):
        run_sclip(command, *where)
    for arch in params["presets"]["scenes"]["arch"]:
        run_sclip("train", "--arch", arch, *where)
        run_sclip("evaluate", "--arch", arch, *where)
    run_sclip("report", *where)
    return folder / "results/scenes/report.html"


@pytest.fixture
def utterances(report) -> list[dict]:
    return json.loads(re.search(r'id="utterances">(.*?)</script>', report.read_text())[1])


@pytest.mark.parametrize("width", [1180, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_window_and_has_no_error(report, visit, width, scheme):
    visited = visit(report.as_uri(), width, color_scheme=scheme)
    page = visited.page
    page.wait_for_function("document.readyState == 'complete'")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    for _ in range(60):  # images load when they come into view
        page.mouse.wheel(0, 900)
    broken = "[...document.images].filter(image => image.complete && !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.locator("img").count() > 100
    assert not visited.outside
    assert not visited.errors


def test_page_stays_below_3_mb_with_the_utterances_of_scenes(report):
    text = report.read_text()
    growing = sum(len(re.search(rf'id="{name}">(.*?)</script>', text)[1]) for name in ("thumbnails", "utterances"))
    assert len(text.encode()) + growing * (SCENES_PICTURES / TEST_PICTURES - 1) < 3e6


def test_search_finds_words_of_captions_keywords_and_speakers(report, visit, utterances):
    page = visit(report.as_uri()).page
    arch = page.locator("input[name=arch]:checked").get_attribute("value")

    def found(query: str, field: str = "") -> list[str]:
        page.get_by_label("Words", exact=True).fill(query)
        page.get_by_label("in", exact=True).select_option(field)
        while page.locator("#more").is_visible():
            page.locator("#more").click()
        ids = [text.split(" · ")[0] for text in page.locator("#found .note").all_inner_texts()]
        assert page.locator("#count").inner_text() == f"{len(ids)} of {TEST_PICTURES} utterances"
        return ids

    assert found("") == [utterance["id"] for utterance in utterances]
    first = utterances[0]
    word = first["text"].split()[-1]
    by_caption = [u["id"] for u in utterances if any(w.startswith(word) for w in u["text"].split())]
    assert found(word.upper(), "caption") == by_caption
    assert 0 < len(by_caption) < TEST_PICTURES
    assert first["id"] in found(f"{word[:3]} {first['text'].split()[0]}", "caption")
    assert found("zzz") == []
    speaker = first["speaker"]
    assert found(speaker, "speaker") == [u["id"] for u in utterances if u["speaker"] == speaker]
    assert found(speaker, "caption") == []
    assert found(first["id"])[0] == first["id"]

    arch = "hybrid-cif"
    page.locator(".switch").get_by_text(arch, exact=True).click()
    keywords = {keyword for u in utterances for keyword in u["outputs"][arch]["keywords"] if keyword.isalpha()}
    for keyword in sorted(keywords)[:3]:
        expected = [
            u["id"] for u in utterances
            if any(w.lower().startswith(keyword.lower()) for k in u["outputs"][arch]["keywords"] for w in k.split())
        ]  # fmt: skip
        assert found(keyword, "keywords") == expected


def test_results_show_the_chosen_architecture_and_its_commands(report, visit, utterances):
    page = visit(report.as_uri()).page
    for arch in ("parallel", "hybrid-cif"):
        page.locator(".switch").get_by_text(arch, exact=True).click()
        page.locator("#query").fill(utterances[3]["id"])
        item = page.locator("#found > li")
        output = utterances[3]["outputs"][arch]
        assert f"Rank {output['rank']}" in item.inner_text()
        item.locator("summary").click()
        commands = item.locator("code").all_inner_texts()
        expected = [f"sclip search pictures.index {utterances[3]['audio']}"]
        if arch == "hybrid-cif":
            expected.append(f"sclip keywords {utterances[3]['audio']} --model models/scenes/hybrid-cif/seed-0")
        assert commands == expected
        shown = page.locator("#commands ~ dl:visible code").all_inner_texts()
        assert shown[0].endswith(f"--model models/scenes/{arch}/seed-0 --out pictures.index")


def test_page_is_usable_with_the_keyboard_alone(report, visit, utterances):
    page = visit(report.as_uri()).page

    def focused(expression: str):
        return page.evaluate(f"(element => {expression})(document.activeElement)")

    page.keyboard.press("Tab")
    assert focused("element.textContent") == "Skip to the results"
    assert focused("element.getBoundingClientRect().top >= 0")  # it has come into view
    page.keyboard.press("Enter")
    assert focused("element.id") == "main"
    seen, unmarked = set(), []
    for _ in range(400):
        page.keyboard.press("Tab")
        if focused("element === document.body"):
            break
        seen.add(focused("element.id || element.name || element.tagName"))
        style = focused(
            "[element, element.nextElementSibling].some(e => e && getComputedStyle(e).outlineStyle !== 'none')"
        )
        if not style:
            unmarked.append(focused("element.outerHTML.slice(0, 120)"))
    assert {"arch", "query", "field", "more", "SUMMARY", "AUDIO"} <= seen
    assert not unmarked

    page.locator("#query").focus()
    page.keyboard.type(utterances[0]["text"].split()[-1])
    assert page.locator("#count").inner_text() != f"{TEST_PICTURES} of {TEST_PICTURES} utterances"
    page.locator("input[name=arch]:checked").focus()
    before = page.locator("input[name=arch]:checked").get_attribute("value")
    page.keyboard.press("ArrowDown")
    after = page.locator("input[name=arch]:checked").get_attribute("value")
    assert after != before
    assert page.locator(f'.result[data-arch="{after}"]').first.is_visible()
    assert page.locator(f'.result[data-arch="{before}"]').first.is_hidden()


def test_more_results_take_the_focus_to_the_first_new_one(report, visit):
    page = visit(report.as_uri()).page
    assert page.locator("#found > li").count() == 20
    page.locator("#more").focus()
    page.keyboard.press("Enter")
    assert page.locator("#found > li").count() == TEST_PICTURES
    assert page.locator("#more").is_hidden()
    assert page.locator("#found > li").nth(20).locator("summary").evaluate("e => e === document.activeElement")


def test_examples_play_and_mark_their_words(report, visit):
    page = visit(report.as_uri()).page
    link = page.locator("#found a").first
    assert link.get_attribute("href") == "#example-1"
    audio = page.locator("#example-1 audio")
    audio.evaluate("audio => { audio.currentTime = 0; return audio.play(); }")
    page.wait_for_function("document.querySelectorAll('#example-1 .words li.now').length == 1")
    audio.evaluate("audio => audio.pause()")
