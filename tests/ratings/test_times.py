"""Times of ratings in every form: numbers in four units, text, dates, and typed columns."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.errors import InputError
from palate.ratings.load import Ratings, load_ratings
from palate.ratings.splits import load_given
from palate.ratings.times import time_form

NOON, LATER = 1714564800, 1714651205  # 2024-05-01 12:00:00 and 2024-05-02 12:00:05 in UTC
DAY = 1714521600  # 2024-05-01


def read(folder: Path, times: list, name: str = "a.csv") -> Ratings:
    """The ratings of one user at these times, each of the next item."""
    frame = pl.DataFrame({"user": 1, "item": range(len(times)), "rating": 4.0, "timestamp": times, "title": "T"})
    path = folder / name
    frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path)
    return load_ratings(str(path))


@pytest.mark.parametrize(
    ("times", "expected", "told"),
    [
        ([NOON, LATER], [NOON, LATER], "seconds, 2024-05-01 to 2024-05-02"),
        ([NOON * 10**3, LATER * 10**3], [NOON, LATER], "milliseconds, 2024-05-01 to 2024-05-02"),
        ([NOON * 10**6, LATER * 10**6], [NOON, LATER], "microseconds, 2024-05-01 to 2024-05-02"),
        ([NOON * 10**9, LATER * 10**9], [NOON, LATER], "nanoseconds, 2024-05-01 to 2024-05-02"),
        (["1714564800.25", "1714651205"], [NOON, LATER], "seconds, 2024-05-01 to 2024-05-02"),
        (["1714564800000.25", "1714651205000.5"], [NOON, LATER], "milliseconds, 2024-05-01 to 2024-05-02"),
        ([5, 7], [5, 7], "numbers from 5 to 7, taken as an order"),
        ([20240501, 20240502], [DAY, DAY + 86400], "dates written as %Y%m%d, 2024-05-01 to 2024-05-02"),
        ([20240501120000, 20240502120005], [NOON, LATER], "dates written as %Y%m%d%H%M%S, 2024-05-01 to 2024-05-02"),
        (["2024-05-01T12:00:00Z", "2024-05-02T12:00:05Z"], [NOON, LATER], "ISO text, 2024-05-01 to 2024-05-02"),
        (["2024-05-01 12:00:00", "2024-05-02T12:00:05.9Z"], [NOON, LATER], "ISO text, 2024-05-01 to 2024-05-02"),
        (["2024-05-01T14:00+02:00", "2024-05-02 07:00:05 -0500"], [NOON, LATER], "ISO text, 2024-05-01 to 2024-05-02"),
        (["2024-05-01", "2024-05-02"], [DAY, DAY + 86400], "ISO text, 2024-05-01 to 2024-05-02"),
        (["1.5.2024", "13.5.2024"], [DAY, DAY + 12 * 86400], "day-first dates, 2024-05-01 to 2024-05-13"),
        (
            ["5/1/2024 12:00 PM", "5/31/2024"],
            [NOON, DAY + 30 * 86400],
            "month-first dates, 2024-05-01 to 2024-05-31",
        ),
        (
            ["Wed May 01 05:00:00 -0700 2024", "Thu May 02 12:00:05 +0000 2024"],
            [NOON, LATER],
            "dates such as 'Wed May 01 05:00:00 -0700 2024', 2024-05-01 to 2024-05-02",
        ),
        (
            ["May 1, 2024", "May 13, 2024"],
            [DAY, DAY + 12 * 86400],
            "dates such as 'May 1, 2024', 2024-05-01 to 2024-05-13",
        ),
        *(
            (times, [DAY, DAY + 12 * 86400], f"dates such as {times[0]!r}, 2024-05-01 to 2024-05-13")
            for times in (["1-May-24", "13-May-24"], ["May 1 2024", "May 13 2024"])
        ),
        *(
            (times, [DAY, DAY + 93 * 86400], f"dates such as {times[0]!r}, 2024-05-01 to 2024-08-02")
            for times in (
                ["May 1, 2024", "August 2, 2024"],
                ["1 May 2024", "2 August 2024"],
                ["May 1, 2024 12:00 AM", "August 2, 2024 12:00 AM"],
                ["Wednesday, May 1, 2024", "Fri., Aug. 2, 2024"],
            )
        ),
        (
            ["05 1, 2024", "05 13, 2024"],
            [DAY, DAY + 12 * 86400],
            "dates such as '05 1, 2024', 2024-05-01 to 2024-05-13",
        ),
    ],
)
def test_every_form_becomes_seconds(tmp_path, times, expected, told):
    ratings = read(tmp_path, times)
    assert ratings.frame["timestamp"].to_list() == expected
    assert ratings.times == told
    assert read(tmp_path, times, "a.parquet").frame.equals(ratings.frame)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([date(2024, 5, 1), date(2024, 5, 2)], [DAY, DAY + 86400]),
        ([datetime(2024, 5, 1, 12), datetime(2024, 5, 2, 12, 0, 5, 250_000)], [NOON, LATER]),
        ([datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))], [NOON]),
    ],
)
def test_columns_of_dates_in_parquet(tmp_path, column, expected):
    assert read(tmp_path, column, "a.parquet").frame["timestamp"].to_list() == expected
    rows = pl.DataFrame({"user": 1, "item": range(4), "rating": 4.0, "title": "T", "split": ["train", "test"] * 2})
    times = pl.Series("timestamp", (column * 4)[:4]).sort()
    rows.with_columns(times).write_parquet(tmp_path / "given.parquet")
    given_splits = load_given(str(tmp_path / "given.parquet"))
    assert set(given_splits.frame["timestamp"]) == set(expected)


@pytest.mark.parametrize(
    "times",
    [
        [NOON * 1000 + 7, NOON * 1000 + 3, NOON * 1000 + 5],
        ["1714564800.7", "1714564800.3", "1714564800.5"],
        ["2024-05-01T12:00:00.7Z", "2024-05-01T12:00:00.3Z", "2024-05-01T12:00:00.5Z"],
    ],
)
def test_ratings_within_a_second_keep_their_order(tmp_path, times):
    frame = read(tmp_path, times).frame
    assert frame["item_id"].to_list() == [1, 2, 0]
    assert frame["timestamp"].to_list() == [NOON] * 3


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            ["May 1, 2024", "May 2, 2024", "soon"],
            "a.csv:4: timestamp 'soon' is not a time, expected dates such as 'May 1, 2024'",
        ),
        (["2024-05-01", "2024-02-30", "2024-05-02"], "a.csv:3: timestamp '2024-02-30' is not a time, expected a time"),
        (["2024-05-01", "2024-05-01 25:00", "2024-05-02"], "a.csv:3: timestamp '2024-05-01 25:00' is not a time"),
        (["2024-05-01", "1969-12-31"], "a.csv:3: timestamp '1969-12-31 00:00:00' is before 1970"),
        (["2024-05-01", "2024-05-02", NOON], "a.csv:4: timestamp '1714564800' is not a time"),
        (
            [NOON * 1000, NOON, NOON * 1000 + 1],
            "a.csv:3: timestamp 1714564800 is in another unit than the rows around it: seconds, expected milliseconds",
        ),
        (
            [NOON, NOON + 1, NOON * 1000],
            "a.csv:4: timestamp 1714564800000 is in another unit than the rows around it: milli",
        ),
        (["1/2/2024", "3/4/2024"], "a.csv:2: timestamp '1/2/2024' may have the day or the month first, as in all rows"),
        (["13/2/24", "1/2/24"], "a.csv:2: timestamp '13/2/24' has a year of two digits, expected 2024-12-31: "),
        (["13/2/2024", "3/14/2024"], "a.csv:3: timestamp '3/14/2024' has the month first, '13/2/2024' the day"),
    ],
)
def test_a_wrong_time_is_named_with_its_line(tmp_path, times, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, [str(time) for time in times])
    assert f"{tmp_path}/{message}" in str(caught.value)


def test_files_of_given_splits_share_one_form(tmp_path):
    head = "user,item,rating,timestamp,title\n"
    (tmp_path / "train.csv").write_text(head + "1,1,4,01/02/2024,T\n")
    (tmp_path / "test.csv").write_text(head + "1,2,4,13/02/2024,T\n")
    ratings = load_given(str(tmp_path))
    assert ratings.times == "day-first dates, 2024-02-01 to 2024-02-13"
    (tmp_path / "test.csv").write_text(head + "1,2,4,yesterday,T\n1,3,4,13/02/2024,T\n")
    with pytest.raises(InputError, match=r"test\.csv:2: timestamp 'yesterday' is not a time"):
        load_given(str(tmp_path))


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1))


@examples(200)
@given(
    st.lists(st.tuples(MOMENTS, st.one_of(st.none(), ZONES)), min_size=1, max_size=8),
    st.sampled_from(["T", " "]),
    st.sampled_from(["auto", "seconds", "milliseconds", "microseconds"]),
)
def test_iso_text_is_read_as_python_reads_it(moments, separator, precision):
    texts = [moment.replace(tzinfo=zone).isoformat(separator, precision) for moment, zone in moments]
    parsed = [datetime.fromisoformat(text) for text in texts]
    expected = [time if time.tzinfo else time.replace(tzinfo=UTC) for time in parsed]
    column = pl.Series(texts)
    form = time_form(column)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert form.values(column).to_list() == [(time - epoch) // timedelta(microseconds=1) * 1000 for time in expected]


@examples(100)
@given(st.lists(st.dates(date(1971, 1, 1), date(2200, 1, 1)), min_size=1, max_size=8), st.sampled_from("-/."))
def test_dates_of_either_order_are_read_or_refused(days, separator):
    for pattern, tells in (("%d/%m/%Y", "day"), ("%m/%d/%Y", "month")):
        column = pl.Series([day.strftime(pattern.replace("/", separator)) for day in days])
        if all(day.day <= 12 for day in days):
            with pytest.raises(ValueError, match="may have the day or the month first"):
                time_form(column)
        else:
            form = time_form(column)
            assert tells in form.name
            assert [form.date(value) for value in form.values(column)] == [day.isoformat() for day in days]


@pytest.mark.parametrize(
    "wrong", ["2600-01-01T00:00:00Z", "2600-01-01 00:00", "1400-01-01", "1400-01-01 00:00", "1/13/20240", "Jul 1, 2600"]
)
def test_text_of_a_year_beyond_64_bits_of_nanoseconds_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv:2: timestamp .* is (not a time|before 1970|not a number)"):
        read(tmp_path, [wrong])


@pytest.mark.parametrize("kind", [pl.Datetime("us"), pl.Datetime("ms")])
@pytest.mark.parametrize("number", [10**18, -(10**18)])
def test_typed_times_of_a_year_that_dates_lack_are_refused(tmp_path: Path, kind: pl.DataType, number: int) -> None:
    times = pl.Series([number, 5]).cast(kind)
    frame = pl.DataFrame({"user": 1, "item": [1, 2], "rating": 4.0, "timestamp": times, "title": "T"})
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"row 1: timestamp '{number}' is not a time"):
        load_ratings(str(tmp_path / "a.parquet"))
    found = load_ratings(str(tmp_path / "a.parquet"), bad_rows="report")
    assert found.dropped == {"no readable timestamp": 1}
    assert found.skipped is not None
    assert f'"timestamp": {number}' in found.skipped["row"][0]


def test_times_with_colons_are_read_where_colons_separate_fields(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::4::2024-05-01T12:00:00Z\n2::10::5::2024-05-01 12:00:01\n")
    found = load_ratings(str(tmp_path / "ratings.dat"), untitled="id")
    assert found.frame.rows() == [(1, 10, 4.0, 1714564800), (2, 10, 5.0, 1714564801)]
