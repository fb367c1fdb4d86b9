"""Tables to read, and a real HTTP server that misbehaves as told."""

import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

RATINGS = "userId,movieId,rating,timestamp\r\n1,10,4.0,100\r\n1,20,3.5,200\r\n2,10,0.5,50\r\n"
MOVIES = 'movieId,title,genres\r\n10,Toy Story (1995),Comedy\r\n20,"Postino, Il (1994)",Drama|Romance\r\n'


@pytest.fixture
def table(tmp_path) -> Callable[..., Path]:
    """Write a folder with `ratings.csv` and `movies.csv`, or other files; a text is written as UTF-8."""

    def write(ratings: str | bytes = RATINGS, movies: str | bytes = MOVIES, **others: str | bytes) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name, content in {"ratings.csv": ratings, "movies.csv": movies, **others}.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return write


@pytest.fixture
def zipped(tmp_path) -> Callable[..., Path]:
    """Write a zip of the given members."""

    def write(name: str, members: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return tmp_path / name

    return write


@dataclass
class Server:
    """What the server serves, how it behaves, and what it was asked for (path, Range header)."""

    files: dict[str, bytes] = field(default_factory=dict)
    drop_after: int | None = None
    """Close the connection after so many bytes of a body."""
    drops: int = 10**9
    """How many times it does so."""
    ranges: bool = True
    """Whether Range is honoured."""
    lengths: bool = True
    """Whether Content-Length is sent."""
    errors: list[int] = field(default_factory=list)
    """Statuses to answer with first."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine, on a port of its own."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if state.errors:
                self.send_error(state.errors.pop(0))
                return
            if self.path not in state.files:
                self.send_error(404)
                return
            body, start = state.files[self.path], 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.lengths:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = len(body)
            if state.drop_after is not None and state.drops > 0 and start + state.drop_after < end:
                state.drops -= 1
                end = start + state.drop_after
            self.wfile.write(body[start:end])

        def log_message(self, *args: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{service.server_address[1]}"
    yield state
    service.shutdown()
    thread.join()
    service.server_close()
