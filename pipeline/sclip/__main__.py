"""Start the command line: for `python -m sclip`, which torchrun starts, and for the script `sclip`."""

import sys


def run() -> None:
    """Run a command. Ctrl-C while its modules are imported ends it as click does later, without a traceback."""
    try:
        from sclip.cli import main
    except KeyboardInterrupt:
        print("\nAborted!", file=sys.stderr)
        sys.exit(1)
    main()


if __name__ == "__main__":
    run()
