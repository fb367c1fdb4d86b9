"""A server that speaks the hub's API: repositories in folders, one commit each, some of them gated."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """The repositories by id, each a folder and its commit, and what was asked for."""

    url: str = ""
    repositories: dict[str, tuple[Path, str]] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    """What the hub says to those who may not read a repository."""
    asked: list[str] = field(default_factory=list)
    """Method, path and range of each request."""
    breaks: dict[str, int] = field(default_factory=dict)
    """Files whose next download ends early, after this number of bytes."""
    fails: dict[str, int] = field(default_factory=dict)
    """Files whose download is answered with such a status."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Files whose download takes so long."""

    def publish(self, name: str, folder: Path, commit: str = "a" * 40) -> str:
        self.repositories[name] = folder, commit
        return name

    def downloads(self) -> list[str]:
        """Names of the files that were downloaded, in order."""
        return [
            line.split()[1].rpartition("/")[2] for line in self.asked if line.startswith("GET") and "resolve" in line
        ]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            kind, _, rest = path.partition("api/models/")
            name = "/".join((rest if not kind else path).split("/")[:2])
            if name not in hub.repositories:
                return self.refuse(401, "RepoNotFound", "Invalid username or password.")
            folder, commit = hub.repositories[name]
            words = (rest if not kind else path).split("/")[2:]
            if len(words) > 1 and words[1] not in ("main", commit):
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {words[1]}")
            if not kind:
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                siblings = [{"rfilename": p.relative_to(folder).as_posix(), "size": p.stat().st_size} for p in files]
                return self.answer(json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())
            if name in hub.gated:
                return self.refuse(403, "GatedRepo", hub.gated[name])
            file = folder / "/".join(words[2:])
            if self.command == "GET" and file.name in hub.fails:
                return self.refuse(hub.fails[file.name], "", "")
            if not file.is_file():
                return self.refuse(404, "EntryNotFound", "Entry not found")
            return self.answer(file.read_bytes(), {"X-Repo-Commit": commit}, file.name)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, data: bytes, headers: dict[str, str] | None = None, name: str = "") -> None:
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if begin else 200)
            for key, value in {"ETag": f'"{sha256(data).hexdigest()}"', **(headers or {})}.items():
                self.send_header(key, value)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            if self.command == "HEAD":
                return
            if name in hub.breaks:
                self.wfile.write(data[begin : hub.breaks.pop(name)])
                self.close_connection = True
                return
            for _ in range(int(hub.seconds.get(name, 0) * 10)):
                time.sleep(0.1)
            self.wfile.write(data[begin:])

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            for key, value in {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"}.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
