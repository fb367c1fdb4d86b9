"""Download one archive: resume a broken download, and verify the file before its final rename.

Received bytes are in `NAME.zip.part`, which later runs resume. A verified file is renamed to `NAME.zip`.
"""

import http.client
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from palate import __version__
from palate.errors import WorkError
from palate.progress import download_bar
from palate.store.artifacts import sha256_file, writing
from palate.store.lock import locked

_BLOCK = 1 << 18


class _BrokenError(Exception):
    """The connection failed or ended early; another attempt may succeed."""


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Download `url` to `target` and return it; `size` in bytes and `sha256` are verified if given.

    An attempt that receives no bytes counts against `attempts`, and a pause of `wait` seconds follows, doubled each
    time. An attempt that receives bytes is resumed at once. Without `sha256` the zip's own checksums are verified. A
    second process for the same file waits for the first. Raises `WorkError`.
    """
    part = target.with_name(target.name + ".part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if target.exists():  # another process downloaded it while this one waited
                return target
            _fetch(url, part, size, attempts, wait, timeout)
            _verify(url, part, size, sha256)
            part.replace(target)
    return target


def _fetch(url: str, part: Path, size: int | None, attempts: int, wait: float, timeout: float) -> None:
    """Download `part` to its full length over as many connections as necessary."""
    with download_bar() as progress:
        task = progress.add_task(part.stem, total=size)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            if size is not None and before == size:
                return
            try:
                for done, total in _receive(url, part, before, timeout):
                    progress.update(task, completed=done, total=total or size)
                if size is None or part.stat().st_size >= size:
                    return
                raise _BrokenError(f"the connection ended before the last of {size:,} bytes")
            except _BrokenError as error:
                if part.exists() and part.stat().st_size > before:
                    failures = 0
                    continue
                failures += 1
                if failures >= attempts:
                    again = "run it again to resume" if before else "try again later"
                    remedy = f"{again}, or fetch the file by hand and put it at {part.with_suffix('')}"
                    raise WorkError(f"{url}: download failed {failures} times: {error}; {remedy}") from error
                time.sleep(wait * 2 ** (failures - 1))


def _receive(url: str, part: Path, have: int, timeout: float) -> Iterator[tuple[int, int | None]]:
    """Append one response to the `have` bytes of `part`; yields (bytes received, total bytes)."""
    request = urllib.request.Request(url, headers={"User-Agent": f"palate/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            resumed = response.status == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise _BrokenError("the server resumed at the wrong place")
            length = response.headers.get("Content-Length")
            done = have if resumed else 0
            total = done + int(length) if length else None
            with part.open("ab" if resumed else "wb") as file:
                while block := _read(response):
                    file.write(block)
                    done += len(block)
                    yield done, total
            if total is not None and done < total:
                raise _BrokenError(f"the connection ended after {done:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing follows byte `have`: the file is complete, or the server's file changed
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink(missing_ok=True)
            raise _BrokenError("the server's file is shorter than the received part") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _BrokenError(f"HTTP {error.code} {error.reason}") from error
        raise WorkError(
            f"{url}: HTTP {error.code} {error.reason}; fetch the file by hand and put it at {part.with_suffix('')}"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise WorkError(
                f"{url}: the server's certificate is not valid ({error.reason.verify_message}); fetch the file by "
                f"hand and put it at {part.with_suffix('')}"
            ) from error
        raise _BrokenError(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next block; after a break the bytes received before it, so that the next attempt resumes after them."""
    try:
        return response.read(_BLOCK)
    except http.client.IncompleteRead as error:
        return error.partial


def _verify(url: str, part: Path, size: int | None, sha256: str | None) -> None:
    """Remove `part` and raise `WorkError` if its checksum is wrong."""
    problem = ""
    if sha256 is not None:
        found = sha256_file(part)
        if found != sha256:
            expected = f"sha256 {sha256}" + (f" ({size:,} bytes)" if size else "")
            problem = f"wrong checksum: sha256 {found} ({part.stat().st_size:,} bytes), expected {expected}"
    else:
        try:
            with zipfile.ZipFile(part) as archive:
                broken = archive.testzip()
            problem = f"broken zip: {broken} fails its checksum" if broken else ""
        except zipfile.BadZipFile:
            problem = "the downloaded file is not a zip"
    if problem:
        part.unlink()
        raise WorkError(f"{url}: {problem}; the file was removed, try again later or fetch it by hand")
