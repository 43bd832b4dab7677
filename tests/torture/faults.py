"""Faults that are injected into a process: at a given read or write, the process dies or the disk fails.

Python reports each open, rename, removal and new folder to an audit hook, also those of C code in Python's library. The
contents of files that Path and safetensors write, and flushes, are counted by functions in their places.
"""

import errno
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors

import sclip.tensors

KILL, FULL_DISK, READ_ERROR, FILE_LIMIT, CLOCK = "kill", "full disk", "read error", "file limit", "clock"
CHANGES = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.chmod": 0, "os.utime": 0}
NEEDS_SPACE = {"open", "os.mkdir", "fsync", "content"}  # what fails on a full disk
DAY = 86_400


@dataclass(frozen=True)
class Injection:
    kind: str | None  # None: only count
    at: int  # the number of the write, or of the read for a read error; for a limit, the size of a file in bytes


class Injector:
    """Counts the reads and writes of this process below a folder, and fails at one of them."""

    def __init__(self, folder: Path, injection: Injection):
        self.folder, self.injection = f"{folder.resolve()}{os.sep}", injection
        self.reads = self.writes = 0
        self.paused = False

    def install(self) -> None:
        """Watch this process until it ends."""
        sys.addaudithook(self._audit)
        fsync, self._time = os.fsync, time.time

        def counted_fsync(handle):
            self._write("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        os.fsync = counted_fsync
        for name in ("write_bytes", "write_text"):
            self._watch_path(name)
        self._watch_safetensors()
        if self.injection.kind == FILE_LIMIT:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.injection.at, resource.RLIM_INFINITY))
        if self.injection.kind == CLOCK:
            time.time = lambda: self._time() - (DAY if self.writes >= self.injection.at else 0)

    def _audit(self, event, args):
        if self.paused or (event != "open" and event not in CHANGES):
            return
        path = args[CHANGES.get(event, 0)]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._read(path)
        else:
            self._write(event, path)

    def _is_inside(self, path) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self.folder)

    def _read(self, path) -> None:
        if self._is_inside(path):
            self.reads += 1
            if self.injection.kind == READ_ERROR and self.reads == self.injection.at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.fsdecode(path))

    def _write(self, event, path) -> None:
        if self._is_inside(path) and self._is_turn(event):
            self._fail(os.fsdecode(path))

    def _is_turn(self, event) -> bool:
        """Count a write, and return whether it fails. A disk that is full stays full."""
        self.writes += 1
        if self.injection.kind == KILL:
            return self.writes == self.injection.at
        return self.injection.kind == FULL_DISK and self.writes >= self.injection.at and event in NEEDS_SPACE

    def _fail(self, path: str | None) -> None:
        if self.injection.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([] if path is None else [path]))

    def _watch_path(self, name: str) -> None:
        """Let a method of Path write half of its content before it fails. Its error names no file, as that of write."""
        write = getattr(Path, name)

        def watched(path, data, *args, **options):
            if not self._is_inside(path) or not self._is_turn("content"):
                return write(path, data, *args, **options)
            self.paused = True
            write(path, data[: len(data) // 2], *args, **options)
            self.paused = False
            return self._fail(None)

        setattr(Path, name, watched)

    def _watch_safetensors(self) -> None:
        """Let safetensors write half of a file before it fails, and count its reads."""
        save, opened = sclip.tensors.save_file, sclip.tensors.safe_open

        def watched(tensors, path, metadata=None):
            fails = self._is_turn("content")
            self.paused = True
            save(tensors, path, metadata)
            if fails:
                os.truncate(path, os.path.getsize(path) // 2)
            self.paused = False
            if fails and self.injection.kind == KILL:
                self._fail(None)
            if fails:
                raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

        def watched_open(path, *args, **options):
            self._read(path)
            return opened(path, *args, **options)

        sclip.tensors.save_file, sclip.tensors.safe_open = watched, watched_open
