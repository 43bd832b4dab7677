"""Mutations of the bytes of valid files, decided by a random generator alone."""

import random
import re
from collections.abc import Callable

NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"-0.0", b"1e308", b"99999999999999999999", b"2147483648", b"0x10", b"1_000")
TEXTS = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\\ud800",
    b"../../x",
    b"/etc/passwd",
    b"\x1b[2J",
    b"\xff\xfe",
    b"\r\n",
    b"\0",
)
BOMBS = (b"[" * 5000, b"{" * 5000, b'{"a":' * 3000, b"9" * 5000, b"a: &a [*a, *a]\n", b"\0" * 10_000, b"," * 5000)
PIECES = (b"1", b"a", b" ", b".", b'""', b"1e", b"_a", b"a b ", b"\xc3\xa9")
LONG = tuple(piece * (40_000 // len(piece)) for piece in PIECES)
WHOLE = (b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 8, b"\x80" * 4, (2**40).to_bytes(8, "little"), b"\x7f\xff\xff\xff")

Mutation = Callable[[bytes, random.Random], bytes]


def _place(data: bytes, choose: random.Random) -> int:
    """Return a place; half of them are in the first kilobyte, where binary files have their headers."""
    return choose.randrange((len(data) if choose.random() < 0.5 else min(1000, len(data))) + 1)


def flip(data: bytes, choose: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 4, 30)) if data else 0):
        changed[min(_place(data, choose), len(data) - 1)] ^= 1 << choose.randrange(8)
    return bytes(changed)


def cut(data: bytes, choose: random.Random) -> bytes:
    return data[: _place(data, choose)]


def remove(data: bytes, choose: random.Random) -> bytes:
    place = _place(data, choose)
    return data[:place] + data[place + choose.choice((1, 2, 8, 100)) :]


def repeat(data: bytes, choose: random.Random) -> bytes:
    place, size = _place(data, choose), choose.choice((1, 4, 50, 1000))
    return data[: place + size] + data[place:]


def insert(data: bytes, choose: random.Random) -> bytes:
    place = _place(data, choose)
    return data[:place] + choose.choice((*TEXTS, *NUMBERS, *BOMBS)) + data[place:]


def overwrite(data: bytes, choose: random.Random) -> bytes:
    place, value = _place(data, choose), choose.choice(WHOLE)
    return data[:place] + value + data[place + len(value) :]


def replace_number(data: bytes, choose: random.Random) -> bytes:
    """Replace a number that is written in digits."""
    return _replace(rb"-?\d+(\.\d+)?", NUMBERS, data, choose)


def replace_text(data: bytes, choose: random.Random) -> bytes:
    """Replace a text in quotation marks, a word or a line."""
    pattern = choose.choice((rb'"[^"\n]*"', rb"[A-Za-z_]+", rb"[^\n]*\n", rb"[,:\t]"))
    return _replace(pattern, (*TEXTS, *NUMBERS), data, choose)


def _replace(pattern: bytes, values: tuple[bytes, ...], data: bytes, choose: random.Random) -> bytes:
    start = _place(data, choose)
    match = re.search(pattern, data[start : start + 2000]) or re.search(pattern, data[:2000])
    if match is None:
        return flip(data, choose)
    first = start + match.start() if data[start + match.start() : start + match.end()] == match[0] else match.start()
    return data[:first] + choose.choice(values) + data[first + len(match[0]) :]


def replace_by_long_text(data: bytes, choose: random.Random) -> bytes:
    """Replace a text in quotation marks, a word or a number, to find readers whose time is not linear."""
    pattern = choose.choice((rb'(?<=")[^"\n]*(?=")', rb"[\w.+-]+"))
    return _replace(pattern, LONG, data, choose)


def swap_lines(data: bytes, choose: random.Random) -> bytes:
    lines = data.split(b"\n", 200)
    one, other = choose.randrange(len(lines)), choose.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, flip, cut, remove, repeat, insert, overwrite, replace_number, replace_number),
    *(replace_text, replace_text, replace_by_long_text, swap_lines),
)


def mutate(data: bytes, choose: random.Random) -> bytes:
    """Return a copy with one to four mutations, at most twice as long and some 100 kB."""
    for _ in range(choose.choice((1, 1, 1, 2, 4))):
        data = choose.choice(MUTATIONS)(data, choose)
    return data
