"""Start the command line: for `python -m sclip`, which torchrun starts, and for the script `sclip`."""

import sys
from io import TextIOWrapper

from sclip.startup import end_where_ctrl_c_is_dropped


def run() -> None:
    """Run a command. Ctrl-C ends it without a traceback, also while modules are imported."""
    end_where_ctrl_c_is_dropped()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None if it is closed
            stream.reconfigure(errors="backslashreplace")  # for names that a terminal's encoding does not have
    from sclip.cli import main

    main()


if __name__ == "__main__":
    run()
