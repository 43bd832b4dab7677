"""Unpack archives, and refuse damaged ones, also those whose damage Python does not notice.

The readers of Python stop without an error where a damaged index of a zip skips members, or where a tar is cut off
between two members. So both are checked here. Members of a zip and all of a gzip have a CRC.
"""

import errno
import gzip
import os
import platform
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, cast

from tqdm.auto import tqdm

from sclip.errors import UserError
from sclip.files import UNFINISHED

BLOCK = 1 << 20
TAR_BLOCK = 512
MEMBER = b"PK\x03\x04"  # starts each member of a zip
MEMBER_HEADER = 30  # bytes before the member's name


class DamagedArchive(Exception):
    """An archive that cannot be unpacked, or not completely."""


def unpack(path: Path, into: Path, top_folder: str = "") -> None:
    """Extract all members of a .zip, .tar or .tar.gz, and overwrite files that are there.

    The members come into an unfinished folder first, so that a damaged archive leaves none of them.
    """
    if path.suffix != ".zip" and not hasattr(tarfile, "data_filter"):  # refuses devices, and members outside the folder
        found = platform.python_version()
        raise UserError(f"{path}: to unpack a tar safely needs Python 3.11.4, found {found}; run it with a newer one")
    unfinished = into / f"{path.name}{UNFINISHED}"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir(parents=True)
    try:
        _extract(path, unfinished, top_folder)
        _merge(unfinished, into)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _merge(source: Path, target: Path) -> None:
    """Move what is in one folder into another."""
    for entry in list(os.scandir(source)):
        place, is_folder = target / entry.name, entry.is_dir(follow_symlinks=False)
        if is_folder and place.is_dir():
            _merge(Path(entry), place)
            continue
        in_the_way = os.path.lexists(place) if is_folder else place.is_dir() and not place.is_symlink()
        if in_the_way:
            found, expected = ("a file", "a folder") if is_folder else ("a folder", "a file")
            raise UserError(
                f"{place}: found {found}, expected {expected} as in the archive; move it away, and run the command "
                "again"
            )
        if place.is_symlink():  # even one that leads to a folder is replaced, not followed
            place.unlink()
        shutil.move(entry, place)  # `place` may lead to another disk


def _extract(path: Path, into: Path, top_folder: str) -> None:
    """Extract the members, and raise the same error for everything that is wrong with an archive."""
    try:
        if path.suffix == ".zip":
            _unpack_zip(path, into)
        else:
            _unpack_tar(path, into, top_folder)
    except OSError as error:
        if error.filename is not None or error.errno not in (None, errno.EINVAL):
            raise  # from the disk
        raise DamagedArchive(str(error)) from None  # from gzip, or from zipfile for an offset outside the file
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        RuntimeError,
        ValueError,
        OverflowError,
    ) as error:
        # zipfile raises RuntimeError for encrypted or unsupported members.
        raise DamagedArchive(str(error)) from None


def _unpack_zip(path: Path, into: Path) -> None:
    with path.open("rb") as file, zipfile.ZipFile(file) as packed:
        _check_index(file, packed)
        for member in tqdm(packed.infolist(), f"unpack {path.name}", disable=None):
            if not member.filename.startswith("__MACOSX/"):
                packed.extract(member, into)


def _check_index(file: IO[bytes], packed: zipfile.ZipFile) -> None:
    """Raise an error if a member lies between those that the zip's index lists."""
    end, last = 0, "the start"
    members = sorted(packed.infolist(), key=lambda member: member.header_offset)
    if not all(member.filename for member in members):
        raise zipfile.BadZipFile("a member has no name")
    for start, name, size in (
        *((member.header_offset, member.filename, member.compress_size) for member in members),
        (packed.start_dir, "the index", 0),
    ):
        if _contains(file, end, start, MEMBER):
            raise zipfile.BadZipFile(f"its index leaves out a member between {last} and {name}")
        file.seek(start)
        header = file.read(MEMBER_HEADER)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        end, last = start + MEMBER_HEADER + names + size, name


def _contains(file: IO[bytes], start: int, end: int, signature: bytes) -> bool:
    """Return whether the signature is in these bytes of a file."""
    for place in range(start, end, BLOCK):
        file.seek(place)
        if signature in file.read(min(BLOCK + len(signature) - 1, end - place)):
            return True
    return False


class _LastBlock:
    """A file that remembers the last block that was read of it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.block = file, b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self.block = self.file.read(size)
        return self.block


def _unpack_tar(path: Path, into: Path, top_folder: str) -> None:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        stream = cast(IO[bytes], file)
        last = _LastBlock(stream)
        with tarfile.open(fileobj=cast(IO[bytes], last), mode="r:") as packed:
            for entry in tqdm(packed, f"unpack {path.name}", disable=None):
                name = entry.name.removeprefix(f"{top_folder}/") if top_folder else entry.name
                if name != top_folder:
                    packed.extract(entry.replace(name=name), into, filter="data")
            if last.block != bytes(TAR_BLOCK):
                raise tarfile.ReadError(f"no end of the archive after byte {packed.offset:,}; it is cut off or damaged")
        while stream.read(BLOCK):  # gzip checks the CRC only at the end of its data, after the last member
            pass
