"""A damaged file is refused in one line, or all its rows are read; no reader ends in another exception."""

import gzip
import io
import os
import random
import re
import sqlite3
import struct
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.examples import examples
from tests.sheets import write_ods, write_xlsx

from palate.errors import InputError, WorkError
from palate.ratings.load import Ratings, load_ratings
from palate.ratings.splits import load_given

RATINGS = b"userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,3.5,200\n2,10,0.5,50\n"
MOVIES = b'movieId,title\n10,Toy Story\n20,"Postino, Il"\n'
PIECES = st.sampled_from([b'"', b"\r", b"\n", b"\\", b'\\"', b",", b"\x00", b"\xff", b"\t", b"'", b"\xef\xbb\xbf", b""])
CUTS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3), PIECES), min_size=1, max_size=2)


def mutated(content: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, piece in cuts:
        content = content[:at] + piece + content[at + length :]
    return content


def read(source: str, load: Callable[[str], Ratings] = load_ratings) -> Ratings | str:
    """The ratings, or the line of their refusal."""
    try:
        return load(source)
    except InputError as error:
        return str(error)


def plain_rows(content: bytes) -> int:
    """Lines of data that are not blank; where there are quotes a row may have several."""
    return sum(1 for line in content.split(b"\n") if line.strip()) - 1


@examples(400)
@given(CUTS, st.sampled_from(["ratings.csv", "movies.csv"]))
@example([(200, 0, b'"')], "ratings.csv")
@example([(200, 0, b'"')], "movies.csv")
@example([(31, 1, b"\r")], "ratings.csv")
@example([(31, 0, b"\r\n1,20,4,7\r")], "ratings.csv")
def test_a_table_is_refused_or_read_whole(cuts, name):
    contents = {"ratings.csv": RATINGS, "movies.csv": MOVIES}
    contents[name] = mutated(contents[name], cuts)
    with tempfile.TemporaryDirectory() as folder:
        for file, content in contents.items():
            (Path(folder) / file).write_bytes(content)
        found = read(folder)
    if isinstance(found, str):
        assert "\n" not in found
        assert "panic" not in found.lower()
        return
    for rows, content in ((found.frame.height, contents["ratings.csv"]), (found.items.height, contents["movies.csv"])):
        assert b'"' in content or rows == plain_rows(content)


def archive(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as members:
        members.writestr("ratings.csv", RATINGS * 20)
        members.writestr("movies.csv", MOVIES)
    return file.getvalue()


@examples(300)
@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_a_damaged_zip_is_refused_by_its_name(method, flips):
    content = bytearray(archive(method))
    for at, mask in flips:
        content[at % len(content)] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.zip"
        path.write_bytes(content)
        found = read(str(path))
    if isinstance(found, str):
        assert found.startswith(str(path))


def test_a_zip_that_unpacks_to_much_more_than_it_is_is_refused_at_once(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as members,
        members.open("ratings.csv", "w") as file,
    ):
        file.write(RATINGS)
        for _ in range(150):
            file.write(b"\n" * (1 << 20))
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"x\.zip/ratings\.csv: unpacks to 15\d MB"):
        load_ratings(str(tmp_path / "x.zip"))
    assert time.monotonic() - begin < 2


def test_a_lying_size_does_not_unpack_more_than_it_says(tmp_path):
    content = archive(zipfile.ZIP_DEFLATED)
    at = content.index(b"PK\x01\x02") + 24
    (tmp_path / "x.zip").write_bytes(content[:at] + struct.pack("<I", 10) + content[at + 4 :])
    with pytest.raises(InputError, match=r"x\.zip/ratings\.csv: "):
        load_ratings(str(tmp_path / "x.zip"))


@pytest.mark.parametrize("name", ["ratings", "movies", "train"])
def test_a_damaged_parquet_table_is_refused_or_read_and_nothing_else_is_printed(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tables = {"ratings": RATINGS, "movies": MOVIES, "train": RATINGS.replace(b"timestamp", b"label")}
    frame = pl.read_csv(tables[name])
    frame.write_parquet(tmp_path / f"{name}.parquet")
    if name == "movies":
        (tmp_path / "ratings.csv").write_bytes(RATINGS)
    content = (tmp_path / f"{name}.parquet").read_bytes()
    refused = 0
    for seed in range(300):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] ^= draw.randint(1, 255)
        (tmp_path / f"{name}.parquet").write_bytes(damaged)
        found = read(str(tmp_path), load_given if name == "train" else load_ratings)
        if isinstance(found, str):
            assert "\n" not in found
            assert "panic" not in found.lower()
            refused += 1
    assert refused > 100
    assert capfd.readouterr().err == ""


def test_a_damaged_arrow_file_is_refused_or_read_and_does_not_end_the_process(tmp_path: Path) -> None:
    content = pl.read_csv(RATINGS).cast({"userId": pl.String}).write_ipc(None).getvalue()
    refused = 0
    for seed in range(200):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] ^= draw.randint(1, 255)
        (tmp_path / "ratings.arrow").write_bytes(damaged)
        refused += isinstance(read(str(tmp_path / "ratings.arrow"), partial(load_ratings, untitled="id")), str)
    assert refused > 50


@pytest.mark.parametrize("name", ["ratings.csv", "ratings.zip"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe or a device, expected a file"):
        load_ratings(str(tmp_path / name))


@pytest.mark.parametrize("name", [b"ratings\xff.csv", b"x" * 300 + b".csv"])
def test_a_name_that_no_file_may_have_is_refused(tmp_path: Path, name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    if len(name) < 256:
        Path(os.fsdecode(path)).write_bytes(RATINGS)
    with pytest.raises(InputError, match=r"UTF-8|no such file") as caught:
        load_ratings(os.fsdecode(path))
    str(caught.value).encode()


@pytest.mark.parametrize("separator", ["é", '"'])
def test_a_noted_separator_that_no_reader_takes_is_named(tmp_path: Path, separator: str) -> None:
    (tmp_path / "ratings.csv").write_bytes(f"sep={separator}\n".encode() + RATINGS)
    with pytest.raises(InputError, match=r"ratings\.csv:1: the separator '.' cannot separate fields"):
        load_ratings(str(tmp_path / "ratings.csv"))


@pytest.mark.parametrize("encoding", ["base64", "none", "a\0"])
def test_an_encoding_of_no_text_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ratings.csv").write_bytes(RATINGS)
    with pytest.raises(InputError, match=r"ratings\.encoding: .* is no encoding of text"):
        load_ratings(str(tmp_path / "ratings.csv"), encoding=encoding)


@pytest.mark.parametrize("url", ["sqlite://[::1", "postgresql://[x/y?table=a", "zip://x.csv::none.zip", "github://x"])
def test_a_url_that_cannot_be_taken_apart_is_named(url: str) -> None:
    with pytest.raises(InputError, match=re.escape(url)):
        load_ratings(url)


def test_a_long_field_does_not_fill_the_message(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_bytes(RATINGS.replace(b"4.0", b"4" * 100_000 + b"x"))
    with pytest.raises(InputError, match=r"ratings\.csv:2: rating '4+ \[…\] 4+x' is not a number") as caught:
        load_ratings(str(tmp_path / "ratings.csv"))
    assert len(str(caught.value)) < 3000


def test_a_number_that_json_lacks_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "ratings.jsonl").write_text('{"user": 1, "item": 2, "rating": NaN, "time": 4}\n')
    with pytest.raises(InputError, match=r"ratings\.jsonl:1: is not JSON: NaN"):
        load_ratings(str(tmp_path / "ratings.jsonl"))


def test_a_damaged_database_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA page_size = 512")
    raw.execute("CREATE TABLE ratings (user_id, item_id, rating, timestamp)")
    raw.executemany("INSERT INTO ratings VALUES (?, ?, 4, 5)", [("ann", n) for n in range(9)])
    raw.commit()
    raw.close()
    content = path.read_bytes()
    for seed in range(150):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range(4):
            damaged[draw.randrange(len(damaged))] ^= draw.randint(1, 255)
        path.write_bytes(damaged)
        try:
            load_ratings(f"sqlite:///{path}?table=ratings", untitled="id")
        except (InputError, WorkError) as error:
            assert path.name in str(error)  # noqa: PT017


def test_a_bomb_within_a_zip_is_measured_by_the_zip(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(101_000_000), 1) + bytes(10_000_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("ratings.csv.gz", bomb)
    with pytest.raises(InputError, match=r"ratings\.csv\.gz: unpacks to more than 100 MB"):
        load_ratings(str(tmp_path / "x.zip"))


def test_a_parquet_file_of_repeated_rows_is_not_unpacked(tmp_path: Path) -> None:
    rows = pl.select(user=pl.repeat(1, 4_000_000)).with_columns(item=1, rating=4.0, timestamp=5)
    rows.write_parquet(tmp_path / "ratings.parquet")
    with pytest.raises(InputError, match=r"ratings\.parquet: .*4,000,000 rows in [\d,]+ bytes are no log"):
        load_ratings(str(tmp_path / "ratings.parquet"))


def tarred(compress: Callable[[bytes], bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as members:
        for name, content in (("ratings.csv", RATINGS), ("movies.csv", MOVIES)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return compress(file.getvalue())


@pytest.mark.parametrize("kind", [".tar", ".tgz", ".xlsx", ".ods"])
def test_a_damaged_archive_or_spreadsheet_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    if kind in (".xlsx", ".ods"):
        pytest.importorskip("fastexcel", reason="no fastexcel here")
        rows = [line.split(",") for line in RATINGS.decode().splitlines()]
        (write_xlsx if kind == ".xlsx" else write_ods)(tmp_path / "whole", {"A": rows})
        whole = (tmp_path / "whole").read_bytes()
    else:
        whole = tarred(bytes if kind == ".tar" else partial(gzip.compress, mtime=0))
    draw = random.Random(7)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(min(len(damaged), 1200))
            damaged[at] = draw.randrange(256)
        (tmp_path / f"log{kind}").write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        found = read(str(tmp_path / f"log{kind}"), partial(load_ratings, untitled="id"))
        assert not isinstance(found, str) or (f"log{kind}" in found and "\n" not in found)


def arrow_file(path: Path, times: pa.Array) -> bytes:
    table = pa.table({"user": ["a", "b"], "item": [1, 2], "rating": [4.0, 5.0], "time": times})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    return path.read_bytes()


def test_times_of_arrow_that_polars_would_wrap_around_are_refused(tmp_path: Path) -> None:
    arrow_file(tmp_path / "log.arrow", pa.array([1, 2**62], pa.timestamp("s")))
    with pytest.raises(
        InputError, match=r"log\.arrow: cannot be read, .* out of bounds timestamp: 4611686018427387904"
    ):
        load_ratings(str(tmp_path / "log.arrow"), untitled="id")


def test_a_damaged_name_of_a_time_zone_is_refused_without_a_panic(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = arrow_file(tmp_path / "log.arrow", pa.array([1, 2], pa.timestamp("us", "Europe/Berlin")))
    (tmp_path / "log.arrow").write_bytes(content.replace(b"Europe/B", b"Europe/\xea"))
    with pytest.raises(InputError, match=r"log\.arrow: cannot be read, .* can't decode byte 0xea"):
        load_ratings(str(tmp_path / "log.arrow"), untitled="id")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lone", ['"\\ud800"', '"\\u0000"'])
def test_an_id_that_json_cannot_keep_is_refused(tmp_path: Path, lone: str) -> None:
    (tmp_path / "ratings.jsonl").write_text(f'{{"user": {lone}, "item": 2, "rating": 3, "time": 4}}\n')
    with pytest.raises(InputError, match=r"ratings\.jsonl:1: user_id '\\x00' has NUL or a carriage return"):
        load_ratings(str(tmp_path / "ratings.jsonl"), untitled="id")


@pytest.mark.parametrize("place", ["[%s]", "%s"])
def test_a_number_beyond_64_bits_is_named(tmp_path: Path, place: str) -> None:
    row = '{"user": "a", "item": 2, "rating": 1e400, "time": 4}'
    (tmp_path / "ratings.json").write_text(place % row)
    with pytest.raises(
        InputError, match=r"ratings\.json:?1?: is (not a|not) JSON.*1e400 is no number of JSON, or beyond"
    ):
        load_ratings(str(tmp_path / "ratings.json"), untitled="id")


def test_a_parquet_column_of_titles_that_are_all_missing_is_none(tmp_path: Path) -> None:
    rows = pl.DataFrame({"user": [1], "item": [2], "rating": [3.0], "time": [4], "title": [None]})
    rows.write_parquet(tmp_path / "ratings.parquet")
    assert load_ratings(str(tmp_path / "ratings.parquet"), untitled="id").items.rows() == [(2, "2")]


@pytest.mark.parametrize("memory", [None, 1])
def test_a_footer_that_says_more_rows_than_there_are_is_refused(tmp_path: Path, memory: int | None) -> None:
    rows = pa.table({"user": [1, 2, 3], "item": [4, 5, 6], "rating": [1.0, 2.0, 3.0], "time": [7, 8, 9]})
    with pa.BufferOutputStream() as file:
        pq.write_table(rows, file)
        content = file.getvalue().to_pybytes()
    (tmp_path / "log.parquet").write_bytes(content.replace(b"\x16\x06", b"\x16\x08"))
    with pytest.raises(InputError, match=r"log\.parquet: .* the footer says 4 rows, the pages have 3"):
        load_ratings(str(tmp_path / "log.parquet"), untitled="id", memory=memory)


def test_a_table_of_too_many_columns_is_refused_with_their_number(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(f"user,item,rating,time{',x' * 5000}\n1,2,3,4{',' * 5000}\n")
    with pytest.raises(InputError, match=r"ratings\.csv:1: has 5,004 columns, expected at most 5,000"):
        load_ratings(str(tmp_path / "ratings.csv"), untitled="id")
