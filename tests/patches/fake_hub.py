"""A hub on this machine: the few HTTP calls that the hub library makes to push, pull and read ranges of files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


@dataclass
class FakeHub:
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> file name -> content
    sent: dict[str, int] = field(default_factory=dict)  # file name -> bytes of it that were sent
    endpoint: str = ""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: _Handler(hub, *arguments))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            files = self.hub.files.get("/".join(parts[2:4]))
            if files is not None and parts[4:5] == ["tree"]:
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
                self._answer(entries)
                return
            siblings = [{"rfilename": name} for name in files or {}]
            found = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}
            self._answer(found) if files is not None else self._answer({"error": "no such repository"}, 404)
            return
        content = self.hub.files.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if content is None:
            self._answer({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        status = 200
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            first, last = asked.removeprefix("bytes=").split("-")
            end = int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        self._send(content, status, {**headers, "Content-Type": "application/octet-stream"})
        if self.command == "GET":
            name = parts[-1]
            self.hub.sent[name] = self.hub.sent.get(name, 0) + len(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, [wanted.get("organization"), wanted["name"]]))
            self.hub.files.setdefault(name, {})
            self._answer({"url": f"{self.hub.endpoint}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            wanted = json.loads(body)["files"]
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in wanted]
            self._answer({"files": files})
        elif "/commit/" in path:
            repo = "/".join(path.split("/")[3:5])
            for line in body.decode().splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    value = row["value"]
                    self.hub.files[repo][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.hub.endpoint}/{repo}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self._answer({"error": path}, 404)

    def _answer(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
