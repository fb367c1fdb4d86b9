"""One log in every shape that people have: the same ratings and titles come out of each, see docs/formats.md."""

import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pandas
import polars as pl
import pyarrow as pa
import pytest
from tests import postgres
from tests.disk import files_of_at_most
from tests.objects import bucket
from tests.sheets import serial, write_ods, write_xlsx

from palate.errors import InputError, WorkError
from palate.ratings.load import Ratings, load_ratings
from palate.store.artifacts import DAY

LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 2, 2],
        "item_id": [10, 20, 10, 30],
        "rating": [4.0, 3.5, 0.5, 5.0],
        "timestamp": [1_500_000_000, 1_500_000_001, 1_500_000_002, 1_500_000_003],
    }
)
ITEMS = pl.DataFrame({"item_id": [10, 20, 30], "title": ["Café; society", 'Il "postino"', "Heat, 1995"]})


def csv(frame: pl.DataFrame, separator: str = ",", **options: bool) -> bytes:
    return frame.write_csv(separator=separator, **options).encode()  # type: ignore[arg-type]


def lines(frame: pl.DataFrame) -> bytes:
    return frame.write_ndjson().encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


def read(source: object, **options: object) -> Ratings:
    return load_ratings(str(source), **options)  # type: ignore[arg-type]


def check(found: Ratings, shape: str | None = None) -> None:
    assert found.frame.select(LOG.columns).rows() == LOG.rows()
    assert found.items.select("item_id", "title").sort("item_id").rows() == ITEMS.rows()
    assert shape is None or found.shape == shape


WRITTEN: dict[str, tuple[Callable[[pl.DataFrame], bytes], str, str]] = {
    "commas": (csv, ".csv", "CSV"),
    "tabs in a .csv": (partial(csv, separator="\t"), ".csv", "TSV"),
    "semicolons": (partial(csv, separator=";"), ".csv", "text with semicolons"),
    "bars": (partial(csv, separator="|"), ".csv", "text with bars"),
    "carets": (partial(csv, separator="^"), ".tsv", "text with '^'"),
    "Hive's default": (partial(csv, separator="\x01"), ".csv", "text with '\\x01'"),
    "a mark": (lambda frame: b"\xef\xbb\xbf" + csv(frame), ".csv", "CSV"),
    "gzip": (lambda frame: gzip.compress(csv(frame)), ".csv.gz", "CSV, gzip"),
    "bzip2": (lambda frame: bz2.compress(csv(frame)), ".tsv.bz2", "CSV, bz2"),
    "xz": (lambda frame: lzma.compress(csv(frame)), ".csv.xz", "CSV, xz"),
    "zstd": (lambda frame: zstd(csv(frame)), ".csv.zst", "CSV, zstd"),
    "gzip without its suffix": (lambda frame: gzip.compress(csv(frame)), ".csv", "CSV, gzip"),
    "UTF-16, as spreadsheets write it": (
        lambda frame: csv(frame, "\t").decode().encode("utf-16"), ".csv", "TSV, utf-16"
    ),
    "UTF-16 without a mark": (lambda frame: csv(frame).decode().encode("utf-16-le"), ".csv", "CSV, utf-16-le"),
    "JSON lines": (lines, ".jsonl", "JSON"),
    "JSON lines as .json, zstd": (lambda frame: zstd(lines(frame)), ".json.zst", "JSON, zstd"),
    "a JSON array": (lambda frame: json.dumps(frame.to_dicts(), indent=1).encode(), ".json", "JSON"),
    "Arrow": (lambda frame: frame.write_ipc(None).getvalue(), ".arrow", "Arrow IPC"),
    "an Arrow stream": (lambda frame: frame.write_ipc_stream(None).getvalue(), ".feather", "Arrow IPC"),
}  # fmt: skip


@pytest.mark.parametrize("how", WRITTEN)
def test_a_file_in_any_form(tmp_path: Path, how: str) -> None:
    write, suffix, shape = WRITTEN[how]
    (tmp_path / f"ratings{suffix}").write_bytes(write(LOG))
    (tmp_path / f"movies{suffix}").write_bytes(write(ITEMS))
    check(read(tmp_path), shape)
    check(read(tmp_path / f"ratings{suffix}"), shape)


IN_ENCODINGS = {
    "cp1252": "Les Misérables – l’été à Orléans|Das weiße Rössl, ¿Qué he hecho?|Cidade São, Låt den rätte, Brødre",
    "cp1250": "Krzyżacy|Mały Książę i Wiedźmin: Ostatnie życzenie|Przedwiośnie",
    "iso8859_2": "Wiedźmin: Ostatnie życzenie|Szatan z siódmej klasy, część pierwsza|Mały Książę",
    "windows-1250": "Osudy dobrého vojáka Švejka|Ostře sledované vlaky a Žert|Bílá nemoc",
    "iso-8859-2": "Ostře sledované vlaky|Osudy dobrého vojáka Švejka|Krysař a Žert",
    "cp1250 ": "Kőszívű ember fiai|Őszi hajnal és Csongor és Tünde|Az ember tragédiája",
    "cp1251": "Служебный роман и ещё одна комедия о людях|ВОЙНА И МИР|Пользователь0",
    "koi8_r": "Война и мир|Мёртвые души|Отцы и дети",
    "cp1253": "Ο Χριστός ξανασταυρώνεται|Άσκηση|Το τρίτο στεφάνι",
    "cp1254": "Aşk-ı Memnu|Çalıkuşu ve İnce Memed|Saatleri Ayarlama Enstitüsü",
    "cp1255": "סיפור על אהבה וחושך|מיכאל שלי|ואלס עם באשיר",
    "cp1256": "موسم الهجرة إلى الشمال|أولاد حارتنا|مدن الملح",
    "cp1257": "Žemė maitintoja|Dievų miškas ir Anykščių šilelis|Altorių šešėly",
    "mac_roman": "Café Müller|Über uns|Les Misérables à Orléans",
    "shift_jis": "七人の侍|千と千尋の神隠し|ゴジラ",
    "euc_jp": "七人の侍|千と千尋の神隠し|ゴジラ",
    "gb18030": "卧虎藏龙是一部电影，我们都喜欢看这部电影|红楼梦|霸王别姬",
    "big5": "臥虎藏龍|悲情城市|花樣年華",
    "cp949": "살인의 추억|올드보이|기생충",
}


@pytest.mark.parametrize("encoding", IN_ENCODINGS)
def test_text_in_a_legacy_encoding(tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    titles, encoding = IN_ENCODINGS[encoding].split("|"), encoding.strip()
    rows = "".join(f'{item},"{title}"\n' for item, title in zip((10, 20, 30), titles, strict=True))
    (tmp_path / "ratings.csv").write_bytes(csv(LOG))
    (tmp_path / "movies.csv").write_bytes(f"item_id,title\n{rows}".encode(encoding))
    assert read(tmp_path).items["title"].to_list() == titles
    guess = caplog.text.count(f"such as '10,\"{titles[0]}") * caplog.text.count("ratings.encoding names another")
    assert guess == (encoding != "cp1252")
    caplog.clear()
    assert read(tmp_path, encoding=encoding).items["title"].to_list() == titles
    assert not caplog.text


def test_accents_that_fit_many_encodings_are_those_of_western_europe(tmp_path: Path) -> None:
    frame = LOG.with_columns(title=pl.format("Café {}", "item_id"))
    (tmp_path / "log.csv").write_bytes(frame.write_csv(separator=";").encode("cp1252"))
    assert read(tmp_path / "log.csv").shape == "text with semicolons, cp1252"


def test_an_encoding_that_does_not_fit_is_told(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_bytes(csv(LOG))
    (tmp_path / "movies.csv").write_bytes("item_id,title\n10,é\n20,B\n30,C\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"movies\.csv: is not shift_jis text: .*ratings\.encoding names another"):
        read(tmp_path, encoding="shift_jis")


def test_the_parts_that_spark_writes(tmp_path: Path) -> None:
    for name, frame in (("ratings", LOG), ("movies", ITEMS)):
        for number, part in enumerate(frame.iter_slices(2)):
            for suffix, write in ((".parquet", part.write_parquet), (".csv", part.write_csv)):
                folder = tmp_path / f"{name}{suffix}"
                folder.mkdir(exist_ok=True)
                (folder / "_SUCCESS").touch()
                (folder / ".part.crc").write_bytes(b"x")
                write(folder / f"part-{number:05}-0a1b2c3d-1111-2222-3333-444455556666-c000{suffix}")
    for suffix, shape in ((".parquet", "2 files of Parquet"), (".csv", "2 files of CSV")):
        check(read(tmp_path / f"ratings{suffix}", items=str(tmp_path / f"movies{suffix}")), shape)
        check(read(tmp_path / f"ratings{suffix}/*{suffix}", items=str(tmp_path / f"movies{suffix}/*{suffix}")), shape)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_empty_parts_are_left_out(tmp_path: Path, suffix: str) -> None:
    ITEMS.write_csv(tmp_path / "items.csv")
    folder = tmp_path / "ratings"
    folder.mkdir()
    (folder / f"part-0.{suffix}").touch()
    with pytest.raises(InputError, match=rf"part-0\.{suffix}: is empty, expected"):
        read(folder, items=str(tmp_path / "items.csv"))
    for number, part in enumerate(LOG.iter_slices(2), 1):
        (folder / f"part-{number}.{suffix}").write_bytes(csv(part) if suffix == "csv" else lines(part))
    (folder / f"part-9.{suffix}").write_bytes(csv(LOG[:0]) if suffix == "csv" else b"")
    for place in (folder, folder / f"*.{suffix}"):
        found = read(place, items=str(tmp_path / "items.csv"))
        assert found.frame.rows() == LOG.rows()


def test_a_table_partitioned_by_a_column(tmp_path: Path) -> None:
    for number, part in enumerate(LOG.iter_slices(2)):
        (tmp_path / "log" / f"year={2023 + number}").mkdir(parents=True)
        part.write_parquet(tmp_path / "log" / f"year={2023 + number}" / "part-0.parquet")
    ITEMS.write_parquet(tmp_path / "items.parquet")
    check(read(tmp_path / "log", items=str(tmp_path / "items.parquet")), "2 files of Parquet")


def test_a_wrong_row_of_a_part_has_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a1.csv").write_bytes(csv(LOG))
    (tmp_path / "a2.csv").write_text("user_id,item_id,rating,timestamp\n3,10,2,5\n1,20,3.5,1500000001\n")
    (tmp_path / "a3.csv").write_text("user_id,item_id,rating,timestamp\nx1,10,2,1500000001\n")
    ITEMS.write_csv(tmp_path / "items.csv")
    wanted = r"a2\.csv:3: user 1 rated item 20 at 1500000001 already on line 3 of a1\.csv"
    with pytest.raises(InputError, match=wanted):
        read(tmp_path / "a?.csv")
    found = read(tmp_path / "a?.csv", bad_rows="report")
    assert found.frame["user_id"].to_list() == ["1", "1", "2", "2", "3", "x1"]
    assert found.skipped is not None
    assert found.skipped.rows() == [("a2.csv", 3, "repeated", "1,20,3.5,1500000001")]


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_table_of_a_database_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"shop.{kind}"
    if kind == "sqlite":
        raw: object = sqlite3.connect(path)
    else:
        raw = pytest.importorskip("duckdb", reason="no DuckDB here").connect(str(path))
    fill(raw, "products", "?")
    raw.close()  # type: ignore[attr-defined]
    url = f"{kind}:///{path}"
    check(read(url), f"a table of {kind}")
    check(read(f"{url}?table=ratings", items=f"{url}?table=products"))
    with pytest.raises(InputError, match=r"has no table 'orders', expected one of products, ratings"):
        read(f"{url}?table=orders")
    with pytest.raises(InputError, match=r"ratings: row 1: rating 4 is outside of the scale"):
        read(url, scale=(1, 2))


def fill(raw: object, items: str, mark: str) -> None:
    """Write the log and the items into a database."""
    for name, frame, types in (
        ("ratings", LOG, "user_id INTEGER, item_id INTEGER, rating DOUBLE PRECISION, timestamp BIGINT"),
        (items, ITEMS, "item_id INTEGER, title VARCHAR(100)"),
    ):
        raw.execute(f"CREATE TABLE {name} ({types})")  # type: ignore[attr-defined]
        for row in frame.rows():
            values = ", ".join([mark] * len(row))
            raw.execute(f"INSERT INTO {name} VALUES ({values})", row)  # type: ignore[attr-defined]
    raw.commit()  # type: ignore[attr-defined]


def test_a_table_of_postgresql() -> None:
    with postgres.serving() as url:
        import psycopg

        with psycopg.connect(url) as raw:
            fill(raw, "products", "%s")
            raw.execute("CREATE SCHEMA shop")
            raw.execute(
                "CREATE TABLE shop.log AS SELECT gen_random_uuid() user_id, item_id, rating::numeric(3,1) rating, "
                "to_timestamp(timestamp) created_at, '{\"a\": 1}'::jsonb data FROM ratings"
            )
        check(read(url), "a table of postgresql")
        found = read(f"{url}&table=shop.log", items=f"{url}&table=products")
        assert sorted(found.frame.select("item_id", "rating", "timestamp").rows()) == sorted(
            LOG.select("item_id", "rating", "timestamp").rows()
        )
        assert found.frame["user_id"].str.len_chars().to_list() == [36] * 4
        assert found.inputs == read(f"{url}&table=shop.log", items=f"{url}&table=products").inputs
        with pytest.raises(
            InputError, match=r"postgres: has no table 'x', expected one of products, ratings, shop\.log"
        ):
            read(f"{url}&table=x")
        with pytest.raises(WorkError, match=r'cannot be reached: .*database "none" does not exist'):
            read(url.replace("/postgres?", "/none?") + "&table=ratings")
    with pytest.raises(WorkError, match=r"cannot be reached: .*[Cc]onnection refused") as caught:
        read("postgresql://ann:secret@127.0.0.1:1/x?table=y")
    assert "secret" not in str(caught.value)


def test_a_dataset_that_was_saved(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_polars(LOG).select([0, 1, 2, 3]).save_to_disk(tmp_path / "log")
    Dataset.from_polars(pl.concat([ITEMS, ITEMS])).select([0, 4, 2]).save_to_disk(tmp_path / "items")
    check(read(tmp_path / "log", items=str(tmp_path / "items")), "datasets")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of the folder `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.skipif(find_spec("paramiko") is not None, reason="paramiko is installed")
def test_a_file_system_that_needs_a_package_names_it() -> None:
    with pytest.raises(InputError, match=r"^sftp://host/log\.csv: cannot be opened: .*paramiko"):
        read("sftp://host/log.csv")


def test_a_file_on_a_web_server(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "ratings.csv.gz").write_bytes(gzip.compress(csv(LOG)))
    (tmp_path / "movies.jsonl").write_bytes(lines(ITEMS))
    check(read(f"{web}/ratings.csv.gz", items=f"{web}/movies.jsonl"), "CSV, gzip")
    copies = {path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.gz")}
    check(read(f"{web}/ratings.csv.gz", items=f"{web}/movies.jsonl"))
    assert {path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.gz")} == copies
    with pytest.raises(InputError, match=r"none\.csv: no such file or folder"):
        read(f"{web}/none.csv")


def test_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))
    with bucket(monkeypatch) as store:
        for name, frame in (("ratings", LOG), ("items", ITEMS)):
            for number, part in enumerate(frame.iter_slices(3)):
                with store.open(f"shop/{name}/part-{number}.parquet", "wb") as file:
                    part.write_parquet(file)
        store.pipe("shop/log/ratings.csv", csv(LOG))
        store.pipe("shop/log/items.csv", csv(ITEMS))
        check(read("s3://shop/log"), "CSV")
        check(read("s3://shop/log/ratings.csv"), "CSV")
        check(read("s3://shop/ratings", items="s3://shop/items/*.parquet"), "2 files of Parquet")
        with pytest.raises(InputError, match=r"s3://shop/log/none\.csv: no such file"):
            read("s3://shop/log/none.csv")
        store.pipe("shop/log/ratings.csv", csv(LOG[:2]))  # another file is copied anew
        assert read("s3://shop/log").frame.height == 2


def test_a_store_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"abc://x/y\.csv: is of no known protocol, expected .*postgresql://; export"):
        read("abc://x/y.csv")


def test_a_file_without_a_header(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "ratings.csv", include_header=False)
    ITEMS.write_parquet(tmp_path / "items.parquet")
    with pytest.raises(InputError, match=r"looks like a row, .*--header user,item,rating,timestamp names them"):
        read(tmp_path)
    check(read(tmp_path, header=("user", "item", "rating", "time")))
    (tmp_path / "ratings.csv").write_text("\n".join(" ".join(map(str, row)) for row in LOG.rows()))
    check(read(tmp_path, header=("user", "item", "rating", "time")), "text with spaces")
    with pytest.raises(InputError, match=r"ratings\.csv:1: row has 4 fields, expected 3"):
        read(tmp_path, header=("user", "item", "rating"), order="file")


@pytest.mark.parametrize(
    ("row", "guess"),
    [
        (
            "user_000000,2017-07-14T02:50:05Z,f1b1cf71-bd35-4e99-8624-24a6e15f0008,Song 8,x",
            "user,timestamp,item,column4,",
        ),
        ("00000c289a1829a808ac09c00daf10bc3c4e0000,The song,200", "user,item,rating"),
        ("anna0,film8,good", "user,item,column3"),
        ("col_1,col_2,col_3", None),
    ],
)
def test_ids_and_dates_in_the_first_line_show_that_there_is_no_header(
    tmp_path: Path, row: str, guess: str | None
) -> None:
    (tmp_path / "log.csv").write_text(f"{row}\n{row}\n")
    with pytest.raises(InputError) as caught:
        read(tmp_path / "log.csv")
    assert ("looks like a row" in str(caught.value)) == (guess is not None)
    assert f"--header {guess}" in str(caught.value) or guess is None


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_without_times_the_order_of_the_rows_counts_if_asked_for(tmp_path: Path, suffix: str) -> None:
    frame = LOG.drop("timestamp")
    content = {"csv": csv(frame).replace(b"\n2,10", b"\n\n2,10"), "jsonl": lines(frame)}
    (tmp_path / f"ratings.{suffix}").write_bytes(content.get(suffix, b""))
    if suffix == "parquet":
        frame.write_parquet(tmp_path / "ratings.parquet")
    ITEMS.write_csv(tmp_path / "items.csv")
    with pytest.raises(InputError, match=r"has no timestamp column.*--order file takes the rows as they come"):
        read(tmp_path)
    found = read(tmp_path, order="file")
    assert found.frame.rows() == [(*row, number) for number, row in enumerate(frame.rows())]
    assert found.times == ""
    assert not found.dated


@pytest.mark.parametrize("how", ["text", "booleans in Parquet", "JSON"])
def test_ratings_in_words_are_likes(tmp_path: Path, how: str) -> None:
    words = pl.Series("rating", ["Thumbs up", "thumbs_down", "👍🏽", "👍\ufe0f"])
    frame = LOG.with_columns(words)
    ITEMS.write_csv(tmp_path / "items.csv")
    if how == "text":
        frame.write_csv(tmp_path / "ratings.csv")
    elif how == "JSON":
        frame.with_columns(words != "thumbs_down").write_ndjson(tmp_path / "ratings.jsonl")
    else:
        frame.with_columns(words != "thumbs_down").write_parquet(tmp_path / "ratings.parquet")
    found = read(tmp_path)
    assert (found.frame["rating"].to_list(), found.scale) == ([1.0, 0.0, 1.0, 1.0], (0.0, 1.0))
    if how == "text":
        with (tmp_path / "ratings.csv").open("a") as file:
            file.write("3,10,perhaps,5\n")
        with pytest.raises(InputError, match=r"ratings\.csv:6: rating 'perhaps' is in another form"):
            read(tmp_path)


@pytest.mark.parametrize("how", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("texts", "form", "top"),
    [
        (["4 out of 5", "3.5 out of 5", "0.5 out of 5", "5.0 out of 5 stars"], "numbers out of 5", 5),
        (["4/5", "3.5/5", "0.5 / 5", "5/5"], "numbers out of 5", 5),
        (["4,0 von 5 Sternen", "3,5 von 5 Sternen", "0,5 von 5", "5,0 von 5"], "numbers out of 5", 5),
        (["4/10", "3.5/10", "0.5/10", "5/10"], "numbers out of 10", 10),
        (["4 stars", "3.5 stars", "0.5 star", "5 Stars"], "numbers of stars", 5),
        (["★★★★☆", "★★★½☆", "½☆☆☆☆", "★★★★★"], "stars out of 5", 5),
        (["★★★★", "★★★½", "½", "⭐⭐⭐⭐⭐"], "stars", 5),
    ],
)
def test_ratings_with_their_scale_are_numbers(
    tmp_path: Path, how: str, texts: list[str], form: str, top: float
) -> None:
    frame = LOG.with_columns(rating=pl.Series(texts))
    frame.write_csv(tmp_path / "log.csv") if how == "csv" else frame.write_parquet(tmp_path / "log.parquet")
    found = read(tmp_path / f"log.{how}", untitled="id")
    assert found.frame.rows() == LOG.rows()
    assert (found.rated, found.scale) == (form, (0.5, top))


@pytest.mark.parametrize(
    ("texts", "line", "value"),
    [
        (["4/5", "7/10", "5/5", "8/10"], 2, "4/5"),
        (["4", "3", "4 out of 5", "5"], 4, "4 out of 5"),
    ],
)
def test_ratings_in_several_forms_are_refused_with_the_line(
    tmp_path: Path, texts: list[str], line: int, value: str
) -> None:
    LOG.with_columns(rating=pl.Series(texts)).write_csv(tmp_path / "log.csv")
    with pytest.raises(InputError, match=rf"log\.csv:{line}: rating '{value}' is not a number, expected one from"):
        read(tmp_path / "log.csv", untitled="id")


@pytest.mark.parametrize("texts", [["4/5", "3/5", "5/5", "1/5"], ["up", "down", "up", "up"]])
def test_beside_ratings_in_a_form_another_value_is_named(tmp_path: Path, texts: list[str]) -> None:
    frame = LOG.with_columns(rating=pl.Series(texts))
    frame.with_columns(user_id=pl.Series(["1", None, "2", "2"])).write_csv(tmp_path / "log.csv")
    with pytest.raises(InputError, match=r"log\.csv:3: user_id is empty"):
        read(tmp_path / "log.csv", untitled="id")
    if "/" in texts[0]:
        frame.with_columns(rating=pl.Series(["4/5", "7/5", "5/5", "1/5"])).write_csv(tmp_path / "log.csv")
        with pytest.raises(InputError, match=r"log\.csv:3: rating 7 is outside of the scale, expected 0\.5 to 5"):
            read(tmp_path / "log.csv", untitled="id")


@pytest.mark.parametrize("how", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["4/5", "N/A", "5/5", "1/5"], "numbers out of 5"),
        (["4/5", "7/10", "5/5", "1/5"], "numbers out of 5"),
        (["★★★★☆", "-", "★★★★★", "★☆☆☆☆"], "stars out of 5"),
        (["★★★★", "4", "★★★★★", "★"], "stars"),
        (["up", "maybe", "up", "down"], "likes and dislikes"),
    ],
)
def test_a_rating_in_another_form_than_most_is_a_wrong_row(
    tmp_path: Path, how: str, texts: list[str], form: str
) -> None:
    frame = LOG.with_columns(rating=pl.Series(texts))
    frame.write_csv(tmp_path / "log.csv") if how == "csv" else frame.write_parquet(tmp_path / "log.parquet")
    place = "log.csv:3:" if how == "csv" else "log.parquet: row 2:"
    with pytest.raises(InputError, match=f"{place} rating '{texts[1]}' is in another form than most, expected {form}"):
        read(tmp_path / f"log.{how}", untitled="id")
    found = read(tmp_path / f"log.{how}", untitled="id", bad_rows="skip")
    assert (found.frame.height, found.dropped, found.rated) == (3, {"no rating that is a number": 1}, form)


def test_a_rating_that_means_none_is_left_out(tmp_path: Path) -> None:
    LOG.with_columns(rating=pl.Series([4, -1, 3, -1])).write_csv(tmp_path / "ratings.csv")
    ITEMS.write_csv(tmp_path / "items.csv")
    with pytest.raises(
        InputError, match=r"csv:3: rating -1 is outside .* --set ratings\.not_rated=-1 leaves such rows"
    ):
        read(tmp_path)
    found = read(tmp_path, not_rated=-1)
    assert found.frame["rating"].to_list() == [4, 3]
    assert found.dropped == {"not rated": 2}
    with pytest.raises(InputError, match=r"csv:2: rating 4 is outside"):
        read(tmp_path, not_rated=-1, scale=(1, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"user": 1}\n[1]\n', r"ratings\.jsonl:2: is a list, expected an object"),
        (b'{"user": 1, "item": 2, "rating": 3, "time": 4}\n{"user": 1,\n', r"ratings\.jsonl:2: is not JSON: Expecting"),
        (b'\n{"user": 1, "item": 2, "rating": 9, "time": 4}\n', r"ratings\.jsonl:2: rating 9 is outside"),
        (b'[{"user": 1},\n{"user" 2}]', r"ratings\.jsonl:2: is not JSON: Expecting ':'"),
        (b'[{"user": 1, "item": 2, "rating": 9, "time": 4}]', r"ratings\.jsonl: row 1: rating 9 is outside"),
        (b"", r"ratings\.jsonl.*(has no user column|empty)"),
        (b'{"user": [1], "item": 2, "rating": 3, "time": 4}\n', r"column 'user' holds List.*expected integers"),
    ],
    ids=range(7),
)
def test_wrong_json_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ratings.jsonl").write_bytes(content)
    ITEMS.write_csv(tmp_path / "items.csv")
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_json_whose_types_change_late(tmp_path: Path) -> None:
    rows = [{"user": "a", "item": n, "rating": 4, "time": n} for n in range(1500)]
    rows += [{"user": 7, "item": "x", "rating": 4.5, "time": 2000}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path / "log.jsonl", untitled="id")
    assert found.frame.row(-1) == ("7", "x", 4.5, 2000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.csv.gz", gzip.compress(csv(LOG))[:-9], "is not a whole gzip file"),
        ("ratings.csv.gz", csv(LOG), "is not a gzip file"),
        ("ratings.csv.xz", lzma.compress(csv(LOG))[:-9], "is not a whole xz file"),
        ("ratings.csv.zst", zstd(csv(LOG) * 99)[:-9], "is not a whole zstd file"),
        ("ratings.arrow", b"ARROW1\0\0x", "is not a Arrow IPC file"),
        ("ratings.csv.gz", gzip.compress(bytes(200_000_000), 9), "unpacks to more than 100 MB"),
    ],
    ids=["gz cut", "gz not packed", "xz cut", "zst cut", "arrow cut", "gz bomb"],  # the bytes have a time
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_lists_and_objects_of_items_become_text(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "ratings.csv")
    rows = [
        {"item_id": n, "title": "T", "tags": ["a", None, "b"], "size": {"w": 1}, "images": [{"u": 1}]}
        for n in (10, 20, 30)
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path).items.row(0) == (10, "T", "a, b", '{"w":1}')


def test_fields_within_objects_are_named_with_a_dot(tmp_path: Path) -> None:
    rows = [{"user": {"id": u}, "item_id": i, "event": {"props": {"stars": r}}, "ts": t} for u, i, r, t in LOG.rows()]
    (tmp_path / "ratings.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, rows)).encode())
    ITEMS.write_csv(tmp_path / "items.csv")
    check(read(tmp_path, columns={"rating": "event.props.stars"}), "JSON")


def test_lines_of_python_dictionaries(tmp_path: Path) -> None:
    (tmp_path / "ratings.json.gz").write_bytes(gzip.compress("\n".join(map(repr, LOG.to_dicts())).encode()))
    (tmp_path / "meta.json").write_text("\n".join(map(repr, ITEMS.to_dicts())))
    check(read(tmp_path / "ratings.json.gz"), "JSON, gzip")
    (tmp_path / "meta.json").write_text("{'item_id': 10, 'title': open('x')}\n")
    with pytest.raises(InputError, match=r"meta\.json:1: is neither JSON nor a dictionary"):
        read(tmp_path / "ratings.json.gz")


def test_a_decimal_comma_where_fields_are_separated_otherwise(tmp_path: Path) -> None:
    text = csv(LOG, ";").decode().replace("3.5", "3,5").replace("0.5", "0,5")
    (tmp_path / "ratings.csv").write_text(text)
    ITEMS.write_csv(tmp_path / "items.csv")
    check(read(tmp_path), "text with semicolons")
    assert read(tmp_path, bad_rows="skip").dropped == {}


def test_the_column_of_items_that_joins_counts(tmp_path: Path) -> None:
    LOG.rename({"item_id": "product_id"}).write_csv(tmp_path / "reviews.csv")
    items = ITEMS.select("title", id="item_id", sku=pl.Series(["S1", "S2", "S3"]))
    items.write_csv(tmp_path / "products.csv")
    assert read(tmp_path).items["item_id"].to_list() == [10, 20, 30]


def test_titles_beside_the_ratings_count_before_a_table_of_another_name(tmp_path: Path) -> None:
    LOG.join(ITEMS, on="item_id").sort("timestamp").write_csv(tmp_path / "log.csv")
    (tmp_path / "old_items.csv").write_text("item_id,title\n10,Z\n10,Y\n")
    check(read(tmp_path / "log.csv"))
    varied = LOG.with_columns(title=pl.Series(["good", "bad", "fine", "so so"]))
    varied.write_csv(tmp_path / "log.csv")
    wanted = r"log\.csv:4: item 10 is titled 'fine' here and 'good' before.*--untitled id shows ids"
    with pytest.raises(InputError, match=wanted):
        read(tmp_path / "log.csv")
    assert read(tmp_path / "log.csv", untitled="id").items["title"].to_list() == ["10", "20", "30"]


def test_a_table_without_titles_is_no_table_of_items(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "interactions.csv")
    (tmp_path / "book_id_map.csv").write_text("book_id_csv,book_id\n1,10\n")
    assert read(tmp_path, untitled="id").items["title"].to_list() == ["10", "20", "30"]
    ITEMS.write_csv(tmp_path / "games.csv")
    ITEMS.drop("title").write_ndjson(tmp_path / "games_metadata.json")
    check(read(tmp_path))


def test_when_nothing_is_left_the_reasons_are_told(tmp_path: Path) -> None:
    LOG.with_columns(rating=pl.lit("good")).write_csv(tmp_path / "ratings.csv")
    ITEMS.write_csv(tmp_path / "items.csv")
    with pytest.raises(
        InputError, match=r"expected a row that is right: 4 no rating that is a number; `--bad-rows refuse"
    ):
        read(tmp_path, bad_rows="skip")
    LOG.write_csv(tmp_path / "ratings.csv")
    ITEMS.with_columns(pl.col("item_id") + 100).write_csv(tmp_path / "items.csv")
    with pytest.raises(InputError, match=r"no ratings that can be kept: 4 item without a title"):
        read(tmp_path, untitled="drop")


def test_a_schema_of_duckdb(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="no DuckDB here")
    with duckdb.connect(str(tmp_path / "a.duckdb")) as raw:
        raw.execute("CREATE SCHEMA shop")
        fill(raw, "products", "?")
        raw.execute("CREATE TABLE shop.reviews AS SELECT * FROM ratings")
    url = f"duckdb:///{tmp_path / 'a.duckdb'}"
    check(read(f"{url}?table=shop.reviews", items=f"{url}?table=products"))
    with pytest.raises(InputError, match=r"has no table 'x', expected one of products, ratings, shop\.reviews"):
        read(f"{url}?table=x")


def test_the_only_table_of_a_zip_may_have_any_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("a/b/foo_data.csv", csv(LOG.join(ITEMS, on="item_id").sort("timestamp")))
        archive.writestr("a/readme.md", "x")
    check(read(tmp_path / "export.zip"))


def test_a_file_of_no_suffix_is_read_as_text_and_a_database_is_named_otherwise(tmp_path: Path) -> None:
    frame = LOG.join(ITEMS, on="item_id").sort("timestamp")
    (tmp_path / "export").write_bytes(csv(frame, "|"))
    check(read(tmp_path / "export"), "text with bars")
    (tmp_path / "shop.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(InputError, match=r"a database is named as sqlite:///PATH\?table=NAME"):
        read(tmp_path / "shop.db")
    with pytest.raises(InputError, match=r"\*\.csv: matches no file"):
        read(tmp_path / "*.csv")


HEADER = "user_id,item_id,rating,timestamp\n"


def parts(folder: Path, *contents: str) -> Ratings:
    for number, content in enumerate(contents):
        (folder / f"log-{number}.csv").write_text(HEADER + content)
    return read(folder / "log-?.csv", untitled="id")


@pytest.mark.parametrize(
    ("contents", "times"),
    [
        (('1,10,4,"Jul 30, 2017"\n', '1,20,4,"Aug 1, 2017"\n'), [1501372800, 1501545600]),
        (("1,10,4,1500000000\n", "1,20,4,1500000001.5\n"), [1500000000, 1500000001]),
        (("", "1,10,4,2020-01-01\n", "1,20,4,2020-01-02\n"), [1577836800, 1577923200]),
    ],
)
def test_parts_whose_times_are_of_one_kind(tmp_path: Path, contents: tuple[str, ...], times: list[int]) -> None:
    assert parts(tmp_path, *contents).frame["timestamp"].to_list() == times


def test_typed_parts_with_times_in_other_units(tmp_path: Path) -> None:
    for number, unit in enumerate(("ms", "ns")):
        time = pl.from_epoch("timestamp", "s").dt.cast_time_unit(unit)  # type: ignore[arg-type]
        LOG[2 * number : 2 * number + 2].with_columns(time).write_parquet(tmp_path / f"log-{number}.parquet")
    assert read(tmp_path / "log-?.parquet", untitled="id").frame.rows() == LOG.rows()


def test_a_part_may_lack_the_titles_of_another(tmp_path: Path) -> None:
    LOG.with_columns(title=pl.lit("x")).write_csv(tmp_path / "log-0.csv")
    LOG.with_columns(user_id=pl.lit(9)).write_csv(tmp_path / "log-1.csv")
    assert read(tmp_path / "log-?.csv").items["title"].to_list() == ["x", "x", "x"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", b"\xef\xbb\xbf" + lines(LOG)),
        (
            "log.json",
            json.dumps(
                [row | {"note": note} for row, note in zip(LOG.to_dicts(), ["x", {"a": 1}, [1], 2], strict=True)]
            ),
        ),
        ("log.json", json.dumps([row | {"note": 1} if n else row for n, row in enumerate(LOG.to_dicts())])),
    ],
)
def test_json_with_a_mark_or_with_other_types_in_other_rows(tmp_path: Path, name: str, content: str | bytes) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read(tmp_path / name, untitled="id").frame.rows() == LOG.rows()


def test_ids_in_bytes_of_a_database_stay_apart(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "log.db")
    raw.execute("CREATE TABLE ratings (user_id, item_id, rating, timestamp)")
    raw.executemany("INSERT INTO ratings VALUES (?, 1, 4, 5)", [(b"\xfe",), (b"\xff",), (b"ann",)])
    raw.commit()
    raw.close()
    assert read(f"sqlite:///{tmp_path}/log.db?table=ratings", untitled="id").frame["user_id"].to_list() == [
        "fe", "ff", "ann"
    ]  # fmt: skip


def test_items_with_columns_that_have_no_text(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "ratings.csv")
    odd = {"a": [[b"\xff"]], "b": [{"x": b"\xff"}], "c": [[timedelta(1)]], "d": [["kept"]]}
    pl.concat([ITEMS, pl.concat([pl.DataFrame(odd)] * 3)], how="horizontal").write_parquet(tmp_path / "items.parquet")
    assert read(tmp_path).items.columns == ["item_id", "title", "d"]


def test_parts_of_items_whose_types_do_not_join_are_refused(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "ratings.csv")
    for number, value in enumerate((date(2024, 1, 1), timedelta(1))):
        items = ITEMS.with_columns(pl.col("item_id") + 100 * number, x=pl.lit(value))
        items.write_parquet(tmp_path / f"items-{number}.parquet")
    with pytest.raises(InputError, match=r"items-1\.parquet: has a column of another type"):
        read(tmp_path / "ratings.csv", items=str(tmp_path / "items-?.parquet"))


@pytest.mark.parametrize("kind", ["gz", "UTF-16", "zip", "sqlite"])
def test_a_full_disk_for_copies_is_no_fault_of_the_file(tmp_path: Path, kind: str) -> None:
    frame = pl.concat([LOG.with_columns(pl.col("user_id") + 10 * n) for n in range(500)])
    path = tmp_path / {"gz": "log.csv.gz", "UTF-16": "log.csv", "zip": "log.zip", "sqlite": "log.db"}[kind]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ratings.csv", csv(frame))
    elif kind == "sqlite":
        with sqlite3.connect(path) as raw:
            raw.execute("CREATE TABLE log (user_id, item_id, rating, timestamp)")
            raw.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", frame.rows())
        raw.close()
    else:
        text = csv(frame)
        path.write_bytes(gzip.compress(text) if kind == "gz" else text.decode().encode("utf-16"))
    source = f"sqlite:///{path}?table=log" if kind == "sqlite" else path
    with files_of_at_most(2_000), pytest.raises(WorkError, match=r"palate-\S+: cannot be written: .*File too large"):
        read(source, untitled="id")


def tar(members: dict[str, bytes], link: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return content.getvalue()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".tar", bytes), (".tar.gz", gzip.compress), (".tgz", gzip.compress), (".tar.bz2", bz2.compress),
     (".tar.xz", lzma.compress), (".tar.zst", zstd)],
)  # fmt: skip
def test_a_tar(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    members = {"./shop/ratings.csv": csv(LOG), "./shop/movies.csv.gz": gzip.compress(csv(ITEMS))}
    (tmp_path / f"shop{suffix}").write_bytes(pack(tar(members, link="./shop/books.csv")))
    found = read(tmp_path / f"shop{suffix}")
    check(found, "CSV, tar")
    assert found.name == "shop"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", tar({"ratings.csv": csv(LOG)})[:600], r"a\.tar: is not a whole tar file"),
        ("a.tar", b"PK\3\4", r"a\.tar: is not a whole tar file"),
        ("a.tgz", gzip.compress(tar({"ratings.csv": csv(LOG)}))[:-9], r"a\.tgz: is not a whole gzip file"),
        ("a.tgz", gzip.compress(tar({"ratings.csv": bytes(110_000_000)})), r"a\.tgz: unpacks to more than 100 MB"),
        ("a.tar", tar({"a/../../ratings.csv": csv(LOG)}), r"a\.tar: has the member .* below the tar's own folder"),
        ("a.tar", tar({"movies.csv": csv(ITEMS)}, link="ratings.csv"), r"a\.tar: holds no ratings"),
        ("a.tar", tar({"a/ratings.csv": csv(LOG) + b"1,2,9,4\n"}), r"a\.tar/a/ratings\.csv:6: rating 9 is outside"),
    ],
    ids=["cut", "no tar", "gzip cut", "bomb", "outside", "link", "wrong row"],
)
def test_a_wrong_tar_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, untitled="id")


def test_copies_that_a_killed_process_left_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(csv(LOG)))
    scratch = tmp_path / "scratch"
    for name in ("palate-2024-mine", "palate-scratch-elsewhere-1-abcd_123"):
        (scratch / name).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    code = "with open_source(Path(sys.argv[1])) as tables: tables.open('log.csv.gz'); print(flush=True); time.sleep(99)"
    code = f"import sys, time\nfrom pathlib import Path\nfrom palate.ratings.source import open_source\n{code}"
    command = [sys.executable, "-c", code, str(tmp_path / "log.csv.gz")]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        read(tmp_path / "log.csv.gz", untitled="id")
        assert len([*scratch.iterdir()]) == 3  # that of a running process stays
        process.kill()
    assert len([*scratch.iterdir()]) == 3
    read(tmp_path / "log.csv.gz", untitled="id")
    assert len([*scratch.iterdir()]) == 2  # another machine may be writing
    later = scratch.stat().st_ctime + DAY + 60
    monkeypatch.setattr("time.time", lambda: later)
    read(tmp_path / "log.csv.gz", untitled="id")
    assert [path.name for path in scratch.iterdir()] == ["palate-2024-mine"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("folder", "lacking"),
    [("rating={rating}", ["rating"]), ("user_id={user_id}/date={day}", ["user_id", "timestamp"]),
     ("year=2017/item_id={item_id}", ["item_id"])],
)  # fmt: skip
def test_the_column_of_a_folder_counts_where_the_files_lack_it(
    tmp_path: Path, kind: str, folder: str, lacking: list[str]
) -> None:
    days = LOG.with_columns(timestamp=1_500_076_800 + 86_400 * pl.int_range(4))
    for row in days.with_columns(day=pl.from_epoch("timestamp").dt.date()).iter_rows(named=True):
        path = tmp_path / "log" / folder.format(**row) / f"part-{row['timestamp']}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = days.filter(timestamp=row["timestamp"]).drop(lacking).with_columns(note=pl.lit(None, pl.String))
        part.write_csv(path) if kind == "csv" else part.write_parquet(path)
    for bad_rows in ("refuse", "skip"):
        found = read(tmp_path / "log", untitled="id", bad_rows=bad_rows)
        assert found.frame.sort("timestamp").rows() == days.rows()
        assert found.shape == f"4 files of {'CSV' if kind == 'csv' else 'Parquet'}"


def test_a_wrong_value_of_a_folder_is_named(tmp_path: Path) -> None:
    for column, value in (("rating", "9"), ("user_id", "__HIVE_DEFAULT_PARTITION__"), ("time", "soon")):
        folder = tmp_path / column / f"{column}={value}"
        folder.mkdir(parents=True)
        LOG.rename({"timestamp": "time"}).drop(column).write_csv(folder / "part-0.csv")
        with pytest.raises(InputError, match=rf"{column}={value}/part-0\.csv: {column} '?{value}'? is"):
            read(tmp_path / column, untitled="id")
        with pytest.raises(InputError, match="has no ratings, expected a row that is right: 4 "):
            read(tmp_path / column, untitled="id", bad_rows="skip")
    (tmp_path / "log" / "day=03").mkdir(parents=True)
    LOG.drop("timestamp").write_csv(tmp_path / "log" / "day=03" / "part-0.csv")
    with pytest.raises(InputError, match="has no timestamp column"):
        read(tmp_path / "log", untitled="id")


@pytest.mark.parametrize("how", ["lines", "array"])
def test_lists_of_ratings_in_json(tmp_path: Path, how: str) -> None:
    users = [
        {"user": {"id": user, "title": "Dr"}, "ratings": [
            {"item": {"id": i}, "rating": r, "time": t} for u, i, r, t in LOG.rows() if u == user
        ], "tags": [{"x": 1}]}
        for user in (1, 3, 2)
    ]  # fmt: skip

    def write() -> None:
        text = json.dumps(users) if how == "array" else "\n\n".join(map(json.dumps, users))
        (tmp_path / "log.json").write_text(text)

    write()
    found = read(tmp_path / "log.json", untitled="id")
    assert found.frame.rows() == LOG.rows()
    assert found.shape == "JSON, a row for each of 'ratings'"
    assert [name for name, role in found.columns["log.json"].items() if role == "rating"] == ["ratings[].rating"]
    named = {"rating": "Rating", "timestamp": "ratings[].time"}
    assert read(tmp_path / "log.json", untitled="id", columns=named).frame.rows() == LOG.rows()
    users[2]["ratings"][1]["rating"] = 9  # type: ignore[index]
    write()
    with pytest.raises(InputError, match=r"log\.json: row 4: rating 9" if how == "array" else r"log\.json:5: rating 9"):
        read(tmp_path / "log.json", untitled="id")
    skipped = read(tmp_path / "log.json", untitled="id", bad_rows="report").skipped
    assert skipped is not None
    assert skipped["line"].to_list() == [4 if how == "array" else 5]
    assert json.loads(skipped["row"][0])["ratings[].rating"] == 9
    users[0]["clicks"] = users[0]["ratings"]
    write()
    with pytest.raises(InputError, match=r"log\.json: has a list of items in each of ratings, clicks, expected one"):
        read(tmp_path / "log.json", untitled="id")


@pytest.mark.parametrize("write", [write_xlsx, write_ods])
@pytest.mark.parametrize("times", ["dates", "serial numbers", "seconds"])
def test_a_spreadsheet(tmp_path: Path, write: Callable[..., None], times: str) -> None:
    pytest.importorskip("fastexcel", reason="no fastexcel here")
    name, rows = f"shop{'.xlsx' if write is write_xlsx else '.ods'}", []
    for user, item, rating, time in LOG.rows():
        moment = datetime.fromtimestamp(time, UTC).replace(tzinfo=None)
        rows.append([user, item, rating, {"dates": moment, "serial numbers": serial(moment), "seconds": time}[times]])
    rows.insert(2, [None] * 4)
    items = [["item_id", "title"], *map(list, ITEMS.rows())]
    sheets = {"Log": [["user", "item", "rating", "time"], *rows], "Items and titles": items}
    write(tmp_path / name, sheets)
    items_place = f"{tmp_path / name}?sheet=Items and titles"
    found = read(tmp_path / name, items=items_place)
    check(found, "a spreadsheet")
    assert list(found.columns) == [name, f"items in {name}"]
    check(read(f"{tmp_path / name}?sheet=Log", items=items_place), "a spreadsheet")
    write(tmp_path / f"movies{name[4:]}", {"Any": items})
    check(read(f"{tmp_path / name}?sheet=Log", items=str(tmp_path / f"movies{name[4:]}")))
    with pytest.raises(InputError, match=r"shop\.\w+: has no sheet 'Lgo', expected one of Log, Items and titles"):
        read(f"{tmp_path / name}?sheet=Lgo")
    rows[4][2] = 9
    write(tmp_path / name, sheets)
    with pytest.raises(InputError, match=r"shop\.\w+\?sheet=Log:6: rating 9 is outside"):
        read(tmp_path / name, untitled="id")
    rows[4][2] = None
    write(tmp_path / name, {"Log": [[None] * 4, *sheets["Log"]]})
    with pytest.raises(InputError, match=r"shop\.\w+:7: rating is empty, expected a value; `--bad-rows skip`"):
        read(tmp_path / name, untitled="id")
    write(tmp_path / name, {"Log": [["Ratings of 2024"], *sheets["Log"]]})
    with pytest.raises(InputError, match=r"shop\.\w+: the first row names 1 of 4 columns, expected a header there"):
        read(tmp_path / name)
    write(tmp_path / name, {"Notes": [], **sheets})
    with pytest.raises(InputError, match=r"shop\.\w+\?sheet=Notes: the first row is empty, .* are Notes, Log, Items"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:400])
    with pytest.raises(InputError, match=r"shop\.\w+: is not a whole spreadsheet"):
        read(tmp_path / name)


def test_a_bomb_in_a_spreadsheet_and_a_sheet_of_a_text_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="no fastexcel here")
    write_xlsx(tmp_path / "log.xlsx", {"Log": [["user"], ["x" * 110_000_000]]})
    with pytest.raises(InputError, match=r"log\.xlsx: unpacks to 110 MB from"):
        read(tmp_path / "log.xlsx")
    LOG.write_csv(tmp_path / "log.csv")
    with pytest.raises(InputError, match=r"log\.csv: has no sheets, expected no \?sheet=A"):
        read(f"{tmp_path / 'log.csv'}?sheet=A")


def test_each_part_of_a_table_counts_among_the_inputs(tmp_path: Path) -> None:
    for number, part in enumerate(LOG.iter_slices(2)):
        (tmp_path / f"log/day={number}").mkdir(parents=True)
        part.write_csv(tmp_path / f"log/day={number}/part-0.csv")
        (tmp_path / f"shop{number}").mkdir()
        part.write_csv(tmp_path / f"shop{number}/part-0.csv")
    (tmp_path / "items").mkdir()
    ITEMS.write_csv(tmp_path / "items/part-0.csv")
    hive = read(tmp_path / "log", items=str(tmp_path / "items/part-0.csv"))
    assert list(hive.inputs) == ["day=0/part-0.csv", "day=1/part-0.csv", "part-0.csv"]
    shops = read(tmp_path / "shop*/part-0.csv", items=str(tmp_path / "items/part-0.csv"))
    assert list(shops.inputs) == ["part-0.csv", "shop1/part-0.csv", "items/part-0.csv"]
    assert len({*hive.inputs.values(), *shops.inputs.values()}) == 3
    assert shops.name == tmp_path.name


@pytest.mark.parametrize("orient", ["columns", "split", "list"])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_by_column_is_refused_with_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orient: str, indent: int | None
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame(LOG.to_dict(as_series=False))
    Path("log.json").write_text(
        json.dumps(
            json.loads(frame.to_json(orient=orient)) if orient != "list" else frame.to_dict("list"), indent=indent
        )
    )
    with pytest.raises(InputError, match=r"log\.json: is an object by column, expected an object a line: `") as caught:
        read(tmp_path / "log.json", untitled="id")
    eval(str(caught.value).split("`")[1], {"pandas": pandas, "FILE": "log.json"})
    assert read(tmp_path / "log.jsonl", untitled="id").frame.height == LOG.height


def test_lines_above_the_header_may_be_comments(tmp_path: Path) -> None:
    ITEMS.write_csv(tmp_path / "items.csv")
    for above, log in (("# export\n# by x\n\n", LOG), ("#", LOG)):
        (tmp_path / "ratings.csv").write_bytes(
            above.encode() + csv(log.select("item_id", "user_id", "rating", "timestamp"))
        )
        check(read(tmp_path, columns={"item": "#item_id"} if above == "#" else None))
    (tmp_path / "ratings.csv").write_text("# by x\nuser,item,rating,time\n1,10,4,5\n1,20,x,6\n")
    with pytest.raises(InputError, match=r"ratings\.csv:4: rating 'x' is not a number"):
        read(tmp_path)


def test_rows_of_json_by_id_are_refused_with_the_way(tmp_path: Path) -> None:
    row = '[{"item": 10, "rating": 4, "time": 5}]'
    (tmp_path / "users.json").write_text(f'{{"1": {row}, "2": {row}}}')
    with pytest.raises(InputError, match=r'users\.json: is an object by id, expected a list such as \[\{"user": 1'):
        read(tmp_path / "users.json", untitled="id")
    for indent in (None, 1):
        (tmp_path / "users.json").write_text(json.dumps({"1": {"10": 4}, "2": {"10": 5}}, indent=indent))
        with pytest.raises(InputError, match=r"users\.json: is an object by id, expected a list"):
            read(tmp_path / "users.json", bad_rows="skip")
    (tmp_path / "wide.csv").write_text(",".join(f"c{n}" for n in range(1_000)) + "\n")
    with pytest.raises(InputError, match=r"found c0, .* and 980 more$"):
        read(tmp_path / "wide.csv")
    (tmp_path / "log.jsonl").write_text('{"user": 1, "items": {"10": {"rating": 4, "time": 5}}}\n')
    with pytest.raises(
        InputError, match=r'log\.jsonl: has items as an object by id, expected a list such as items: \[\{"'
    ):
        read(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("write", "end", "cell", "message"),
    [
        (write_xlsx, b"</row></sheetData>", b'<c r="XFD1048576"><v>1</v></c>', "has values as far as XFD1048576"),
        (write_ods, b"</table:table-row></table:table>",
         b'<table:table-cell table:number-columns-repeated="16384" office:value-type="float" office:value="1"/>',
         "has a value in a thousand columns"),
    ],
)  # fmt: skip
def test_a_value_far_from_a_table_is_refused(
    tmp_path: Path, write: Callable[..., None], end: bytes, cell: bytes, message: str
) -> None:
    pytest.importorskip("fastexcel", reason="no fastexcel here")
    path = tmp_path / ("log.xlsx" if write is write_xlsx else "log.ods")
    write(path, {"Log": [["user"], [1]]})
    with zipfile.ZipFile(path) as book:
        members = {name: book.read(name).replace(end, cell + end) for name in book.namelist()}
    with zipfile.ZipFile(path, "w") as book:
        for name, content in members.items():
            book.writestr(name, content)
    with pytest.raises(InputError, match=f"{path.name}: {message}, expected a table"):
        read(path)


def test_a_column_without_values_in_a_spreadsheet_is_no_warning(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel", reason="no fastexcel here")
    rows = [["user", "item", "rating", "time", "note"], *([*row, None] for row in LOG.rows())]
    write_xlsx(tmp_path / "log.xlsx", {"Log": rows})
    command = [sys.executable, "-m", "palate", "inspect", str(tmp_path / "log.xlsx"), "--untitled", "id"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert told == "log is read as a spreadsheet\n"


@pytest.mark.parametrize("byte", [b"\xfb", b"\xc4", b"\xb4"])
def test_one_byte_that_is_not_ascii_shows_no_other_encoding_than_that_of_western_europe(
    tmp_path: Path, byte: bytes
) -> None:
    (tmp_path / "ratings.csv").write_text("user,item,rating,time\n1,10,4,100\n")
    (tmp_path / "movies.csv").write_bytes(b"item_id,title\n10,Ti" + byte + b"tle\n")
    found = load_ratings(str(tmp_path))
    assert (found.shape, found.items["title"][0]) == ("CSV; items in cp1252", f"Ti{byte.decode('cp1252')}tle")
