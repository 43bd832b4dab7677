"""Run sclip with its connections confined to this machine. Each attempt to leave it is a line in $OUTSIDE."""

import os
import socket
import sys
from pathlib import Path

LOCAL = {"127.0.0.1", "::1", "localhost", None}
_connect, _getaddrinfo = socket.socket.connect, socket.getaddrinfo


def _check(host: str | None) -> None:
    if host not in LOCAL:
        with Path(os.environ["OUTSIDE"]).open("a") as file:
            print(host, file=file)
        raise OSError(f"a test confines connections to this machine, and this one leads to {host}")


def connect(self, address):
    if isinstance(address, tuple):
        _check(address[0])
    return _connect(self, address)


def getaddrinfo(host, *arguments, **options):
    _check(host)
    return _getaddrinfo(host, *arguments, **options)


socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo

if __name__ == "__main__":
    from sclip.cli import main

    main(sys.argv[1:])
