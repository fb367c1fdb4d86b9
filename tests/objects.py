"""A real S3 server in this process, moto's, with a bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a server with the empty bucket `shop`, which `s3://shop/…` finds meanwhile."""
    pytest.importorskip("s3fs", reason="no s3fs here")
    moto = pytest.importorskip("moto.server", reason="no S3 server here")
    import s3fs

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "y"),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        urlopen(
            Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
        ).close()  # all servers share its state
        s3fs.S3FileSystem.clear_instance_cache()  # of an earlier server
        store = s3fs.S3FileSystem(use_listings_cache=False)
        store.mkdir("shop")
        yield store
    finally:
        server.stop()
