"""The command that serves the demo."""

from pathlib import Path

import click

from sclip.cli.options import SHIPPED_MODEL, device_option, model_option


@click.command("demo", short_help="Try models with a microphone, in the browser.")
@model_option(multiple=True, default=[SHIPPED_MODEL], more=" May be repeated: all models answer the same recording.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    default=Path("data/examples"),
    show_default=True,
    help="The folder of the pictures to search. Recordings in it are offered as examples.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port on 127.0.0.1.")
@click.option("--open", "in_browser", is_flag=True, help="Open the page in the browser.")
@device_option
def demo(model: tuple[str, ...], images: Path, port: int, in_browser: bool, device: str) -> None:
    """Try models with a microphone, on a page in the browser.

    The page shows the pictures that a spoken caption finds, and the keywords in time. It is served to this machine
    alone, and needs no network. It needs Gradio, which `make demo` in a clone of sclip installs.
    """
    from sclip.apps.serving import check_port, import_gradio

    check_port(port)
    import_gradio()
    from sclip.apps.demo import serve
    from sclip.apps.demo_answer import open_demo
    from sclip.device import choose_device

    serve(open_demo(model, images, choose_device(device)), port, in_browser)
