"""Names of files as they can be shown. A name may hold any byte, also those that control a terminal."""

import os


def printable(text: str) -> str:
    r"""Replace control characters, line breaks and bytes that are not UTF-8 by escapes such as \x1b."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def short_path(path: str) -> str:
    """Return a path below the current folder relative to it, and any other as it is."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
