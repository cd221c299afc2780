"""A hub on this machine, as its clients see the real one: repositories of files, a gate, and ways to fail.

It serves the parts of the protocol that models, SAEs and data sets are read by: information on a repository, its tree, and
its files by commit, whole or in ranges. Nothing of it is a stand-in for the clients: they run as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?$")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass
class Hub:
    """Repositories below `root`: `models/OWNER/NAME/...`, `datasets/OWNER/NAME/...`."""

    root: Path
    url: str = ""
    gated: set[str] = field(default_factory=set)
    """Repositories that ask for `token`."""
    token: str = "hf_atesttokenatesttoken"
    state: str = "up"
    """`up`; `silent`: nothing is answered; `busy`: 503; `cut`: files end after `cut_after` bytes."""
    cut_after: int = 2000
    requests: list[tuple[str, str]] = field(default_factory=list)
    """State, and method and path, of each."""
    end: threading.Event = field(default_factory=threading.Event)

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """Path in the repository -> file."""
        folder = self.root / kind / name
        return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}

    def commit(self, kind: str, name: str) -> str:
        """A hash of what the repository holds."""
        digest = hashlib.sha1(name.encode())
        for path, file in self.files(kind, name).items():
            digest.update(path.encode() + file.read_bytes())
        return digest.hexdigest()


@contextmanager
def serve_hub(root: Path) -> Iterator[Hub]:
    """A hub of the folder, on a free port of this machine."""
    hub = Hub(root)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.end.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Not to stderr."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/_state/"):  # from the program under test, between two of its steps
            self.hub.state = path.rsplit("/", 1)[1]
            self._json({})
            return
        self.hub.requests.append((self.hub.state, f"{self.command} {path}"))
        if self.hub.state == "silent":
            self.hub.end.wait(20)
            self.close_connection = True
            return
        if self.hub.state == "busy":
            self._fail(503, "")
            return
        if found := API.match(path):
            kind, name, what, _, inside = found.groups()
            if self._known(kind, name):
                self._about(kind, name, what or "", inside or "", body)
        elif found := FILE.match(path):
            kind, name, revision, inside = ("datasets" if found[1] else "models"), found[2], found[3], found[4]
            if self._known(kind, name):
                self._file(kind, name, revision, inside)
        elif path == "/":
            self._json({})
        else:
            self._fail(404, "RepoNotFound")

    def _known(self, kind: str, name: str) -> bool:
        if not (self.hub.root / kind / name).is_dir():
            self._fail(401, "RepoNotFound")
            return False
        if name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._fail(401, "GatedRepo")
            return False
        return True

    def _about(self, kind: str, name: str, what: str, inside: str, body: bytes) -> None:
        files = self.hub.files(kind, name)
        if what == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            below = [path for path in files if path.startswith(f"{inside}/" if inside else "")]
            if inside and not below:
                self._fail(404, "EntryNotFound")
                return
            self._json(_entries(files, inside, below, recursive))
        elif what == "paths-info":
            text = body.decode()
            asked = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
            self._json([entry for path in asked for entry in _entries(files, "", [path], True) if path in files])
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"_id": "0", "id": name, "modelId": name, "sha": self.hub.commit(kind, name), "private": False,
                        "gated": False, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

    def _file(self, kind: str, name: str, revision: str, inside: str) -> None:
        file, commit = self.hub.files(kind, name).get(inside), self.hub.commit(kind, name)
        if revision not in {"main", commit}:
            self._fail(404, "RevisionNotFound")
            return
        if file is None:
            self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        data = file.read_bytes()
        first, last = 0, len(data) - 1
        asked = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(last, int(asked[2])) if asked[2] else last
        part = data[first : last + 1]
        self.send_response(206 if asked else 200)
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes",
                   "Content-Length": str(len(part)), "Content-Type": "application/octet-stream"}  # fmt: skip
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.state == "cut" and len(part) > self.hub.cut_after
        self.wfile.write(part[: self.hub.cut_after] if cut else part)
        if cut:
            self.close_connection = True

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"X-Error-Code": code, "Content-Length": "0", **(headers or {})}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()


def _entries(files: dict[str, Path], inside: str, below: list[str], recursive: bool) -> list[dict[str, Any]]:
    """What the tree of a folder lists: its files and folders, or all below it."""
    found: dict[str, dict[str, Any]] = {}
    start = len(inside) + 1 if inside else 0
    for path in below:
        parts = path[start:].split("/")
        for depth in range(1, len(parts)):
            folder = path[:start] + "/".join(parts[:depth])
            if recursive or depth == 1:
                found[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
        if recursive or len(parts) == 1:
            data = files[path].read_bytes() if path in files else b""
            found[path] = {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}
    return list(found.values())
