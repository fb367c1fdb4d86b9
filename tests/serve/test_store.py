"""The store of feedback: durable once acknowledged, each request once, in SQLite and PostgreSQL."""

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples
from tests.postgres import restart, serving

from palate.errors import InputError, PalateError, WorkError
from palate.ratings import database
from palate.ratings.database import connect, stored_ratings
from palate.serve.schemas import TEXT, NewEvent, NewRating
from palate.serve.store import KeyReusedError, Store


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/feedback.sqlite"
    import psycopg

    server = request.getfixturevalue("server")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS palate CASCADE")
    return server


def rating(user: int | str = 1, item: int | str = 2, stars: float = 4.0, at: int | None = 100) -> NewRating:
    return NewRating(user_id=user, item_id=item, rating=stars, timestamp=at)


def test_what_was_stored_is_there_after_opening_again(url: str) -> None:
    with closing(Store(url)) as store:
        assert store.add_ratings([rating(1, 2), rating("anna", "b-7", 2.5)]).model_dump() == {
            "stored": 2,
            "repeated": False,
        }
        event = NewEvent(event="shown", user_id=1, item_id=2, timestamp=7, model="strongest", p=0.25)
        store.add_events([event, NewEvent(event="clicked", user_id=1, item_id=2, timestamp=9)])
    with closing(Store(url)) as store:
        assert store.ready()
        assert store.all_ratings().drop("received").rows() == [("1", "2", 4.0, 100), ("anna", "b-7", 2.5, 100)]
        assert store.events().rows() == [("shown", 1, 2, 7, "strongest", 0.25), ("clicked", 1, 2, 9, None, None)]
        assert store.events(since=8)["event"].to_list() == ["clicked"]


def test_a_copy_of_a_store_has_its_ratings(url: str, tmp_path: Path) -> None:
    from palate.commands.refresh import _copy

    with closing(Store(url)) as store:
        store.add_ratings([rating(1, 2), rating("anna", "b-7", 2.5)], "k")
        _copy(url, tmp_path / "copy.sqlite")
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy.sqlite"]
    assert stored_ratings(f"sqlite:///{tmp_path}/copy.sqlite")[1] == stored_ratings(url)[1]


def test_a_key_is_stored_once_and_never_with_another_body(url: str) -> None:
    with closing(Store(url)) as store, closing(Store(url)) as other:
        assert store.add_ratings([rating()], "k").stored == 1
        for each in (store, other):
            assert each.add_ratings([rating()], "k").model_dump() == {"stored": 0, "repeated": True}
            with pytest.raises(KeyReusedError):
                each.add_ratings([rating(stars=1)], "k")
        with pytest.raises(KeyReusedError):
            store.add_events([NewEvent(event="shown", user_id=1, item_id=2)], "k")
        assert store.add_ratings([rating()]).stored == store.add_ratings([rating()]).stored == 1
        assert store.all_ratings().height == 3


def test_the_newest_rating_of_an_item_wins_and_ids_keep_their_type(url: str) -> None:
    with closing(Store(url)) as store:
        store.add_ratings([rating(1, 5, 2, 30), rating(1, 6, 3, 20), rating(1, 5, 4, 10), rating("1", 5, 1, 40)])
        assert store.ratings_of(1) == [(6, 3.0, 20), (5, 2.0, 30)]
        assert store.ratings_of("1") == [(5, 1.0, 40)]
        assert store.ratings_of(2) == []


def test_a_rating_without_a_time_is_of_now(url: str) -> None:
    with closing(Store(url)) as store:
        before = int(time.time())
        store.add_ratings([rating(at=None)])
        assert before <= store.ratings_of(1)[0].timestamp <= time.time()


def test_any_text_is_an_id_and_a_key(url: str) -> None:
    draw = random.Random(3)
    long = ["".join(chr(draw.randint(*span)) for _ in range(TEXT)) for span in ((1, 31), (0x1F300, 0x1F9FF))]
    odd = [*long, "\0", "'; DROP TABLE ratings; --", "é\u2028😀", "%s ?", '"', "007", "7"]
    with closing(Store(url)) as store:
        for text in odd:
            store.add_ratings([rating(text, text)], text)
            assert store.add_ratings([rating(text, text)], text).repeated
            assert store.ratings_of(text)[0].item_id == text
        assert store.ratings_of("\ud800") == []  # half of a pair, as a broken URL may name it
        assert store.all_ratings()["user_id"].to_list() == odd


@given(st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8), max_size=6))
@examples(50)
def test_stored_ids_become_those_of_a_log_with_the_same_words(ids: list[int | str]) -> None:
    from palate.ratings.ids import as_ids

    read = database.ids_of(pl.Series([database.as_text(each) for each in ids], dtype=pl.String))
    assert read.to_list() == as_ids(pl.Series([str(each) for each in ids], dtype=pl.String)).to_list()
    assert [database.as_id(database.as_text(each)) for each in ids] == ids


def test_threads_and_two_stores_write_each_request_once(url: str) -> None:
    """Half of the requests come twice, through another store."""
    stored: list[int] = []

    def write(store: Store, first: int) -> None:
        for n in range(first, 60, 2):
            stored.append(store.add_ratings([rating(n, 1), rating(n, 2)], f"k{n}").stored)
            stored.append(store.add_ratings([rating(n, 1), rating(n, 2)], f"k{n}").stored)

    with closing(Store(url)) as one, closing(Store(url)) as two:
        threads = [threading.Thread(target=write, args=(s, f)) for s in (one, two) for f in (0, 1) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = one.all_ratings()
    assert len(stored) == 8 * 60
    assert sum(stored) == found.height == 120
    assert found.unique(["user_id", "item_id"]).height == 120


def test_requests_that_wait_share_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is written, seven others arrive: two commits in all, and the failure of one is its own."""
    from palate.serve import store as module

    batches: list[int] = []
    arrived, go_on, write = threading.Event(), threading.Event(), module._write

    def slowly(database: database.Database, requests: list[module._Request]) -> None:
        batches.append(len(requests))
        arrived.set()
        go_on.wait(10)
        write(database, requests)

    monkeypatch.setattr(module, "_write", slowly)
    failures: list[Exception] = []

    def add(store: Store, n: int) -> None:
        try:
            store.add_ratings([rating(n)], f"k{n % 7}")
        except KeyReusedError as error:
            failures.append(error)

    with closing(Store(f"sqlite:///{tmp_path}/a.sqlite")) as store:
        threads = [threading.Thread(target=add, args=(store, n)) for n in range(8)]
        threads[0].start()
        assert arrived.wait(10)
        for thread in threads[1:]:
            thread.start()
        while len(store._waiting) < 7:
            time.sleep(0.001)
        go_on.set()
        for thread in threads:
            thread.join()
        assert (batches, len(failures), store.all_ratings().height) == ([1, 7], 1, 7)


def test_an_interrupted_writer_fails_the_requests_that_it_had_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.serve import store as module

    write = module._write

    def interrupted(database: database.Database, requests: list[module._Request]) -> None:
        write(database, requests)
        raise KeyboardInterrupt

    with closing(Store(f"sqlite:///{tmp_path}/a.sqlite")) as store:
        other = module._Request("ratings", [("1", "2", 4.0, 100)], "other", "body", 0)
        store._waiting.append(other)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.add_ratings([rating()], "k")
        assert other.done
        assert "interrupted" in str(other.failure)
        assert store.all_ratings().is_empty()
        assert store.add_ratings([rating()], "k").stored == 1


def test_each_commit_waits_for_the_disk(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(connect(f"sqlite:///{tmp_path}/a.sqlite", create=True)) as found:
            pragmas = [found.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")]
        assert pragmas == ["wal", 2]


def test_a_server_that_restarts_loses_nothing(server: str) -> None:
    with closing(Store(server)) as store:
        store.add_ratings([rating()], "before the crash")
        before = store.all_ratings().height
        restart(server)
        assert store.add_ratings([rating()], "after the crash").stored == 1
        assert store.add_ratings([rating()], "before the crash").repeated
        with pytest.raises(WorkError, match="cannot be read"):  # the reader's connection is gone, the next is new
            store.all_ratings()
        assert store.all_ratings().height == before + 1


def test_another_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("user,item\n" * 100)
    with pytest.raises(InputError, match="is not a SQLite file"):
        Store(f"sqlite:///{text}")
    foreign = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(foreign)) as other:
        other.execute("CREATE TABLE ratings (a)")
    with pytest.raises(InputError, match="another program's database"):
        Store(f"sqlite:///{foreign}")
    with pytest.raises(InputError, match="no such file"):
        Store(f"sqlite:///{tmp_path}/missing.sqlite", create=False)
    for wrong in ("sqlite:///", "sqlite://a", "mysql://a/b"):
        with pytest.raises(InputError, match="is no store"):
            Store(wrong)


def test_a_store_of_a_newer_version_is_refused(url: str) -> None:
    Store(url).close()
    with closing(connect(url)) as found:
        found.count("PRAGMA user_version = 2" if found.is_file else "UPDATE format SET version = 2")
    with pytest.raises(InputError, match="has format 2, this Palate reads 1: update Palate"):
        Store(url)


def test_a_foreign_schema_is_refused_and_passwords_are_not_shown(server: str) -> None:
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS palate CASCADE")
        with pytest.raises(InputError, match="has no schema palate"):
            Store(server, create=False)
        connection.execute("CREATE SCHEMA palate")
        with pytest.raises(InputError, match="another program's database"):
            Store(server)
        connection.execute("DROP SCHEMA palate")
    with pytest.raises(WorkError, match=r"^postgresql://127.0.0.1:9/none: cannot be reached") as failure:
        Store("postgresql://anna:secret@127.0.0.1:9/none")
    assert "secret" not in str(failure.value)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.sqlite")
    store.close()
    assert not store.ready()
    with pytest.raises(WorkError, match="is closed"):
        store.add_ratings([rating()])


def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/a.sqlite")) as store:
        store.add_ratings([rating()], "first")
        assert store._writer is not None
        (pages,) = store._writer.rows("PRAGMA page_count")[0]
        store._writer.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(WorkError, match="cannot be written: database or disk is full"):
            store.add_ratings([rating(n, "x" * 400) for n in range(300)], "second")
        store._writer.rows("PRAGMA max_page_count = 1000000")
        assert store.add_ratings([rating(9)], "second").stored == 1
        assert store.all_ratings().height == 2


def test_a_rating_is_in_the_file_at_the_stores_path_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    with closing(Store(f"sqlite:///{file}")) as store:
        store.add_ratings([NewRating(user_id=1, item_id=1, rating=4)])
        store.ratings_of(1)
        for each in tmp_path.iterdir():
            each.unlink()
        for call in (lambda: store.add_ratings([NewRating(user_id=2, item_id=1, rating=4)]), lambda: store.events()):
            with pytest.raises(WorkError, match="no such file"):
                call()
        assert not store.ready()

        Store(store.url).close()
        store.add_ratings([NewRating(user_id=3, item_id=1, rating=4)])
        assert store.ready()
        assert stored_ratings(store.url)[0]["user_id"].to_list() == [3]


def test_a_damaged_store_is_not_ready(tmp_path: Path) -> None:
    file = tmp_path / "feedback.sqlite"
    with closing(Store(f"sqlite:///{file}")) as store, closing(sqlite3.connect(file)) as raw:
        assert store.ready()
        raw.execute("DROP TABLE requests")
        assert not store.ready()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("UPDATE ratings SET rating = 'abc'", "ratings, row 1: rating is 'abc', expected a number"),
        ("UPDATE ratings SET timestamp = 'then' WHERE number = 2", "ratings, row 2: timestamp is 'then', expected sec"),
        ("UPDATE ratings SET timestamp = 1.5", "ratings, row 1: timestamp is 1.5, expected seconds since 1970"),
        ("UPDATE ratings SET timestamp = -7", "ratings, row 1: timestamp is -7, expected seconds since 1970"),
        ("UPDATE ratings SET rating = 9e999", "ratings, row 1: rating is inf, expected a number"),
        ("UPDATE ratings SET user_id = x'00ff'", "ratings, row 1: user_id is b'\\x00\\xff', expected an id as JSON"),
        ("UPDATE ratings SET user_id = 'anna'", "ratings, row 1: user_id is 'anna', expected an id as JSON"),
        ("UPDATE ratings SET item_id = '[1]'", "ratings, row 1: item_id is '[1]', expected an id as JSON"),
        ("UPDATE events SET p = 'high'", "events, row 1: p is 'high', expected a probability"),
        ("UPDATE events SET model = 'x'", "events, row 1: model is 'x', expected a text as JSON"),
        ("ALTER TABLE ratings DROP COLUMN rating", "has no columns rating in its table ratings, expected the store of"),
        ("DROP TABLE events", "has no table events, expected the store of `palate serve`"),
    ],
)
def test_what_another_program_wrote_is_one_line_with_exit_code_2(tmp_path: Path, change: str, line: str) -> None:
    url = f"sqlite:///{tmp_path}/a.sqlite"
    with closing(Store(url)) as store:
        store.add_ratings([rating(1, 2), rating("anna", "b-7", 2.5)])
        store.add_events([NewEvent(event="shown", user_id=1, item_id=2, model="m", p=0.25)])
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as raw:
        raw.execute(change)
        raw.commit()
    with pytest.raises(PalateError) as failure, closing(Store(url)) as store:
        store.ratings_of("anna" if "number = 2" in change else 1)
        store.all_ratings()
        store.events()
    assert str(failure.value).startswith(f"{tmp_path}/a.sqlite: {line}")
    assert failure.value.exit_code == 2


def test_a_schema_without_a_column_is_refused(server: str) -> None:
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS palate CASCADE")
        Store(server).close()
        connection.execute("ALTER TABLE palate.ratings DROP COLUMN rating")
        with pytest.raises(InputError, match="has no columns rating in its table ratings"):
            Store(server)
        connection.execute("DROP SCHEMA palate CASCADE")


def test_a_folder_that_does_not_exist_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope does not exist"):
        Store(f"sqlite:///{tmp_path}/nope/x.sqlite")
    assert not (tmp_path / "nope").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/name?password=secret", "postgresql://host/name"),
        ("postgresql://me:a/secret@host/name", "postgresql://host/name"),
        ("postgresql://me:a?secret@host/name", "postgresql://…"),
        ("postgresql://host/name?password=a@secret", "postgresql://…"),
        ("mysql://me:secret@host/name", "mysql://host/name"),
        ("postgresql://[::1/name", "postgresql://[::1/name"),
        ("postgresql://host:5432/name", "postgresql://host:5432/name"),
        ("postgresql://me:secret", "postgresql://…"),
        ("postgresql:/me:secret@host/name", "…@host/name"),
        ("sqlite:///a@b?c.sqlite", "sqlite:///a@b?c.sqlite"),
    ],
)
def test_messages_show_no_password(url: str, shown: str) -> None:
    assert database.place_of(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p@secret@127.0.0.1:9/name",
        "postgresql://me:secret/p@127.0.0.1:9/name",
        "postgresql://me:p:secret@127.0.0.1:9/name",
        "postgresql://me:p?secret@127.0.0.1:9/name",
        "postgresql://me:%zzsecret@127.0.0.1:9/name",
        "postgresql://me:p%40secret@127.0.0.1:9/name",
        "postgresql://me:secret",
        "postgresql://127.0.0.1:9/name?password=p&secret=1",
        "postgresql://127.0.0.1:9/name?password=%zzsecret",
        "postgresql:/me:secret@127.0.0.1:9/name",
        "postgres:me:secret@127.0.0.1:9/name",
    ],
)
def test_no_error_holds_a_part_of_the_password(url: str) -> None:
    with pytest.raises(PalateError) as failure:
        connect(url)
    assert "secret" not in str(failure.value)


def test_a_url_that_cannot_be_read_is_wrong_input() -> None:
    with pytest.raises(InputError, match="is not a database's URL"):
        connect("postgresql://[::1/name")
