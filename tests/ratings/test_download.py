import hashlib
import io
import ssl
import subprocess
import sys
import threading
import zipfile
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from palate.errors import WorkError
from palate.ratings.download import download

BODY = np.random.default_rng(1).bytes(700_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "data" / "x.zip"


def fetch(server, target: Path, **options) -> Path:
    server.files.setdefault("/x.zip", BODY)
    known = {"size": len(BODY), "sha256": SHA, "attempts": 3, "wait": 0.01} | options
    return download(f"{server.url}/x.zip", target, **known)


def test_a_file_arrives_whole_and_nothing_partial_stays(server, target):
    assert fetch(server, target).read_bytes() == BODY
    assert not list(target.parent.glob("*.part"))


def test_a_dropped_connection_is_resumed_where_it_broke_off(server, target):
    server.drop_after = 200_000
    assert fetch(server, target).read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=200000-", "bytes=400000-", "bytes=600000-"]


def test_a_download_that_ended_in_an_earlier_run_goes_on(server, target):
    server.drop_after, server.ranges = 0, True
    target.parent.mkdir()
    target.with_name("x.zip.part").write_bytes(BODY[:123_456])
    with pytest.raises(WorkError, match="run it again to resume, or fetch the file by hand"):
        fetch(server, target)
    server.drop_after = None
    assert fetch(server, target).read_bytes() == BODY
    assert server.asked[-1][1] == "bytes=123456-"


def test_a_server_that_ignores_range_sends_it_all_again(server, target):
    server.ranges, server.drop_after, server.drops = False, 300_000, 1
    assert fetch(server, target).read_bytes() == BODY
    assert len(server.asked) == 2


def test_a_server_that_always_drops_is_given_up(server, target):
    server.drop_after = 0
    with pytest.raises(WorkError, match=r"failed 3 times: the connection ended after 0 of 700,000 bytes"):
        fetch(server, target)
    assert not target.exists()


def test_an_early_end_is_noticed_without_a_content_length(server, target):
    server.lengths, server.drop_after, server.drops = False, 100_000, 1
    assert fetch(server, target).read_bytes() == BODY


def test_a_wrong_checksum_removes_what_came_and_says_both(server, target):
    server.files["/x.zip"] = BODY[:-1] + b"!"
    with pytest.raises(WorkError, match=f"wrong checksum: sha256 .* expected sha256 {SHA}"):
        fetch(server, target)
    assert not target.exists()
    assert not target.with_name("x.zip.part").exists()


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server, target):
    target.parent.mkdir()
    target.with_name("x.zip.part").write_bytes(BODY + b"more")
    assert fetch(server, target).read_bytes() == BODY


def test_a_part_that_is_whole_already_is_not_asked_for(server, target):
    target.parent.mkdir()
    target.with_name("x.zip.part").write_bytes(BODY)
    assert fetch(server, target).read_bytes() == BODY
    assert server.asked == []


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, target):
    server.errors = [503, 429]
    assert fetch(server, target).exists()
    target.unlink()
    with pytest.raises(WorkError, match="HTTP 404"):
        download(f"{server.url}/y.zip", target, wait=0.01)
    assert len(server.asked) == 4


def test_nobody_there_is_an_error_with_the_reason(target):
    with pytest.raises(WorkError, match="refused"):
        download("http://127.0.0.1:9/x.zip", target, attempts=2, wait=0.01)


def test_without_a_known_checksum_the_zips_own_decide(server, target):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello" * 100)
    whole = buffer.getvalue()
    server.files["/x.zip"] = whole.replace(b"hellohello", b"hellohullo", 1)
    with pytest.raises(WorkError, match=r"broken zip: a\.txt"):
        fetch(server, target, size=None, sha256=None)
    server.files["/x.zip"] = b"<html>moved</html>"
    with pytest.raises(WorkError, match="not a zip"):
        fetch(server, target, size=None, sha256=None)
    server.files["/x.zip"] = whole
    assert fetch(server, target, size=None, sha256=None).read_bytes() == whole


def test_two_runs_at_once_fetch_the_file_once(server, target):
    server.files["/x.zip"] = BODY
    call = f"download({server.url + '/x.zip'!r}, Path({str(target)!r}), size={len(BODY)}, sha256={SHA!r})"
    code = f"from pathlib import Path; from palate.ratings.download import download; {call}"
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert target.read_bytes() == BODY
    assert len(server.asked) == 1


def test_a_certificate_that_is_not_valid_comes_with_the_remedy(tmp_path, target):
    certificate = tmp_path / "certificate.pem"
    ask = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    ask += ["-keyout", str(certificate), "-out", str(tmp_path / "public.pem")]
    made = subprocess.run(ask, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl is not there to make a certificate")
    certificate.write_bytes(certificate.read_bytes() + (tmp_path / "public.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    service = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    thread = threading.Thread(target=service.handle_request)
    thread.start()
    remedy = r"certificate is not valid \(.*fetch the file by hand and put it at .*x\.zip"
    with pytest.raises(WorkError, match=remedy):
        download(f"https://localhost:{service.server_address[1]}/x.zip", target, wait=0.01)
    thread.join()
    service.server_close()
