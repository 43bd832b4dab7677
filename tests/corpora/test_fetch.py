"""Test downloads from a local server that interrupts transfers, changes its files or loses them."""

import gzip
import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from project import run_sclip

from sclip.corpora import fetch as fetching
from sclip.corpora.archives import ARCHIVES, Archive
from sclip.corpora.fetch import fetch
from sclip.corpora.unpack import DamagedArchive, unpack
from sclip.errors import UserError

pytestmark = pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="a tar needs Python 3.11.4")


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
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
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


def archive(name: str, *hosts: str, **more) -> Archive:
    return Archive("recordings", name, tuple(f"{host}/{name}" for host in hosts), "ask the authors", **more)


def tar_archive(*hosts, **more) -> Archive:
    return archive("some.tar.gz", *hosts, subfolder="SpokenCOCO", top_folder="ksplit", **more)


def file_names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


ALL_FILES = ["SpokenCOCO/a.json", "SpokenCOCO/deep/b.json", "fetched/some.tar.gz"]


def test_archives_are_downloaded_only_once(host, tmp_path):
    md5 = hashlib.md5(Server.files["/some.tar.gz"]).hexdigest()
    archives = [tar_archive(host, checksum=f"md5:{md5}"), archive("text.zip", host)]
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


def test_a_download_that_was_killed_after_its_last_byte_is_complete(host, tmp_path, monkeypatch):
    def append_and_die(*arguments):
        append(*arguments)
        raise KeyboardInterrupt

    append = fetching._append
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_append", append_and_die)
        with pytest.raises(KeyboardInterrupt):
            list(fetch([tar_archive(host)], tmp_path))
    list(fetch([tar_archive(host)], tmp_path))
    assert Server.requested_ranges == [None, f"bytes={len(Server.files['/some.tar.gz'])}-"]
    assert file_names(tmp_path) == ALL_FILES


@pytest.mark.parametrize("reason", ["changed file", "no ranges"])
def test_download_restarts_if_it_cannot_resume(reason, host, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    Server.cut_after = [100]
    with pytest.raises(UserError, match=r"received 100 of .* bytes.* or ask the authors"):
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
    md5 = hashlib.md5(Server.files["/some.tar.gz"]).hexdigest()  # gzip has the time: another archive may differ
    list(fetch([tar_archive(host, checksum=f"md5:{md5}")], tmp_path))
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


def plain_tar() -> bytes:
    return gzip.decompress(make_tar())


def cut_tar() -> bytes:
    """Return a tar without its second member and its end. A member has a header and 70,000 bytes, in blocks."""
    with tarfile.open(fileobj=io.BytesIO(plain_tar()[:70_656])) as packed:  # Python reads it without an error
        assert len(packed.getnames()) == 1
    return plain_tar()[:70_656]


DAMAGED_ARCHIVES = {
    # Level 0 does not compress, so a flipped bit in a member or in the padding causes no error before the CRC check.
    "a member of a tar": ("some.tar.gz", flip_bit(make_tar(level=0), 30_000), "CRC check failed"),
    "the end of a tar": ("some.tar.gz", flip_bit(make_tar(level=0), -100), "CRC check failed"),
    "the length of a tar": ("some.tar.gz", flip_bit(make_tar(), -1), "Incorrect length of data"),
    "half a tar": ("some.tar.gz", make_tar()[:-8], "ended before the end-of-stream marker"),
    "a member of a zip": ("text.zip", flip_bit(make_zip(), 30_000), "Bad CRC-32 for file 'Flickr8k.token.txt'"),
    "an encrypted zip": ("text.zip", encrypted(), "is encrypted, password required"),
    "a tar that ends between members": (
        "some.tar",
        cut_tar(),
        "no end of the archive after byte 70,656; it is cut off",
    ),
    "a tar with a damaged header": (
        "some.tar",
        flip_bit(plain_tar(), 70_656),
        "no end of the archive after byte 70,656",
    ),
    "a zip with a wrong offset": ("text.zip", with_wrong_offset(), "Invalid argument"),
}


@pytest.mark.parametrize("fault", DAMAGED_ARCHIVES)
def test_a_damaged_archive_is_refused_and_removed(fault, host, tmp_path):
    name, data, message = DAMAGED_ARCHIVES[fault]
    Server.files[f"/{name}"] = data
    with pytest.raises(UserError, match=rf"{name}: cannot be unpacked: .*{message}.*; the file was removed. Run"):
        list(fetch([archive(name, host)], tmp_path))
    assert file_names(tmp_path) == []  # nor a member that was unpacked before the fault
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]


def test_members_are_added_to_the_files_that_are_there(tmp_path):
    """A folder may lead to another disk, a file is replaced, and what a killed process left is removed."""
    packed, out, elsewhere = tmp_path / "a.tar.gz", tmp_path / "out", tmp_path / "elsewhere"
    packed.write_bytes(make_tar())
    for name in ("out/ksplit/a.json", "out/other.json", "out/a.tar.gz.unfinished/left.json", "elsewhere/old.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    (out / "ksplit/deep").symlink_to(elsewhere)
    unpack(packed, out)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["b.json", "old.json"]
    assert file_names(out) == ["ksplit/a.json", "other.json"]
    assert (out / "ksplit/a.json").stat().st_size == (elsewhere / "b.json").stat().st_size == 70_000
    packed.write_bytes(make_tar()[:-8])
    with pytest.raises(DamagedArchive):
        unpack(packed, tmp_path / "damaged")
    assert list((tmp_path / "damaged").iterdir()) == []


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_is_in_the_way_of_a_member_is_named(name, tmp_path):
    """Nothing is moved into a folder that is where a file belongs, and the archive stays."""
    packed, out = tmp_path / "a.tar.gz", tmp_path / "out"
    packed.write_bytes(make_tar())
    if name == "file":
        (out / "ksplit/a.json").mkdir(parents=True)
        message = "ksplit/a.json: found a folder, expected a file as in the archive; move it away"
    else:
        out.mkdir()
        (out / "ksplit").write_text("mine")
        message = "ksplit: found a file, expected a folder as in the archive; move it away"
    with pytest.raises(UserError, match=message):
        unpack(packed, out)
    assert packed.is_file()
    assert list((out / "ksplit/a.json").iterdir()) == [] if name == "file" else (out / "ksplit").read_text() == "mine"


def test_a_link_in_an_archive_is_replaced_by_itself(tmp_path):
    packed = tmp_path / "a.tar"
    with tarfile.open(packed, "w") as file:
        for name, kind in (("deep", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "deep" if kind == tarfile.SYMTYPE else ""
            file.addfile(member)
    for _ in range(3):
        unpack(packed, tmp_path / "out")
    assert (tmp_path / "out/link").readlink().name == "deep"
    assert list((tmp_path / "out/deep").iterdir()) == []


def test_killed_unpacking_does_not_download_again(host, tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "unpack", kill)
        with pytest.raises(KeyboardInterrupt):
            list(fetch([tar_archive(host)], tmp_path))
    list(fetch([tar_archive(host)], tmp_path))
    assert len(Server.requested_ranges) == 1
    assert file_names(tmp_path) == ALL_FILES


def test_an_old_python_is_told_before_a_tar_is_unpacked(tmp_path, monkeypatch):
    (tmp_path / "a.tar.gz").write_bytes(make_tar())
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(UserError, match=r"a\.tar\.gz: to unpack a tar safely needs Python 3\.11\.4, found 3\.1"):
        unpack(tmp_path / "a.tar.gz", tmp_path)


def test_errors_name_the_archive(host, tmp_path):
    with pytest.raises(UserError, match=r"some.tar.gz: http.*: expected md5 123, found"):
        list(fetch([tar_archive(host, checksum="md5:123")], tmp_path))
    assert file_names(tmp_path) == []
    with pytest.raises(UserError, match=r"other\.tar\.gz: download failed: 404 gone\. .* or ask the authors"):
        list(fetch([archive("other.tar.gz", host)], tmp_path))
    Server.files["/some.tar.gz"] = b"not an archive"
    with pytest.raises(UserError, match=r"some\.tar\.gz: cannot be unpacked"):
        list(fetch([tar_archive(host)], tmp_path))
    assert file_names(tmp_path) == []


def test_sources_are_tried_in_order(host, tmp_path):
    """The first source has no such file, the second one a damaged file, and the third one the right one."""
    Server.files["/damaged/some.tar.gz"] = DAMAGED_ARCHIVES["half a tar"][1]
    asked = [f"{host}/gone", f"{host}/damaged", host]
    (line,) = fetch([tar_archive(*asked)], tmp_path)
    assert line.endswith("unpacked")
    assert file_names(tmp_path) == ALL_FILES
    assert (tmp_path / "fetched/some.tar.gz").read_text() == f"{host}/some.tar.gz\n"
    with pytest.raises(UserError) as error:
        list(fetch([tar_archive(*asked[:2])], tmp_path / "other"))
    for part in (
        "/gone/some.tar.gz: download failed: 404",
        "/damaged/some.tar.gz: cannot be unpacked",
        "ask the authors",
    ):
        assert part in str(error.value)


def test_an_archive_without_a_working_source_does_not_stop_the_others(host, tmp_path):
    lines = []
    with pytest.raises(UserError) as error:
        for line in fetch([archive("a.tar", host), tar_archive(host), archive("b.tar", host)], tmp_path):
            lines.append(line)
    assert [line.split(":")[0] for line in lines] == ["some.tar.gz"]
    assert file_names(tmp_path) == ALL_FILES
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["a.tar", "b.tar"]


def test_a_partial_file_of_another_source_is_not_continued(host, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    Server.files["/copy/some.tar.gz"] = make_tar()  # the same version, so only its source tells them apart
    Server.cut_after = [100]
    list(fetch([tar_archive(host, f"{host}/copy")], tmp_path))
    assert Server.requested_ranges == [None, None]
    assert file_names(tmp_path) == ALL_FILES


@pytest.mark.parametrize("size", [-1, 1])
def test_a_file_of_another_size_is_not_downloaded(size, host, tmp_path):
    right = len(make_tar())
    with pytest.raises(UserError, match=rf"expected {right + size:,} bytes, the host has {right:,}"):
        list(fetch([tar_archive(host, size=right + size)], tmp_path))
    assert file_names(tmp_path) == []
    list(fetch([tar_archive(host, size=right)], tmp_path))
    assert file_names(tmp_path) == ALL_FILES


def test_files_that_are_not_packed_are_kept(host, tmp_path):
    """Git's hash of a file is that of a header and the content."""
    Server.files["/keywords.txt"] = b"dog\nsnow\n"
    right = "git:" + hashlib.sha1(b"blob 9\0dog\nsnow\n").hexdigest()
    with pytest.raises(UserError, match="expected git 12, found "):
        list(fetch([archive("keywords.txt", host, checksum="git:12")], tmp_path))
    assert file_names(tmp_path) == []
    (line,) = fetch([archive("keywords.txt", host, subfolder="labels", checksum=right)], tmp_path)
    assert line.endswith("complete")
    assert (tmp_path / "labels/keywords.txt").read_text() == "dog\nsnow\n"
    assert list(fetch([archive("keywords.txt", host)], tmp_path)) == ["keywords.txt: already there"]


def test_a_file_that_was_put_there_by_hand_is_used_or_named(host, tmp_path):
    (tmp_path / "some.tar.gz").write_bytes(make_tar())
    list(fetch([tar_archive(f"{host}/gone")], tmp_path))
    assert file_names(tmp_path) == ALL_FILES
    (tmp_path / "other").mkdir()
    (tmp_path / "other/some.tar.gz").write_bytes(make_tar()[:-8])
    with pytest.raises(UserError, match=r"other/some.tar.gz: cannot be unpacked: .*; remove it, and run the command"):
        list(fetch([tar_archive(host)], tmp_path / "other"))
    assert (tmp_path / "other/some.tar.gz").is_file()  # it is the user's
    assert Server.requested_ranges == []


def test_archives_without_a_source_say_what_to_do(tmp_path):
    (line,) = fetch([archive("Places205")], tmp_path)
    assert line == "Places205 (recordings): cannot be downloaded from here; ask the authors"


def test_a_tar_without_compression_is_unpacked(tmp_path):
    (tmp_path / "plain.tar").write_bytes(plain_tar())
    unpack(tmp_path / "plain.tar", tmp_path / "tar")
    assert file_names(tmp_path / "tar") == ["ksplit/a.json", "ksplit/deep/b.json"]


def test_every_part_of_every_corpus_has_a_source_or_says_what_to_do():
    for archives in ARCHIVES.values():
        assert all(archive.by_hand for archive in archives)
        assert all(source.endswith(f"/{archive.name}") for archive in archives for source in archive.sources)
        assert len({archive.name for archive in archives}) == len(archives)
        assert all(re.fullmatch(r"(md5:[0-9a-f]{32}|git:[0-9a-f]{40})", a.checksum) for a in archives if a.checksum)
        # Python reads a zip with a damaged index without an error, and omits members.
        assert all(archive.checksum for archive in archives if archive.name.endswith(".zip"))


def test_list_shows_sources_sizes_and_checksums():
    shown = run_sclip("fetch", "--list")
    for corpus, archives in ARCHIVES.items():
        assert f"\n{corpus}\n" in f"\n{shown}"
        for listed in archives:
            assert f"  {listed.part}: {listed.name}, " in shown
            assert all(f"\n    {source}\n" in shown for source in listed.sources)
    assert "6,645,013,297 bytes, md5 a3d79f5ed8d289b7a7554ce06a5782b3" in shown
    assert "kaggle datasets download" in run_sclip("fetch", "flickr8k", "--list")
    assert "places" not in run_sclip("fetch", "speech-coco", "--list")


def test_a_part_that_cannot_be_downloaded_is_no_success(tmp_path):
    shown = run_sclip("fetch", "places", str(tmp_path), "pictures", status=1)
    assert "Places205 (pictures): cannot be downloaded from here; register at http" in shown
    assert '"archives": [' in run_sclip("fetch", "places", str(tmp_path), "pictures", "--json", status=1)


def test_parts_are_chosen_by_name(monkeypatch, tmp_path):
    chosen = []
    monkeypatch.setattr("sclip.corpora.fetch.fetch", lambda archives, _: chosen.extend(archives) or [])
    run_sclip("fetch", "flickr8k", str(tmp_path), "alignments", "keyword-labels")
    assert [a.name for a in chosen] == ["flickr_8k.ctm", "keywords.txt", "semantic_flickraudio_labels.csv"]
    message = "flickr8k has no part 'splits'; expected some of alignments, captions, "
    assert message in run_sclip("fetch", "flickr8k", str(tmp_path), "splits", status=1)
    assert "expected a corpus and a folder" in run_sclip("fetch", "flickr8k", status=1)
