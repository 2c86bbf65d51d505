"""A small Hugging Face Hub on localhost: repositories, the LFS protocol, commits, downloads."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_a_token_that_nobody_may_see"
LFS = (".safetensors", "tokenizer.json")  # tokenizer.json only, so that there are two such files


@dataclass
class Hub:
    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)  # repository -> whether it is private
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> path -> content
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS: SHA-256 -> content
    requests: list[str] = field(default_factory=list)  # method and path
    commits: int = 0
    answer: Callable[[str], int | None] = lambda request: None  # the status of a request that should fail

    def sent(self, what: str) -> list[str]:
        return [request for request in self.requests if what in request]


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def reply(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        request = f"{self.command} {path}"
        hub.requests.append(request)
        given = self.headers.get("Authorization", "")
        status = hub.answer(request) or (None if given == f"Bearer {TOKEN}" or "/lfs/" in path else 401)
        if status:  # some servers echo the request in an error
            return self.reply(status, {"error": f"no: {given}"}, X_Error_Message=f"no: {given}")
        if request == "POST /api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.private:
                return self.reply(409, {"error": "exists", "url": f"{hub.url}/{name}"})
            hub.private[name] = asked.get("visibility") == "private"
            hub.files[name] = {}
            return self.reply(200, {"url": f"{hub.url}/{name}"})
        if request == "POST /api/validate-yaml":
            return self.reply(200, {})
        if found := re.fullmatch(r"PUT /lfs/(\w+)", request):
            assert hashlib.sha256(body).hexdigest() == found[1]
            hub.objects[found[1]] = body
            return self.reply(200, {})
        name = next((name for name in hub.files if f"/{name}" in path), "")
        if not name:
            return self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        files, commit = hub.files[name], f"{hub.commits:040x}"
        if path == f"/api/models/{name}":
            listed = [{"rfilename": file} for file in files]
            return self.reply(200, {"id": name, "private": hub.private[name], "sha": commit, "siblings": listed})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(LFS) else "regular" for file in asked}
            return self.reply(
                200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
            )
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for entry in objects:
                if entry["oid"] not in hub.objects:
                    entry["actions"] = {"upload": {"href": f"{hub.url}/lfs/{entry['oid']}"}}
            return self.reply(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            hub.commits += 1
            return self.reply(200, {"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": f"{hub.commits:040x}"})
        file = path.partition("/resolve/")[2].partition("/")[2]
        if file not in files:
            return self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        etag = hashlib.sha256(files[file]).hexdigest()
        return self.reply(200, files[file], ETag=f'"{etag}"', X_Repo_Commit=commit)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("WithHub", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
