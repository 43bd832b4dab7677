"""Downloads from a host of our own that breaks off, changes its mind, or is gone."""

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


def tar(level: int = 9) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=level) as packed:
        for name in ("ksplit/a.json", "ksplit/deep/b.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 70_000
            packed.addfile(entry, io.BytesIO(hashlib.sha256(name.encode()).digest() * 3000))
    return data.getvalue()


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        packed.writestr("Flickr8k.token.txt", "a.jpg#0\ta dog\n" * 9000)
        packed.writestr("__MACOSX/._Flickr8k.token.txt", "x")
    return data.getvalue()


class Host(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    asked: list[str | None]  # the ranges
    breaks_after: list[int]  # bytes of each answer, while there are any
    headers_instead: list[dict[str, str]]  # of each answer, while there are any
    gives_parts: bool

    def do_GET(self):
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404, "gone")
            return
        version, start, headers = hashlib.md5(data).hexdigest(), 0, {}
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        if wanted and self.gives_parts and self.headers["If-Range"] == f'"{version}"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        else:
            self.send_response(200)
        headers |= {"ETag": f'"{version}"', "Content-Length": str(len(data) - start)}
        for name, value in (headers | (self.headers_instead.pop(0) if self.headers_instead else {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[start:][: self.breaks_after.pop(0) if self.breaks_after else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(fetching, "PATIENCE", 0.01)
    Host.files, Host.asked = {"/some.tar.gz": tar(), "/text.zip": zipped()}, []
    Host.breaks_after, Host.headers_instead, Host.gives_parts = [], [], True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def some(host, **more) -> Archive:
    return Archive(f"{host}/some.tar.gz", "the authors", into="SpokenCOCO", outermost="ksplit", **more)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = ["SpokenCOCO/a.json", "SpokenCOCO/deep/b.json", "fetched/some.tar.gz"]


def test_whole_and_then_not_again(host, tmp_path):
    archives = [some(host, md5=hashlib.md5(Host.files["/some.tar.gz"]).hexdigest()), Archive(f"{host}/text.zip", "")]
    assert len(list(fetch(archives, tmp_path))) == 2
    assert names(tmp_path) == sorted([*WHOLE, "Flickr8k.token.txt", "fetched/text.zip"])
    assert list(fetch(archives, tmp_path)) == ["some.tar.gz: there already", "text.zip: there already"]
    assert len(Host.asked) == 2


def test_goes_on_where_it_broke_off(host, tmp_path):
    size = len(Host.files["/some.tar.gz"])
    Host.breaks_after = [size // 3, size // 3]
    list(fetch([some(host)], tmp_path))
    assert Host.asked == [None, f"bytes={size // 3}-", f"bytes={size // 3 * 2}-"]
    assert names(tmp_path) == WHOLE


@pytest.mark.parametrize("why", ["changed", "no parts"])
def test_starts_again_where_it_must(why, host, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    Host.breaks_after = [100]
    with pytest.raises(UserError, match=r"100 bytes of .* Otherwise ask the authors"):
        list(fetch([some(host)], tmp_path))
    if why == "changed":
        Host.files["/some.tar.gz"] = tar() + b"\0" * 50
    Host.gives_parts = why != "no parts"
    list(fetch([some(host)], tmp_path))
    assert names(tmp_path) == WHOLE
    assert Host.asked[1] == "bytes=100-"


@pytest.mark.parametrize("given", ["bytes 0-99/100", "bytes 100-199/{size}", "bytes 100-{last}/*", ""])
def test_a_part_that_was_not_asked_for_is_not_appended(given, host, tmp_path):
    size = len(Host.files["/some.tar.gz"])
    Host.breaks_after = [100]
    Host.headers_instead = [{}, {"Content-Range": given.format(size=size, last=size - 1)}]
    list(fetch([some(host, md5=hashlib.md5(Host.files["/some.tar.gz"]).hexdigest())], tmp_path))
    assert Host.asked == [None, "bytes=100-", None]
    assert names(tmp_path) == WHOLE


@pytest.mark.parametrize("length", ["", "many", "-5", "1e3", "9" * 5000])
def test_a_length_that_is_no_number_is_one_line(length, host, tmp_path, monkeypatch):
    Host.headers_instead = [{"Content-Length": length}]
    list(fetch([some(host)], tmp_path / "asked-again"))
    assert names(tmp_path / "asked-again") == WHOLE
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    Host.headers_instead = [{"Content-Length": length}]
    with pytest.raises(UserError, match=r"some\.tar\.gz: cannot be had: .*Content-Length: expected a number") as error:
        list(fetch([some(host)], tmp_path))
    assert len(str(error.value)) < 600


def damaged(packed: bytes, place: int) -> bytes:
    """Return the archive with one bit flipped."""
    data = bytearray(packed)
    data[place] ^= 1
    return bytes(data)


def encrypted() -> bytes:
    """Return a zip archive whose first member claims to be encrypted."""
    data = bytearray(zipped())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


def misplaced() -> bytes:
    """Return a zip archive whose directory claims to begin far behind the file's end."""
    data = bytearray(zipped())
    data[-6:-2] = (2**30).to_bytes(4, "little")
    return bytes(data)


BAD_ARCHIVES = {
    # Nothing is compressed at level 0: a flipped bit of a member or of the padding unpacks without an error.
    "a member of a tar": ("some.tar.gz", damaged(tar(level=0), 30_000), "CRC check failed"),
    "the end of a tar": ("some.tar.gz", damaged(tar(level=0), -100), "CRC check failed"),
    "the length of a tar": ("some.tar.gz", damaged(tar(), -1), "Incorrect length of data"),
    "half a tar": ("some.tar.gz", tar()[:-8], "ended before the end-of-stream marker"),
    "a member of a zip": ("text.zip", damaged(zipped(), 30_000), "Bad CRC-32 for file 'Flickr8k.token.txt'"),
    "an encrypted zip": ("text.zip", encrypted(), "is encrypted, password required"),
    "a zip that starts before its file": ("text.zip", misplaced(), "Invalid argument"),
}


@pytest.mark.parametrize("fault", BAD_ARCHIVES)
def test_a_damaged_archive_is_refused_and_removed(fault, host, tmp_path):
    name, data, message = BAD_ARCHIVES[fault]
    Host.files[f"/{name}"] = data
    with pytest.raises(UserError, match=rf"{name}: cannot be unpacked: .*{message}.*; removed, start again"):
        list(fetch([Archive(f"{host}/{name}", "the authors")], tmp_path))
    assert not (tmp_path / name).exists()
    assert not (tmp_path / "fetched" / name).exists()


def test_killed_between_download_and_unpacking(host, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            list(fetch([some(host)], tmp_path))
    list(fetch([some(host)], tmp_path))
    assert len(Host.asked) == 1
    assert names(tmp_path) == WHOLE


def test_faults(host, tmp_path):
    with pytest.raises(UserError, match="expected MD5 123, found"):
        list(fetch([some(host, md5="123")], tmp_path))
    assert names(tmp_path) == []
    gone = dataclasses.replace(some(host), url=f"{host}/other.tar.gz")
    with pytest.raises(UserError, match=r"other\.tar\.gz: cannot be had: 404 gone\..* ask the authors"):
        list(fetch([gone], tmp_path))
    Host.files["/some.tar.gz"] = b"not an archive"
    with pytest.raises(UserError, match=r"some\.tar\.gz: cannot be unpacked"):
        list(fetch([some(host)], tmp_path))
    assert names(tmp_path) == []


def test_every_archive_says_whom_to_ask():
    for archives in ARCHIVES.values():
        assert all("https://" in archive.ask for archive in archives)
        assert len({archive.name for archive in archives}) == len(archives)
