"""Start the command line: for `python -m sclip`, which torchrun starts, and for the script `sclip`."""

import sys

from sclip.startup import STOPPED, STOPPED_STATUS


def run() -> None:
    """Run a command. Ctrl-C ends it without a traceback, also while modules are imported."""
    try:
        from sclip.cli import main
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        sys.exit(STOPPED_STATUS)
    main()


if __name__ == "__main__":
    run()
