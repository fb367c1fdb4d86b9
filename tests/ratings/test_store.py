"""Ratings of a service's store: a log of their own, or behind a log."""

import dataclasses
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.acceptance.ratings import write_ratings
from tests.command import palate
from tests.examples import examples

from palate.errors import InputError
from palate.ratings.load import load_ratings, with_store
from palate.serve.schemas import NewRating
from palate.serve.store import Store

Rows = list[tuple[int | str, int | str, float, int]]


def filled(file: Path, rows: Rows) -> str:
    """A store of these ratings."""
    file.unlink(missing_ok=True)
    url = f"sqlite:///{file}"
    with closing(Store(url)) as store:
        store.add_ratings([NewRating(user_id=u, item_id=i, rating=r, timestamp=t) for u, i, r, t in rows])
    return url


def test_a_store_is_a_log_with_the_items_of_a_table(tmp_path: Path) -> None:
    write_ratings(tmp_path)
    url = filled(tmp_path / "feedback.sqlite", [(7, 1, 3.0, 10), (7, 2, 4.0, 20), ("anna", 1, 5.0, 15)])
    found = load_ratings(url, items=str(tmp_path / "movies.csv"))
    assert found.frame.rows() == [("7", 1, 3.0, 10), ("7", 2, 4.0, 20), ("anna", 1, 5.0, 15)]
    assert (found.name, sorted(found.inputs), found.items.height) == ("feedback", ["feedback.sqlite", "movies.csv"], 60)
    with pytest.raises(InputError, match="has no titles, expected the item table"):
        load_ratings(url)
    with pytest.raises(InputError, match="has no ratings"):
        load_ratings(filled(tmp_path / "b.sqlite", [(7, 99, 3.0, 10)]), items=str(tmp_path / "movies.csv"))


def test_later_ratings_replace_earlier_ones_and_unfit_ones_are_counted(tmp_path: Path) -> None:
    log = load_ratings(str(write_ratings(tmp_path, users=2, each=3, items=5)))
    user, item, _, at = log.frame.row(1)
    rows = [
        (user, item, 0.5, at + 9),
        (3, 1, 2.0, 7),
        (3, 1, 2.5, 5),
        (3, "1x", 2.0, 7),
        (3, "01", 2.0, 7),
        (3, 2, 9.0, 7),
    ]
    found = with_store(log, filled(tmp_path / "a.sqlite", rows))
    assert found.frame.rows() == [
        *log.frame.rows()[:1],
        *log.frame.rows()[2:],
        (user, item, 0.5, at + 9),
        (3, 1, 2.0, 7),
    ]
    assert found.frame.schema == log.frame.schema
    assert found.dropped == {
        "item without a title": 2,
        "rating outside of the scale": 1,
        "replaced by a later rating": 2,
    }
    earlier = with_store(log, filled(tmp_path / "b.sqlite", [(user, item, 0.5, at - 9)]))
    assert earlier.frame.rows() == log.frame.rows()
    assert with_store(log, filled(tmp_path / "c.sqlite", [])).frame.equals(log.frame)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1.0, 4.5]), st.integers(0, 5))))
@examples(30)
def test_the_log_with_a_store_equals_the_obvious_one(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = load_ratings(str(write_ratings(folder, users=3, each=4, items=4)))
    log = dataclasses.replace(log, frame=log.frame.with_columns(pl.col("timestamp") % 5))
    expected = log.frame.rows()
    for user, item in {(user, item) for user, item, *_ in rows}:
        of_pair = [row for row in [*log.frame.rows(), *rows] if row[:2] == (user, item)]
        last = max(enumerate(of_pair), key=lambda pair: (pair[1][3], pair[0]))[1]
        expected = [row for row in expected if row[:2] != (user, item)] + [last]
    assert sorted(with_store(log, filled(folder / "a.sqlite", rows)).frame.rows()) == sorted(expected)


def test_prepare_reads_a_store_and_a_log_with_a_store(tmp_path: Path) -> None:
    log = load_ratings(str(write_ratings(tmp_path, users=4, each=30)))
    url = filled(tmp_path / "feedback.sqlite", log.frame.rows())
    alone = palate("prepare", "--ratings", url, "--items", tmp_path / "movies.csv", "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert palate("prepare", "--ratings", tmp_path, "--out", tmp_path / "log").returncode == 0
    assert (tmp_path / "alone/train.json").read_bytes() == (tmp_path / "log/train.json").read_bytes()
    more = filled(tmp_path / "more.sqlite", [(1, 60, 5.0, 2_000_000), (9, 99, 5.0, 2_000_000)])
    both = palate("prepare", "--ratings", tmp_path, "--set", f"ratings.also={more}", "--out", tmp_path / "both")
    assert both.returncode == 0, both.stderr
    assert "left out 1 rows: 1 item without a title" in both.stderr
    assert pl.read_parquet(tmp_path / "both/ratings.parquet").filter(timestamp=2_000_000)["item_id"].to_list() == [60]
    wrong = palate("prepare", "--ratings", tmp_path, "--set", "ratings.also=a.csv")
    assert (wrong.returncode, "'a.csv' is no store" in wrong.stderr) == (2, True)


def test_tables_with_splits_take_no_store(tmp_path: Path) -> None:
    log = load_ratings(str(write_ratings(tmp_path)))
    given_splits = dataclasses.replace(log, frame=log.frame.with_columns(split=pl.lit("train")))
    with pytest.raises(InputError, match=r"ratings\.also: is appended to a log"):
        with_store(given_splits, filled(tmp_path / "a.sqlite", [(1, 1, 4.0, 10)]))
