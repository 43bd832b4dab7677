"""A page on this machine to try models with a voice: it finds pictures, and shows the keywords in time.

Gradio serves the page, to this machine alone. Nothing on it comes from elsewhere: no fonts, no scripts, no analytics.
Recordings lie in a temporary folder, which is removed at the end.
"""

import logging
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from jinja2 import Environment

from sclip.apps.demo_answer import Demo
from sclip.apps.serving import HOST, import_gradio
from sclip.encoders.audio import LONGEST_SECONDS
from sclip.errors import counted, printable
from sclip.report.page import templates
from sclip.report.utterances import picture_url

log = logging.getLogger(__name__)

MEGABYTES = 40  # of a recording: six minutes at 48 kHz, mono, 16 bits
WALL, WALL_PIXELS = 60, 64  # pictures at the top of the page, so that people know what they can describe


def serve(demo: Demo, port: int, in_browser: bool) -> None:
    """Serve the page until Ctrl-C or the signal TERM."""
    gradio = import_gradio()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="sclip-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = _page(gradio, demo)
        try:
            _, address, _ = page.launch(
                server_name=HOST,
                server_port=port,
                inbrowser=in_browser,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                max_file_size=MEGABYTES * 2**20,
                allowed_paths=[str(path.absolute()) for path in demo.examples],
                footer_links=[],
                head=_head(),
            )
            log.info(f"{address} shows {counted(len(demo.pictures), 'pictures')}; Ctrl-C stops it")
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def _page(gradio: Any, demo: Demo) -> Any:
    """Return the page: a recording goes in, and its answer comes out below."""
    with gradio.Blocks(title="sclip demo", analytics_enabled=False) as page:
        gradio.HTML(_introduction(demo), apply_default_css=False)
        recording = gradio.Audio(
            sources=["microphone", "upload"], type="filepath", label="A spoken caption", editable=False, buttons=[]
        )
        if demo.examples:
            gradio.Examples([str(path) for path in demo.examples], recording, label="Examples")
        answer = gradio.HTML(apply_default_css=False, elem_id="answer")
        recording.change(demo.answer, recording, answer, api_visibility="private", show_progress="minimal")
    return page


def _introduction(demo: Demo) -> str:
    pictures = [{"name": printable(file.name), "url": picture_url(file, WALL_PIXELS)} for file in demo.pictures[:WALL]]
    return (
        _templates()
        .get_template("demo_start.html")
        .render(pictures=pictures, count=len(demo.pictures), minutes=f"{LONGEST_SECONDS / 60:.0f}", megabytes=MEGABYTES)
    )


def _head() -> str:
    """Return the style and the script of the answers, for the head of Gradio's page."""
    own = _templates()
    colours, axis, answer, moving, script = (
        own.get_template(name).render()
        for name in ("colours.css", "timeline.css", "demo.css", "timeline.js", "demo.js")
    )
    return f"<style>{colours}.sclip {{{axis}{answer}}}</style><script>{moving}{script}</script>"


def _templates() -> Environment:
    return templates(Path(__file__).parent)
