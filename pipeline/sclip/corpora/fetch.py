"""Download the published corpora into the folders that their readers in corpora/ read.

The sources of an archive (corpora/archives.py) are tried in order. An interrupted download resumes, also in another
process, unless the file on the host has changed. Each archive is checked, unpacked and removed; a small file in
FOLDER/fetched then marks it as done. A file that was put into FOLDER by hand is used instead of a download.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from sclip.corpora.archives import Archive
from sclip.corpora.unpack import DamagedArchive, unpack
from sclip.errors import UserError
from sclip.parsing import shortened

BLOCK = 1 << 20
ATTEMPTS = 5
RETRY_DELAY = 2.0  # seconds before the second attempt; doubles with each attempt


class _SourceFailed(Exception):
    """A source that does not give the archive; the next one may."""


class _ArchiveFailed(UserError):
    """An archive that no source gives; the others may be there."""


def fetch(archives: Iterable[Archive], folder: Path) -> Iterator[str]:
    """Download and unpack the archives that `folder` does not have yet. Yield one line about each archive.

    An archive that cannot be downloaded does not stop the others. The error at the end names all of them.
    """
    failures = []
    for archive in archives:
        done = folder / "fetched" / archive.name
        if done.is_file():
            yield f"{archive.name}: already {'unpacked' if archive.is_packed else 'there'}"
        elif not archive.sources:
            yield f"{archive.name} ({archive.part}): cannot be downloaded from here; {archive.by_hand}"
        else:
            done.parent.mkdir(parents=True, exist_ok=True)
            try:
                size, source = _fetch(archive, folder)
            except _ArchiveFailed as failure:
                failures.append(str(failure))
                continue
            done.write_text(f"{source}\n", encoding="utf-8")
            yield f"{archive.name}: {size / 1e6:,.1f} MB, {'unpacked' if archive.is_packed else 'complete'}"
    if failures:
        raise UserError("\n".join(failures))


def _fetch(archive: Archive, folder: Path) -> tuple[int, str]:
    """Get an archive from the first source that has it complete. Return its size and source."""
    path, failures = folder / archive.name, []
    if path.is_file():
        try:
            return _use(archive, path, folder), str(path)
        except _SourceFailed as failure:
            raise _ArchiveFailed(f"{path}: {failure}; remove it, and run the command again to download it") from None
    for source in archive.sources:
        try:
            _download(source, archive, path)
        except _SourceFailed as failure:
            failures.append(f"{source}: {failure}")
            continue
        try:
            return _use(archive, path, folder), source
        except _SourceFailed as failure:
            path.unlink()
            failures.append(f"{source}: {failure}; the file was removed")
    advice = f"Run the command again to resume or repeat the download, or {archive.by_hand}"
    raise _ArchiveFailed(f"{archive.name}: {'. '.join(failures)}. {advice}")


def _use(archive: Archive, path: Path, folder: Path) -> int:
    """Check a complete file, unpack or move it, and return its size."""
    size, into = path.stat().st_size, folder / archive.subfolder
    _check(archive, path, size)
    if not archive.is_packed:
        into.mkdir(parents=True, exist_ok=True)
        path.replace(into / archive.name)
        return size
    try:
        unpack(path, into, archive.top_folder)
    except DamagedArchive as error:
        raise _SourceFailed(f"cannot be unpacked: {error}") from None
    path.unlink()
    return size


def _check(archive: Archive, path: Path, size: int) -> None:
    if archive.size is not None and size != archive.size:
        raise _SourceFailed(f"expected {archive.size:,} bytes, found {size:,}")
    if archive.checksum is None:
        return
    kind, _, expected = archive.checksum.partition(":")
    empty = hashlib.md5() if kind == "md5" else hashlib.sha1(f"blob {size}\0".encode())  # of a git blob
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: empty).hexdigest()
    if found != expected:
        raise _SourceFailed(f"expected {kind} {expected}, found {found}")


def _download(source: str, archive: Archive, path: Path) -> None:
    part, delay = path.with_name(f"{path.name}.part"), RETRY_DELAY
    for attempt in range(ATTEMPTS):
        try:
            _resume(source, archive, part)
            part.rename(path)
            _version_file(part).unlink(missing_ok=True)  # last, because without it a complete part is downloaded again
            return
        except HTTPError as error:
            if error.code < 500:
                raise _SourceFailed(f"download failed: {error.code} {error.reason}") from None
            reason: Any = error
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            reason = error  # any other OSError comes from the disk, and a retry does not help
        if attempt < ATTEMPTS - 1:
            time.sleep(delay)
            delay *= 2
    raise _SourceFailed(f"download failed: {reason}")


def _resume(source: str, archive: Archive, part: Path) -> None:
    """Download the rest of a file, or all of it if the file has changed or the host does not support ranges."""
    version_file = _version_file(part)
    version = _version(version_file, source)
    start = part.stat().st_size if version and part.is_file() else 0
    response = _request(source, start, version)
    if response is None:  # the partial file was already complete
        return
    with response:
        length = _length(response.headers)
        if response.status == 206:
            _check_range(response.headers["Content-Range"], start, length, part)
        else:
            start = 0
            part.unlink(missing_ok=True)  # before the new version is written: a kill between the two must not mix them
        if archive.size is not None and start + length != archive.size:
            raise _SourceFailed(f"expected {archive.size:,} bytes, the host has {start + length:,}")
        _write_version(response.headers, version_file, source)
        free = shutil.disk_usage(part.parent).free
        if length > free:
            raise UserError(
                f"{archive.name}: needs {length / 1e9:.1f} GB more, but {part.parent} has {free / 1e9:.1f} GB free; "
                "free some space and run the command again"
            )
        _append(response, part, start, length)


def _request(url: str, start: int, version: str) -> Any:
    """Request the file from byte `start` on, or all of it if its version on the host is another one.

    Return None if the host says that no bytes are left.
    """
    headers = {"User-Agent": "sclip"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        return urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == 416 and start and error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return None
        raise


def _check_range(content_range: str | None, start: int, length: int, part: Path) -> None:
    expected = f"bytes {start}-{start + length - 1}/{start + length}"
    if content_range != expected:
        part.unlink(missing_ok=True)  # the next attempt then requests the complete file
        raise URLError(f"expected {expected}, found {content_range}")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _version(path: Path, source: str) -> str:
    """Return the version of a partial file, which is empty if it is not known or of another source."""
    if not path.is_file():
        return ""
    tag, _, written_source = path.read_text(encoding="utf-8").partition("\n")
    return tag if written_source == source else ""


def _write_version(headers: Message, version: Path, source: str) -> None:
    """Write the version that the host gives its file. A download without a version cannot be resumed."""
    tag = headers.get("ETag") or headers.get("Last-Modified")
    if tag:
        version.write_text(f"{tag}\n{source}", encoding="utf-8")
    else:
        version.unlink(missing_ok=True)


def _append(response: Any, part: Path, start: int, length: int) -> None:
    name = part.name.removesuffix(".part")
    bar = tqdm(None, name, start + length, initial=start, unit="B", unit_scale=True, disable=None)
    with bar, part.open("r+b" if start else "wb") as file:
        file.seek(start)
        received = 0
        while block := response.read(BLOCK):
            file.write(block)
            received += len(block)
            bar.update(len(block))
    if received != length:
        raise URLError(f"received {received:,} of {length:,} bytes")


def _length(headers: Message) -> int:
    """Return the number of bytes in the response."""
    text = headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise URLError(f"Content-Length: expected a number of bytes, found {shortened(text)}")
    return int(text)
