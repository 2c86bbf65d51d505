"""A fake Hugging Face Hub on localhost: the routes that `datasets` uses, for a repository with commits and branches.

GET /control/failures/2 makes the next two requests for data files fail (-1: all), /control/down/1 every request.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@pytest.fixture(scope="session")
def hub_class() -> type[Hub]:
    return Hub


class Hub(ThreadingHTTPServer):
    def __init__(self, name: str, commits: dict[str, dict[str, bytes]], refs: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.commits, self.refs = name, commits, refs
        self.failures = self.down = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server
        url = urlsplit(self.path)
        path = unquote(url.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        if path.startswith("/control/"):
            key, value = path.split("/")[2:]
            setattr(hub, key, int(value))
            return self.answer(200, b"")
        if hub.down:
            return self.answer(500, b"down")
        for prefix in (f"/datasets/{hub.name}/resolve/", f"/api/datasets/{hub.name}"):
            if path.startswith(prefix):
                rest = path.removeprefix(prefix).strip("/")
                break
        else:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        action, _, rest = rest.partition("/") if prefix.startswith("/api") else ("resolve", "", rest)
        revision, _, file = rest.partition("/")
        sha = hub.refs.get(revision or "main", revision)
        if sha not in hub.commits:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = hub.commits[sha]
        if action == "resolve":
            return self.resolve(sha, file, files)
        if action == "paths-info":
            wanted = parse_qs(body).get("paths") or json.loads(body)["paths"]
            return self.answer(
                200, [entry for path in wanted for entry in _entries(files, path) if entry["path"] == path]
            )
        if action == "tree":
            recursive = parse_qs(url.query).get("recursive", ["False"])[0] in ("True", "true")
            inside = [e for e in _entries(files, file) if e["path"] != file]
            depth = file.count("/") + 1 if file else 0
            return self.answer(200, [e for e in inside if recursive or e["path"].count("/") == depth])
        siblings = [{"rfilename": file} for file in files]
        return self.answer(200, {"id": hub.name, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    do_HEAD = do_GET
    do_POST = do_GET

    def resolve(self, sha: str, file: str, files: dict[str, bytes]) -> None:
        if file not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        data = files[file]
        if file != "README.md" and self.server.failures:
            self.server.failures -= 1
            return self.answer(500, b"broken")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if span := self.headers.get("Range"):
            first, _, last = span.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            return self.answer(206, data[int(first) : end], headers)
        return self.answer(200, data, headers)

    def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entries(files: dict[str, bytes], under: str) -> list[dict[str, object]]:
    """The entries of the tree and paths-info routes for all files and folders at or below `under`."""
    folders = {"/".join(file.split("/")[:depth]) for file in files for depth in range(1, file.count("/") + 1)}
    entries: list[dict[str, object]] = [
        {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders
    ]
    entries += [
        {"type": "file", "path": path, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
        for path, data in files.items()
    ]
    return [e for e in entries if not under or e["path"] == under or str(e["path"]).startswith(under + "/")]
