"""Atomic writes, digests and locks: a file or folder is complete and on the disk, or not there, whenever a writer dies.

What is being written has a temporary name; the last step renames it.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sclip.errors import UserError

UNFINISHED = ".unfinished"
SPECIAL = "a pipe or a device, not a file"
EMPTY = "is empty (0 bytes)"
# The errors of a path itself: there is no such file, it is a folder, it may not be read, or its name is impossible.
_OF_A_PATH = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
}


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the place to write a file to, and move it to `path` when it is written. After an error, nothing is left."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with name_in_errors(path):
            yield unfinished
            flush_to_disk(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write into, and move it to `path` when it is written, in place of an older folder.

    If `path` is a link, for example to a larger disk, the link stays, and the folder that it leads to is replaced.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    unfinished, replaced = (path.with_name(path.name + ending) for ending in (UNFINISHED, ".replaced"))
    for leftover in (unfinished, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with name_in_errors(path):
        yield unfinished
        for folder, _, names in os.walk(unfinished):
            for name in (*names, "."):
                flush_to_disk(Path(folder, name))
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    flush_to_disk(path.parent)  # the new name
    shutil.rmtree(replaced, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed writer left in a folder."""
    for leftover in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def flush_to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raise_if_system_error(path: Path, error: Exception) -> None:
    """Raise an error of the machine, such as that of a disk or of too many open files: the file is not the cause.

    Whoever skips files that cannot be read calls this first. Otherwise a fault of the disk would drop good files.
    """
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_A_PATH:
        raise OSError(error.errno, error.strerror, str(path)) from None


def is_special(path: Path) -> bool:
    """Return whether a pipe or a device is in place of a file. Reading one may never end."""
    # Unlike those of Path, these functions take a name that is too long for a file.
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def missing_file_reason(path: str | Path, expected: str = "file") -> str:
    """Return why there is no file to read at a path, as the end of an error."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):  # as a Path, https://a is https:/a
        return "URLs are not read; download the file first, and give its path"
    if os.path.isdir(path):
        return "is a folder; expected a file"
    if is_special(Path(path)):
        return SPECIAL
    twin = _unicode_twin(Path(path))
    if twin is None:
        return f"no such {expected}"
    return f"no such {expected}; one whose name differs only in its Unicode form exists ({twin!a}); rename it"


def _unicode_twin(path: Path) -> str | None:
    """Return the name of the file, or of a folder around it, that exists and looks the same as the one in the path.

    macOS writes é as e and an accent (NFD), most programs as one letter.
    """
    if str(path).isascii():
        return None
    forms = [
        (unicodedata.normalize(form, str(path)), unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD")
    ]
    candidates = [candidate for whole, name in forms for candidate in (path.with_name(name), Path(whole))]
    twin = next((candidate for candidate in candidates if os.path.exists(candidate)), path)
    return next((name for name, given in zip(twin.parts, path.parts, strict=True) if name != given), None)


def refuse_special_files(folder: Path) -> None:
    """Refuse a folder in which a pipe or a device, or a link to one, is in place of a file."""
    for path in folder.iterdir():
        if is_special(path):
            raise UserError(f"{path}: {SPECIAL}")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, and refuse a pipe or a device."""
    if is_special(path):
        raise OSError(errno.EINVAL, SPECIAL, str(path))
    return path.read_bytes()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    if is_special(path):
        raise UserError(f"{path}: {SPECIAL}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: {missing_file_reason(path)}") from None
    except OSError as error:
        raise_if_system_error(path, error)
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def check_digest(path: Path, expected: str | None, index: str, advice: str = "") -> None:
    """Refuse a file whose SHA-256 is not the one in `index`, a file in the same folder. `advice` says what to do."""
    try:
        if file_digest(path) != expected:
            raise UserError(f"{path}: its SHA-256 is not the one in {index}; the file is damaged or was replaced")
    except UserError as error:
        raise UserError(f"{error}; {advice}" if advice else str(error)) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands from writing to a folder. The lock ends with the process that holds it.

    File systems that machines share often have no locks; there this has no effect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another command is writing there; wait until it has ended") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Add `path` to an error that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def walk_folder(folder: str) -> Iterator[str]:
    """Yield the files below a folder in the order of their names, through links to other folders."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None

    entered = set[tuple[int, int]]()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:  # a link to a folder around it
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(names) if not name.startswith("."))
