"""Download the published corpora into the folders that corpora/flickr8k.py and corpora/spokencoco.py read.

An interrupted download resumes, also in another process, unless the file on the host has changed. Each archive is
checked, unpacked and removed; a small file in FOLDER/fetched then marks it as done.
"""

import errno
import gzip
import hashlib
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from sclip.errors import UserError
from sclip.parsing import shortened

BLOCK = 1 << 20
ATTEMPTS = 5
RETRY_ADVICE = "the archive was removed, run the command again to download it"
RETRY_DELAY = 2.0  # seconds before the second attempt; doubles with each attempt


@dataclass(frozen=True)
class Archive:
    url: str
    alternative: str  # where to get the file if the host is gone
    subfolder: str = ""  # of the corpus folder
    top_folder: str = ""  # top-level folder of the archive, which unpacking omits
    md5: str | None = None  # if published

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


FLICKR8K_FORM = "its authors' form, https://forms.illinois.edu/sec/1713398"
FLICKR_AUDIO = "https://groups.csail.mit.edu/sls/downloads/flickraudio/"
PLACES_AUDIO = "https://groups.csail.mit.edu/sls/downloads/placesaudio/"
COCO = "https://cocodataset.org/#download"
COPY = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"  # the original host is gone
ARCHIVES = {
    "flickr8k": [
        Archive(f"{COPY}/Flickr8k_text.zip", FLICKR8K_FORM),
        Archive(f"{COPY}/Flickr8k_Dataset.zip", FLICKR8K_FORM),
        Archive(f"{FLICKR_AUDIO}downloads/flickr_audio.tar.gz", FLICKR_AUDIO, md5="9d078f1f150c26e864aa64d1d733779a"),
    ],
    "spokencoco": [
        Archive("https://data.csail.mit.edu/placesaudio/SpokenCOCO.tar.gz", PLACES_AUDIO),
        Archive(
            "https://huggingface.co/speechclip/models/resolve/main/ksplit.tar.gz",
            "https://huggingface.co/speechclip/models",
            subfolder="SpokenCOCO",
            top_folder="ksplit",
        ),
        Archive(
            "http://images.cocodataset.org/zips/val2014.zip",
            COCO,
            subfolder="mscoco_img",
            md5="a3d79f5ed8d289b7a7554ce06a5782b3",
        ),
        Archive(
            "http://images.cocodataset.org/zips/train2014.zip",
            COCO,
            subfolder="mscoco_img",
            md5="0da8c0bd3d6becc4dcb32757491aca88",
        ),
    ],
}


def fetch(archives: list[Archive], folder: Path) -> Iterator[str]:
    """Download and unpack the archives that `folder` does not have yet. Yield one line about each archive."""
    for archive in archives:
        done = folder / "fetched" / archive.name
        if done.is_file():
            yield f"{archive.name}: already unpacked"
            continue
        done.parent.mkdir(parents=True, exist_ok=True)
        path = _download(archive, folder)
        size = path.stat().st_size
        _check(archive, path)
        _unpack(archive, path, folder / archive.subfolder)
        done.write_text(f"{archive.url}\n", encoding="utf-8")
        path.unlink()
        yield f"{archive.name}: {size / 1e6:,.0f} MB, unpacked"


def _download(archive: Archive, folder: Path) -> Path:
    path, part, delay = folder / archive.name, folder / f"{archive.name}.part", RETRY_DELAY
    if path.is_file():
        return path
    for attempt in range(ATTEMPTS):
        try:
            _resume(archive, part)
            return part.rename(path)
        except HTTPError as error:
            if error.code < 500:
                raise UserError(_failure(archive, f"{error.code} {error.reason}")) from None
            reason: Any = error
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            reason = error  # any other OSError comes from the disk, and a retry does not help
        if attempt < ATTEMPTS - 1:
            time.sleep(delay)
            delay *= 2
    raise UserError(_failure(archive, str(reason)))


def _failure(archive: Archive, reason: str) -> str:
    advice = f"Run the command again to resume the download, or get the file from {archive.alternative}"
    return f"{archive.url}: download failed: {reason}. {advice}"


def _resume(archive: Archive, part: Path) -> None:
    """Download the rest of a file, or all of it if the file has changed or the host does not support ranges."""
    version = part.with_name(part.name + ".version")
    start = part.stat().st_size if part.is_file() and version.is_file() else 0
    response = _request(archive.url, start, version)
    if response is None:  # the partial file was already complete
        return
    with response:
        length = _length(response.headers)
        if response.status == 206:
            _check_range(response.headers["Content-Range"], start, length, part)
        else:
            start = 0
            part.unlink(missing_ok=True)  # before the new version is written: a kill between the two must not mix them
        _write_version(response.headers, version)
        free = shutil.disk_usage(part.parent).free
        if length > free:
            raise UserError(
                f"{archive.name}: needs {length / 1e9:.1f} GB more, but {part.parent} has {free / 1e9:.1f} GB free; "
                "free some space and run the command again"
            )
        _append(response, part, start, length)
    version.unlink(missing_ok=True)


def _request(url: str, start: int, version: Path) -> Any:
    """Request the file from byte `start` on. Return None if the host says that no bytes are left."""
    headers = {"User-Agent": "sclip"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version.read_text(encoding="utf-8")}
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


def _write_version(headers: Message, version: Path) -> None:
    """Write the version that the host gives its file. A download without a version cannot be resumed."""
    tag = headers.get("ETag") or headers.get("Last-Modified")
    if tag:
        version.write_text(tag, encoding="utf-8")
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


def _check(archive: Archive, path: Path) -> None:
    if archive.md5 is None:
        return
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != archive.md5:
        path.unlink()
        raise UserError(f"{archive.name}: expected MD5 {archive.md5}, found {md5}; {RETRY_ADVICE}")


def _unpack(archive: Archive, path: Path, into: Path) -> None:
    """Extract all members, and overwrite the files of an interrupted run. Remove a damaged archive."""
    into.mkdir(parents=True, exist_ok=True)
    extract = _extract_zip if archive.name.endswith(".zip") else _extract_tar
    try:
        extract(archive, path, into)
        return
    except OSError as error:
        if error.filename is not None or error.errno not in (None, errno.EINVAL):
            raise  # from the disk
        reason = str(error)  # from gzip, or from zipfile for an offset outside the file
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, UnicodeError) as error:
        reason = str(error)  # zipfile raises RuntimeError for encrypted or unsupported members
    path.unlink()
    raise UserError(f"{archive.name}: cannot be unpacked: {reason}; {RETRY_ADVICE}")


def _extract_zip(archive: Archive, path: Path, into: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        for member in tqdm(packed.infolist(), f"unpack {archive.name}", disable=None):
            if not member.filename.startswith("__MACOSX/"):
                packed.extract(member, into)


def _extract_tar(archive: Archive, path: Path, into: Path) -> None:
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
        for entry in tqdm(packed, f"unpack {archive.name}", disable=None):
            name = entry.name.removeprefix(f"{archive.top_folder}/") if archive.top_folder else entry.name
            if name != archive.top_folder:
                packed.extract(entry.replace(name=name), into, filter="data")
        while stream.read(BLOCK):  # gzip checks the CRC only at the end of its data, after the last member
            pass
