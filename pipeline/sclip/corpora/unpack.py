"""Unpack archives, and refuse damaged ones.

All of a gzip and each member of a zip have a CRC. Python does not notice that the index of a zip omits members, but
each zip in archives.py has a checksum. Nor does it notice that a tar is cut off between two members, so that is checked
here.
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
        IndexError,
    ) as error:
        # zipfile raises RuntimeError for encrypted or unsupported members, and IndexError for those without a name.
        raise DamagedArchive(str(error)) from None


def _unpack_zip(path: Path, into: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        for member in tqdm(packed.infolist(), f"unpack {path.name}", disable=None):
            if not member.filename.startswith("__MACOSX/"):
                packed.extract(member, into)


def _unpack_tar(path: Path, into: Path, top_folder: str) -> None:
    is_gzip = path.suffix == ".gz"
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        stream = cast(IO[bytes], file)
        with tarfile.open(fileobj=stream, mode="r:") as packed:
            for entry in tqdm(packed, f"unpack {path.name}", disable=None):
                name = entry.name.removeprefix(f"{top_folder}/") if top_folder else entry.name
                if name != top_folder:
                    packed.extract(entry.replace(name=name), into, filter="data")
        if is_gzip:
            while stream.read(BLOCK):  # gzip checks the CRC only at the end of its data, after the last member
                pass
            return
        stream.seek(packed.offset)  # where tarfile found no more members; a tar ends with blocks of zeros
        if stream.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            raise tarfile.ReadError(f"no end of the archive after byte {packed.offset:,}; it is cut off or damaged")
