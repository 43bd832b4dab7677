"""Test downloads from a local server that interrupts transfers, changes its files or loses them."""

import dataclasses
import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sclip.corpora import fetch as fetching
from sclip.corpora.fetch import ARCHIVES, Archive, fetch
from sclip.errors import UserError


def make_tar(level: int = 9) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=level) as packed:
        for name in ("ksplit/a.json", "ksplit/deep/b.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 70_000
            packed.addfile(entry, io.BytesIO(hashlib.sha256(name.encode()).digest() * 3000))
    return data.getvalue()


def make_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        packed.writestr("Flickr8k.token.txt", "a.jpg#0\ta dog\n" * 9000)
        packed.writestr("__MACOSX/._Flickr8k.token.txt", "x")
    return data.getvalue()


class Server(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    requested_ranges: list[str | None]
    cut_after: list[int]  # for each of the next responses, the number of bytes before the connection breaks
    replaced_headers: list[dict[str, str]]  # for each of the next responses
    supports_ranges: bool

    def do_GET(self):
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404, "gone")
            return
        version, start, headers = hashlib.md5(data).hexdigest(), 0, {}
        requested = self.headers["Range"]
        self.requested_ranges.append(requested)
        if requested and self.supports_ranges and self.headers["If-Range"] == f'"{version}"':
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        else:
            self.send_response(200)
        headers |= {"ETag": f'"{version}"', "Content-Length": str(len(data) - start)}
        for name, value in (headers | (self.replaced_headers.pop(0) if self.replaced_headers else {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[start:][: self.cut_after.pop(0) if self.cut_after else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(fetching, "RETRY_DELAY", 0.01)
    Server.files, Server.requested_ranges = {"/some.tar.gz": make_tar(), "/text.zip": make_zip()}, []
    Server.cut_after, Server.replaced_headers, Server.supports_ranges = [], [], True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def tar_archive(host, **more) -> Archive:
    return Archive(f"{host}/some.tar.gz", "the authors", subfolder="SpokenCOCO", top_folder="ksplit", **more)


def file_names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


ALL_FILES = ["SpokenCOCO/a.json", "SpokenCOCO/deep/b.json", "fetched/some.tar.gz"]


def test_archives_are_downloaded_only_once(host, tmp_path):
    md5 = hashlib.md5(Server.files["/some.tar.gz"]).hexdigest()
    archives = [tar_archive(host, md5=md5), Archive(f"{host}/text.zip", "")]
    assert len(list(fetch(archives, tmp_path))) == 2
    assert file_names(tmp_path) == sorted([*ALL_FILES, "Flickr8k.token.txt", "fetched/text.zip"])
    assert list(fetch(archives, tmp_path)) == ["some.tar.gz: already unpacked", "text.zip: already unpacked"]
    assert len(Server.requested_ranges) == 2


def test_interrupted_download_resumes(host, tmp_path):
    size = len(Server.files["/some.tar.gz"])
    Server.cut_after = [size // 3, size // 3]
    list(fetch([tar_archive(host)], tmp_path))
    assert Server.requested_ranges == [None, f"bytes={size // 3}-", f"bytes={size // 3 * 2}-"]
    assert file_names(tmp_path) == ALL_FILES


@pytest.mark.parametrize("reason", ["changed file", "no ranges"])
def test_download_restarts_if_it_cannot_resume(reason, host, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    Server.cut_after = [100]
    with pytest.raises(UserError, match=r"received 100 of .* bytes.* or get the file from the authors"):
        list(fetch([tar_archive(host)], tmp_path))
    if reason == "changed file":
        Server.files["/some.tar.gz"] = make_tar() + b"\0" * 50
    Server.supports_ranges = reason != "no ranges"
    list(fetch([tar_archive(host)], tmp_path))
    assert file_names(tmp_path) == ALL_FILES
    assert Server.requested_ranges[1] == "bytes=100-"


@pytest.mark.parametrize("content_range", ["bytes 0-99/100", "bytes 100-199/{size}", "bytes 100-{last}/*", ""])
def test_wrong_range_is_not_appended(content_range, host, tmp_path):
    size = len(Server.files["/some.tar.gz"])
    Server.cut_after = [100]
    Server.replaced_headers = [{}, {"Content-Range": content_range.format(size=size, last=size - 1)}]
    list(fetch([tar_archive(host, md5=hashlib.md5(Server.files["/some.tar.gz"]).hexdigest())], tmp_path))
    assert Server.requested_ranges == [None, "bytes=100-", None]
    assert file_names(tmp_path) == ALL_FILES


@pytest.mark.parametrize("length", ["", "many", "-5", "1e3", "9" * 5000])
def test_invalid_content_length_is_retried_and_reported(length, host, tmp_path, monkeypatch):
    Server.replaced_headers = [{"Content-Length": length}]
    list(fetch([tar_archive(host)], tmp_path / "retried"))
    assert file_names(tmp_path / "retried") == ALL_FILES
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    Server.replaced_headers = [{"Content-Length": length}]
    message = r"some\.tar\.gz: download failed: .*Content-Length: expected a number"
    with pytest.raises(UserError, match=message) as error:
        list(fetch([tar_archive(host)], tmp_path))
    assert len(str(error.value)) < 600


def flip_bit(packed: bytes, place: int) -> bytes:
    """Return the archive with one bit flipped."""
    data = bytearray(packed)
    data[place] ^= 1
    return bytes(data)


def encrypted() -> bytes:
    """Return a zip archive whose first member claims to be encrypted."""
    data = bytearray(make_zip())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


def with_wrong_offset() -> bytes:
    """Return a zip archive whose central directory claims an offset beyond the end of the file."""
    data = bytearray(make_zip())
    data[-6:-2] = (2**30).to_bytes(4, "little")
    return bytes(data)


DAMAGED_ARCHIVES = {
    # Level 0 does not compress, so a flipped bit in a member or in the padding causes no error before the CRC check.
    "a member of a tar": ("some.tar.gz", flip_bit(make_tar(level=0), 30_000), "CRC check failed"),
    "the end of a tar": ("some.tar.gz", flip_bit(make_tar(level=0), -100), "CRC check failed"),
    "the length of a tar": ("some.tar.gz", flip_bit(make_tar(), -1), "Incorrect length of data"),
    "half a tar": ("some.tar.gz", make_tar()[:-8], "ended before the end-of-stream marker"),
    "a member of a zip": ("text.zip", flip_bit(make_zip(), 30_000), "Bad CRC-32 for file 'Flickr8k.token.txt'"),
    "an encrypted zip": ("text.zip", encrypted(), "is encrypted, password required"),
    "a zip with a wrong offset": ("text.zip", with_wrong_offset(), "Invalid argument"),
}


@pytest.mark.parametrize("fault", DAMAGED_ARCHIVES)
def test_a_damaged_archive_is_refused_and_removed(fault, host, tmp_path):
    name, data, message = DAMAGED_ARCHIVES[fault]
    Server.files[f"/{name}"] = data
    with pytest.raises(UserError, match=rf"{name}: cannot be unpacked: .*{message}.*; the archive was removed, run"):
        list(fetch([Archive(f"{host}/{name}", "the authors")], tmp_path))
    assert not (tmp_path / name).exists()
    assert not (tmp_path / "fetched" / name).exists()


def test_killed_unpacking_does_not_download_again(host, tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_unpack", kill)
        with pytest.raises(KeyboardInterrupt):
            list(fetch([tar_archive(host)], tmp_path))
    list(fetch([tar_archive(host)], tmp_path))
    assert len(Server.requested_ranges) == 1
    assert file_names(tmp_path) == ALL_FILES


def test_errors_name_the_archive(host, tmp_path):
    with pytest.raises(UserError, match="expected MD5 123, found"):
        list(fetch([tar_archive(host, md5="123")], tmp_path))
    assert file_names(tmp_path) == []
    missing = dataclasses.replace(tar_archive(host), url=f"{host}/other.tar.gz")
    with pytest.raises(UserError, match=r"other\.tar\.gz: download failed: 404 gone\..* from the authors"):
        list(fetch([missing], tmp_path))
    Server.files["/some.tar.gz"] = b"not an archive"
    with pytest.raises(UserError, match=r"some\.tar\.gz: cannot be unpacked"):
        list(fetch([tar_archive(host)], tmp_path))
    assert file_names(tmp_path) == []


def test_every_archive_names_an_alternative_source():
    for archives in ARCHIVES.values():
        assert all("https://" in archive.alternative for archive in archives)
        assert len({archive.name for archive in archives}) == len(archives)
