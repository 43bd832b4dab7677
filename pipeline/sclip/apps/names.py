"""Names of files as they are shown."""

import os


def short_path(path: str) -> str:
    """Return a path below the current folder relative to it, and any other as it is."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
