"""Servers on loopback that answer what clients of Google Cloud Storage and of the hub's data sets ask to read files."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5, sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = Callable[[str, dict[str, str], str], Any]
"""Of a path, its options and the request's body: JSON, the bytes of a file, or None for what is not there."""


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    """The address of a server that answers GET, HEAD and POST; of bytes it sends the range that is asked for."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            options = {name: values[0] for name, values in parse_qs(parts.query).items()}
            found = answer(unquote(parts.path), options, body)
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            begin, _, end = self.headers.get("Range", "bytes=0-")[6:].partition("-")
            part = data[int(begin) : int(end) + 1 if end else None] if isinstance(found, bytes) else data
            self.send_response(404 if found is None else 206 if "Range" in self.headers else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{md5(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Range", f"bytes {begin}-{int(begin) + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(part)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def data_set(name: str, folder: Path) -> Answer:
    """The hub with one data set, whose files lie in a folder."""

    def entry(path: Path) -> dict[str, Any]:
        about = {"path": path.relative_to(folder).as_posix(), "oid": sha1(path.name.encode()).hexdigest()}
        return about | ({"type": "directory"} if path.is_dir() else {"type": "file", "size": path.stat().st_size})

    def answer(path: str, options: dict[str, str], body: str) -> Any:
        if (file := folder / path.partition(f"/datasets/{name}/resolve/main/")[2]) and "/resolve/" in path:
            return file.read_bytes() if file.is_file() else None
        kind, _, rest = path.partition(f"/api/datasets/{name}")[2].lstrip("/").partition("/")
        if f"/api/datasets/{name}" not in path:
            return None
        if kind == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            return [entry(folder / each) for each in wanted if (folder / each).exists()]
        if kind == "tree":
            below = folder / rest.partition("/")[2]
            return [entry(each) for each in sorted(below.iterdir())] if below.is_dir() else None
        return {"id": name, "sha": "a" * 40, "siblings": []}

    return answer


def bucket_of(name: str, folder: Path) -> Answer:
    """Google Cloud Storage with one bucket, whose objects lie in a folder."""

    def about(path: Path) -> dict[str, Any]:
        return {
            "kind": "storage#object", "bucket": name, "name": path.relative_to(folder).as_posix(), "generation": "1",
            "size": str(path.stat().st_size), "updated": "2026-01-01T00:00:00Z", "etag": str(path.stat().st_mtime_ns),
            "timeCreated": "2026-01-01T00:00:00Z", "md5Hash": "", "crc32c": "",
        }  # fmt: skip

    def answer(path: str, options: dict[str, str], body: str) -> Any:
        key = path.partition(f"/b/{name}/o/")[2]
        if f"/b/{name}" not in path:
            return None
        if key:
            file = folder / key
            if not file.is_file():
                return None
            return file.read_bytes() if options.get("alt") == "media" or "/download/" in path else about(file)
        if not path.endswith("/o"):
            return {"kind": "storage#bucket", "name": name}
        start, found = options.get("prefix", ""), [each for each in sorted(folder.rglob("*")) if each.is_file()]
        names = {each.relative_to(folder).as_posix(): each for each in found}
        names = {each: at for each, at in names.items() if each.startswith(start)}
        below = {each for each in names if "/" in each[len(start) :] and options.get("delimiter")}
        prefixes = sorted({start + each[len(start) :].partition("/")[0] + "/" for each in below})
        return {"items": [about(at) for each, at in names.items() if each not in below], "prefixes": prefixes}

    return answer
