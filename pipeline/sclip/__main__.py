"""Start the command line: for `python -m sclip`, which torchrun starts, and for the script `sclip`."""

import sys


def run() -> None:
    """Run a command.

    If Ctrl-C arrives while modules are imported, the command ends without a traceback, as click ends it later.
    """
    try:
        from sclip.cli import main
    except KeyboardInterrupt:
        print("\nAborted!", file=sys.stderr)
        sys.exit(1)
    main()


if __name__ == "__main__":
    run()
