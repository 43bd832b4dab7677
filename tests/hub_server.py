"""A stand-in for the hub on this machine, which speaks its HTTP API, and a client process that uses it.

Repos are folders below `root`, one for each commit. What goes wrong is chosen by a repo's name:

    team/cut      the connection breaks in the middle of the first download of huge.safetensors
    team/stopped  503 to the first download of huge.safetensors
    team/broken   503 to every request
    private/*     401 without the right token
    team/readonly 403 to every write
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
LARGE = 10_000  # bytes; files from this size on are uploaded as LFS objects
# Instead of waiting, the client records how long it would wait before it repeats a request.
CLIENT = """
import json, os, sys, time
from click.testing import CliRunner
import sclip
from sclip.cli import main
from sclip.encoders.clip import ClipEncoder

waits = []
time.sleep = waits.append
for case in json.loads(sys.argv[1]):
    waits.clear()
    if case[0] == "token":
        os.environ["HF_TOKEN"] = case[1]
        continue
    if case[0] == "sclip":
        result = CliRunner().invoke(main, case[1:])
        out = {"ok": result.exit_code == 0, "text": result.stdout + result.stderr, "stdout": result.stdout}
        if result.exception and not isinstance(result.exception, SystemExit):
            out["text"] += repr(result.exception)
    else:
        try:
            if case[0] == "clip":
                found = ClipEncoder.from_pretrained(case[1])
            else:
                found = sclip.load(case[1], revision=case[2] if len(case) > 2 else None)
            out = {"ok": True, "text": found.name, "seed": found.origin.get("seed")}
        except sclip.UserError as error:
            out = {"ok": False, "text": str(error)}
    print("RESULT " + json.dumps({**out, "waited": sum(waits)}), flush=True)
"""


class Hub:
    """The repos, their commits and what was asked. `address` is for HF_ENDPOINT."""

    def __init__(self, root: Path):
        self.root = root
        self.refs: dict[str, dict[str, str]] = {}  # of each repo: branch to commit
        self.objects: dict[str, bytes] = {}  # uploaded, by SHA-256
        self.requests: list[tuple[str, str, Message]] = []
        self.faults: set[str] = set()  # repos that have had their fault
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repo: str, commit: str, folder: Path, *branches: str) -> None:
        """Add a commit to a repo, which the branches then point to."""
        shutil.copytree(folder, self.folder(repo, commit))
        self.refs.setdefault(repo, {}).update(dict.fromkeys(branches, commit))

    def folder(self, repo: str, commit: str) -> Path:
        return self.root / repo / commit

    def commit_of(self, repo: str, revision: str) -> str | None:
        commit = self.refs.get(repo, {}).get(revision, revision)
        return commit if self.folder(repo, commit).is_dir() else None

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def client(self, home: Path, *cases: list[str], cwd: Path | None = None, **env: str) -> list[dict[str, Any]]:
        """Run a process, and return the result of each case.

        A case is a command (["sclip", ...]), a load (["load", name, revision]), opens a CLIP (["clip", name]), or sets
        the token of the following cases (["token", value], which has no result).
        """
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # the stand-in has no Xet storage
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **env,
        }
        command = [sys.executable, "-c", CLIENT, json.dumps(cases)]
        run = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
        results = [json.loads(line[7:]) for line in run.stdout.splitlines() if line.startswith("RESULT ")]
        assert len(results) == sum(case[0] != "token" for case in cases), run.stderr
        return [{**result, "stderr": run.stderr} for result in results]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    do_GET = do_POST = do_PUT = do_HEAD

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self._read_body()
        self.hub.requests.append((self.command, path, self.headers))
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                repo = match.groupdict().get("repo")
                if repo is None or not self._refused(repo):
                    answer(self, **match.groupdict())
                return
        self._json({"error": f"no route for {self.command} {path}"}, 404)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            blocks = []
            while size := int(self.rfile.readline(), 16):
                blocks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(blocks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _refused(self, repo: str) -> bool:
        """Answer with the fault that the repo's name stands for."""
        token = self.headers.get("Authorization")
        if repo == "team/broken":
            self._json({"error": "upstream"}, 503)
        elif token not in (None, f"Bearer {TOKEN}"):
            self._json(
                {"error": "Invalid credentials"},
                401,
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )
        elif repo.startswith("private/") and token is None:
            self._json({"error": "Invalid username or password."}, 401)
        elif repo == "team/readonly" and self.command in ("POST", "PUT"):
            self._json({"error": "You don't have the rights"}, 403)
        else:
            return False
        return True

    def _json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._json({"error": code}, 404, {"X-Error-Code": code})

    def info(self, repo: str, revision: str | None = None) -> None:
        if repo not in self.hub.refs:
            self._json(
                {"error": "Repository not found"},
                401 if "Authorization" not in self.headers else 404,
                {"X-Error-Code": "RepoNotFound"},
            )
        elif (commit := self.hub.commit_of(repo, revision or "main")) is None:
            self._missing("RevisionNotFound")
        else:
            self._json({"id": repo, "modelId": repo, "sha": commit, "siblings": [], "tags": []})

    def tree(self, repo: str, revision: str) -> None:
        commit = self.hub.commit_of(repo, revision)
        if commit is None:
            self._missing("RevisionNotFound")
            return
        folder = self.hub.folder(repo, commit)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        self._json([_entry(path, folder) for path in files])

    def resolve(self, repo: str, revision: str, file: str) -> None:
        commit = self.hub.commit_of(repo, revision)
        path = None if commit is None else self.hub.folder(repo, commit) / file
        if path is None or not path.is_file():
            self._missing("EntryNotFound" if commit else "RevisionNotFound")
            return
        fault = repo if file == "huge.safetensors" and self.command == "GET" and repo not in self.hub.faults else None
        if fault is not None:
            self.hub.faults.add(fault)
        if fault == "team/stopped":
            self._json({"error": "upstream"}, 503)
            return
        data = path.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", str(commit))
        self.send_header("ETag", f'"{_entry(path, path.parent)["oid"]}"')
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "team/cut":
            self.wfile.write(data[: 2 * len(data) // 3])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def create(self) -> None:
        given = json.loads(self.body)
        repo = f"{given['organization']}/{given['name']}"
        if self._refused(repo):
            return
        if "Authorization" not in self.headers:
            self._json({"error": "no token"}, 401)
        elif repo in self.hub.refs:
            self._json({"error": "exists", "url": f"{self.hub.address}/{repo}"}, 409)
        else:
            commit = hashlib.sha1(repo.encode()).hexdigest()
            self.hub.folder(repo, commit).mkdir(parents=True)
            self.hub.refs[repo] = {"main": commit}
            self._json({"url": f"{self.hub.address}/{repo}", "id": repo})

    def branch(self, repo: str, branch: str) -> None:
        self.hub.refs[repo].setdefault(branch, self.hub.refs[repo]["main"])
        self._json({})

    def validate(self) -> None:
        assert json.loads(self.body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        files = json.loads(self.body)["files"]
        modes = ["lfs" if file["size"] > LARGE else "regular" for file in files]
        self._json(
            {
                "files": [
                    {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                    for file, mode in zip(files, modes, strict=True)
                ]
            }
        )

    def batch(self, repo: str) -> None:
        actions = []
        for wanted in json.loads(self.body)["objects"]:
            action = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                action["actions"] = {"upload": {"href": f"{self.hub.address}/objects/{wanted['oid']}"}}
            actions.append(action)
        self._json({"transfer": "basic", "objects": actions})

    def put_object(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        """Apply the operations of a commit to a copy of the branch's files."""
        parent = self.hub.refs[repo][revision]
        commit = hashlib.sha1(self.body).hexdigest()
        folder = self.hub.folder(repo, commit)
        shutil.copytree(self.hub.folder(repo, parent), folder)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            path = folder / value.get("path", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                path.write_bytes(self.hub.objects[value["oid"]])
            elif line["key"] == "deletedFile":
                path.unlink()
        self.hub.refs[repo][revision] = commit
        self._json({"commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit})


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    """Return a file's entry in a repo's tree."""
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return {"type": "file", "path": path.relative_to(folder).as_posix(), "size": len(data), "oid": blob}


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{REPO}/branch/(?P<branch>.+)", _Handler.branch),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/objects/(?P<oid>[0-9a-f]+)", _Handler.put_object),
    ("GET", rf"/api/models/{REPO}", _Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", _Handler.tree),
    ("GET HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
