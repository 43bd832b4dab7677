"""The published corpora from their own hosts, laid out as corpora/flickr8k.py and corpora/spokencoco.py read them.

A download goes on where it stopped, also in another process, unless the file has changed meanwhile. An archive is
checked, unpacked and removed; a small file in DIR/fetched says which are done.
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
from sclip.parsing import shown

BLOCK = 1 << 20
ATTEMPTS = 5
PATIENCE = 2.0  # seconds before the second attempt, doubled for each that follows


@dataclass(frozen=True)
class Archive:
    url: str
    ask: str  # who has it when its host is gone
    into: str = ""  # a folder below the corpus's
    outermost: str = ""  # a folder of the archive's to leave out
    md5: str | None = None  # where somebody published it

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name


FLICKR8K_FORM = "its authors' form, https://forms.illinois.edu/sec/1713398"
FLICKR_AUDIO = "https://groups.csail.mit.edu/sls/downloads/flickraudio/"
PLACES_AUDIO = "https://groups.csail.mit.edu/sls/downloads/placesaudio/"
COCO = "https://cocodataset.org/#download"
COPY = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"  # its own host is gone
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
            into="SpokenCOCO",
            outermost="ksplit",
        ),
        Archive(
            "http://images.cocodataset.org/zips/val2014.zip",
            COCO,
            into="mscoco_img",
            md5="a3d79f5ed8d289b7a7554ce06a5782b3",
        ),
        Archive(
            "http://images.cocodataset.org/zips/train2014.zip",
            COCO,
            into="mscoco_img",
            md5="0da8c0bd3d6becc4dcb32757491aca88",
        ),
    ],
}


def fetch(archives: list[Archive], folder: Path) -> Iterator[str]:
    """Says what was done of each."""
    for archive in archives:
        done = folder / "fetched" / archive.name
        if done.is_file():
            yield f"{archive.name}: there already"
            continue
        done.parent.mkdir(parents=True, exist_ok=True)
        path = _download(archive, folder)
        size = path.stat().st_size
        _check(archive, path)
        _unpack(archive, path, folder / archive.into)
        done.write_text(f"{archive.url}\n", encoding="utf-8")
        path.unlink()
        yield f"{archive.name}: {size / 1e6:,.0f} MB, unpacked"


def _download(archive: Archive, folder: Path) -> Path:
    whole, part, patience = folder / archive.name, folder / f"{archive.name}.part", PATIENCE
    if whole.is_file():
        return whole
    for attempt in range(ATTEMPTS):
        try:
            _go_on(archive, part)
            return part.rename(whole)
        except HTTPError as error:
            if error.code < 500:
                raise UserError(_gone(archive, f"{error.code} {error.reason}")) from None
            reason: Any = error
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            reason = error  # any other OSError is the disk's
        if attempt < ATTEMPTS - 1:
            time.sleep(patience)
            patience *= 2
    raise UserError(_gone(archive, str(reason)))


def _gone(archive: Archive, reason: str) -> str:
    return f"{archive.url}: cannot be had: {reason}. What came of it stays, to go on from. Otherwise ask {archive.ask}"


def _go_on(archive: Archive, part: Path) -> None:
    """The rest of a file, or, where it has changed or the host gives no parts, all of it."""
    version = part.with_name(part.name + ".version")
    headers = {"User-Agent": "sclip"}
    start = part.stat().st_size if part.is_file() and version.is_file() else 0
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version.read_text(encoding="utf-8")}
    try:
        response = urlopen(Request(archive.url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == 416 and start and error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return  # it was whole
        raise
    with response:
        length = _length(response.headers)
        rest = f"bytes {start}-{start + length - 1}/{start + length}"
        if response.status == 206 and response.headers["Content-Range"] != rest:
            part.unlink(missing_ok=True)  # a host that answers so is asked for the whole file
            raise URLError(f"expected {rest}, found {response.headers['Content-Range']}")
        if response.status != 206:
            start = 0
            part.unlink(missing_ok=True)  # before its new version is told, should this be killed in between
        named = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if named:
            version.write_text(named, encoding="utf-8")
        else:
            version.unlink(missing_ok=True)
        free = shutil.disk_usage(part.parent).free
        if length > free:
            raise UserError(
                f"{archive.name}: {length / 1e9:.1f} GB more, and {free / 1e9:.1f} GB free at {part.parent}"
            )
        bar = tqdm(None, archive.name, start + length, initial=start, unit="B", unit_scale=True, disable=None)
        with bar, part.open("r+b" if start else "wb") as file:
            file.seek(start)
            got = 0
            while block := response.read(BLOCK):
                file.write(block)
                got += len(block)
                bar.update(len(block))
        if got != length:
            raise URLError(f"{got:,} bytes of {length:,}")
    version.unlink(missing_ok=True)


def _length(headers: Message) -> int:
    """Return how many bytes the host is about to send."""
    text = headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", text):
        raise URLError(f"Content-Length: expected a number of bytes, found {shown(text)}")
    return int(text)


def _check(archive: Archive, path: Path) -> None:
    if archive.md5 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != archive.md5:
        path.unlink()
        raise UserError(f"{archive.name}: expected MD5 {archive.md5}, found {found}; removed, start again")


def _unpack(archive: Archive, path: Path, into: Path) -> None:
    """Extract all members, over what an interrupted unpacking left. Remove an archive that is damaged."""
    into.mkdir(parents=True, exist_ok=True)
    extract = _extract_zip if archive.name.endswith(".zip") else _extract_tar
    try:
        extract(archive, path, into)
        return
    except OSError as error:
        if error.filename is not None or error.errno not in (None, errno.EINVAL):
            raise  # the disk's
        reason = str(error)  # gzip's, or zipfile's for a place outside the file
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, UnicodeError) as error:
        reason = str(error)  # RuntimeError: zipfile's for a member that is encrypted or packed in an unknown way
    path.unlink()
    raise UserError(f"{archive.name}: cannot be unpacked: {reason}; removed, start again")


def _extract_zip(archive: Archive, path: Path, into: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        for member in tqdm(packed.infolist(), f"unpack {archive.name}", disable=None):
            if not member.filename.startswith("__MACOSX/"):
                packed.extract(member, into)


def _extract_tar(archive: Archive, path: Path, into: Path) -> None:
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
        for entry in tqdm(packed, f"unpack {archive.name}", disable=None):
            inside = entry.name.removeprefix(f"{archive.outermost}/") if archive.outermost else entry.name
            if inside != archive.outermost:
                packed.extract(entry.replace(name=inside), into, filter="data")
        while stream.read(BLOCK):  # gzip checks its CRC where its data ends, behind the last member
            pass
