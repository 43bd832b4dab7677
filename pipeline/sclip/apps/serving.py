"""Check what the demo needs before the models are loaded. This module imports nothing that takes time."""

import os
import socket
from typing import Any

from sclip.errors import UserError

HOST = "127.0.0.1"


def check_port(port: int) -> None:
    """Raise an error if the port cannot be used, before anything is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed may be used again
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another one with --port") from None


def import_gradio() -> Any:
    """Import Gradio with its analytics off. Gradio reads the variable when it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise UserError("the demo needs Gradio; run `make demo` in a clone of sclip, or pip install gradio") from None
    return gradio
