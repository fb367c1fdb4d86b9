"""A damaged file is refused in one line, or all its rows are read; no reader ends in another exception."""

import io
import random
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.examples import examples

from palate.errors import InputError
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
