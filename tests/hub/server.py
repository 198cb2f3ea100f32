"""A hub on this machine: what huggingface_hub, transformers and datasets ask for, over HTTP.

Repositories are dictionaries of files. Large files (safetensors, parquet, gz) are "LFS": their
digest is a SHA-256 and they come by a redirect to another path, as from the hub's CDN; others have
git's SHA-1. What is to go wrong is set on the server: `gated`, `drops`, `down`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".safetensors", ".parquet", ".gz", ".bin")


def digest(name: str, content: bytes) -> str:
    """What the hub gives as a file's etag."""
    if name.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Files of one revision after the other; ``main`` unless named otherwise."""

    revisions: dict[str, dict[str, bytes]]

    def commit(self, revision: str) -> str | None:
        """The commit of a branch or of itself; None if there is no such revision."""
        commits = {name: self._sha(name) for name in self.revisions}
        return commits.get(revision, revision if revision in commits.values() else None)

    def files(self, commit: str) -> dict[str, bytes]:
        """The files of a commit."""
        return next(files for name, files in self.revisions.items() if self._sha(name) == commit)

    def _sha(self, name: str) -> str:
        summed = hashlib.sha1(name.encode())
        for file, content in sorted(self.revisions[name].items()):
            summed.update(file.encode() + content)
        return summed.hexdigest()


@dataclass
class Hub:
    """The server's state; `requests` is what it was asked."""

    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    drops: dict[str, int] = field(default_factory=dict)
    """By file name: how many more times the connection is cut in the middle of it."""
    requests: list[str] = field(default_factory=list)

    def start(self) -> str:
        """Serve in a thread; returns the endpoint."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        """Close the port: from now on nobody answers."""
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    server: ThreadingHTTPServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Not to standard error."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        if path == "/":
            self._send(200, b"hub")
        elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([0-9a-f]+)/(.+)", path):
            self._cdn(*found.groups())
        elif found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", path):
            self._api(found[1], found[2], found[3] or "", url.query, body)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(.+)", path):
            self._resolve("datasets" if found[1] else "models", found[2], found[3])
        else:
            self._send(404, b"{}")

    def _repository(self, kind: str, name: str) -> Repository | None:
        """The repository, or None after a refusal was sent."""
        known = getattr(self.hub, kind).get(name)
        if known is None:
            self._refuse(401, "RepoNotFound", "Repository Not Found")
        elif name in self.hub.gated:
            self._refuse(
                403 if self.headers.get("Authorization") else 401,
                "GatedRepo",
                f"Access to {name} is restricted",
            )
        else:
            return known
        return None

    def _api(self, kind: str, name: str, rest: str, query: str, body: bytes) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        what, _, tail = rest.partition("/")
        revision, _, folder = _split(tail, repository) if tail else ("main", "", "")
        commit = repository.commit(revision or tail)
        if what not in ("", "revision", "tree", "paths-info"):
            self._send(404, b"{}")
        elif commit is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        elif what in ("", "revision"):
            files = [{"rfilename": file} for file in repository.files(commit)]
            self._json({"id": name, "sha": commit, "private": False, "gated": False,
                        "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                        "siblings": files, "lastModified": "2024-01-01T00:00:00.000Z",
                        "createdAt": "2024-01-01T00:00:00.000Z"})  # fmt: skip
        elif what == "tree":
            deep = "true" in parse_qs(query).get("recursive", ["false"])[0].lower()
            self._json(_tree(repository.files(commit), folder, deep))
        else:
            asked = (
                json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            )
            every = {entry["path"]: entry for entry in _tree(repository.files(commit), "", True)}
            self._json([every[path] for path in asked if path in every])

    def _resolve(self, kind: str, name: str, rest: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        revision, _, file = _split(rest, repository)
        commit = repository.commit(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        content = repository.files(commit).get(file)
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        etag = f'"{digest(file, content)}"'
        about = {"X-Repo-Commit": commit}
        if file.endswith(LFS):
            about |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            # Another host, as the hub's CDN is: clients ask it for the content alone.
            port = self.server.server_port
            place = f"http://localhost:{port}/cdn/{name}/{commit}/{file}"
            self._send(302, b"", {**about, "Location": place, "ETag": '"redirect"'})
        else:
            self._content(file, content, {**about, "ETag": etag})

    def _cdn(self, name: str, commit: str, file: str) -> None:
        repository = self.hub.models.get(name) or self.hub.datasets[name]
        content = repository.files(commit)[file]
        self._content(file, content, {"ETag": f'"{digest(file, content)}"'})

    def _content(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        headers = {**headers, "Accept-Ranges": "bytes"}
        status, part = 200, content
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(found[1]), int(found[2] or len(content) - 1)
            status, part = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self._send(status, part, headers, cut=self.command == "GET" and self._drops(file))

    def _drops(self, file: str) -> bool:
        left = self.hub.drops.get(file, 0)
        self.hub.drops[file] = left - 1
        return left > 0

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        all_headers = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._send(status, json.dumps({"error": message}).encode(), all_headers)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)


def _split(path: str, repository: Repository) -> tuple[str, str, str]:
    """Revision and the rest; a revision such as refs/convert/parquet holds slashes."""
    for name in repository.revisions:
        if path == name or path.startswith(f"{name}/"):
            return name, "/", path[len(name) + 1 :]
    revision, slash, rest = path.partition("/")
    return revision, slash, rest


def _tree(files: dict[str, bytes], folder: str, deep: bool) -> list[dict[str, object]]:
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    entries: dict[str, dict[str, object]] = {}
    for name, content in sorted(files.items()):
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split("/")
        for depth in range(1, len(parts) if deep else min(2, len(parts))):
            path = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(path.encode()).hexdigest()
            entries[path] = {"type": "directory", "oid": oid, "size": 0, "path": path}
        if deep or len(parts) == 1:
            oid = digest("", content)
            entry: dict[str, object] = {"type": "file", "oid": oid, "size": len(content)}
            if name.endswith(LFS):
                sha = digest(name, content)
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            entries[name] = {**entry, "path": name}
    return list(entries.values())
