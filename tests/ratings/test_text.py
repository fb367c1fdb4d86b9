"""Titles arrive whole and on one line, however their file writes quotes, line breaks and control characters."""

import csv
import io
import shutil
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

import polars as pl
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tests.examples import examples

from palate.errors import InputError
from palate.ratings import layout
from palate.ratings.layout import _is_standard
from palate.ratings.load import load_ratings
from palate.ratings.source import SourceFile
from palate.ratings.text import fold, folded

CASES = Path(__file__).parents[3] / "shared" / "cases"
ROWS = "userId,movieId,rating,timestamp\n1,1,4,100\n1,2,4,200\n"


def titles(folder: Path) -> list[str]:
    return load_ratings(str(folder)).items["title"].to_list()


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside the repository")
@pytest.mark.parametrize(
    ("case", "first"),
    [
        ("07-spark-backslash", ['Amber Harbor, "the 0"', "Broken Harbor"]),
        ("47-spark-comma", ['Amber Harbor "the best", part 0', 'Broken Harbor "the best", part 1']),
        ("25b-titles-ansi", ["Two Lines", "Tab here", "Red"]),
    ],
)
def test_a_title_is_read_as_it_was_meant(case, first, tmp_path):
    for name in ("ratings.csv", "movies.csv"):
        shutil.copy(CASES / case / name, tmp_path / name)
    found = titles(tmp_path)
    assert found[: len(first)] == first
    assert not [title for title in found if "\\" in title or not title.isprintable()]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["Tom &amp; Jerry", "Gintama&#039;", "&quot;A&#x2764;&eacute;&quot;"], ["Tom & Jerry", "Gintama'", '"A❤é"']),
        (["AT&T", "&copy 1999 & Ltd", "&amp; in HTML"], None),
        (["A&amp;amp; B", "x &nosuch; y", "AT&T"], ["A&amp; B", "x &nosuch; y", "AT&T"]),
        (["Q;&A", "&;", "&#;"], None),
    ],
)
def test_entities_of_html_become_characters_where_most_ampersands_begin_one(table, tmp_path, written, read):
    rows = "".join(f"{n},{title}\n" for n, title in enumerate(written, 1))
    ratings = "".join(f"1,{n},4,{n}\n" for n in (1, 2, 3))
    expected = read or written
    assert titles(table(f"userId,movieId,rating,timestamp\n{ratings}", f"movieId,title\n{rows}")) == expected
    beside = "".join(f"1,{n},4,{n},{title}\n" for n, title in enumerate(written, 1))
    (tmp_path / "log.csv").write_text(f"user,item,rating,time,title\n{beside}")
    assert titles(tmp_path / "log.csv") == expected


@pytest.mark.parametrize("quoted", [r'"Say \"Hi\", Ann"', '"Say ""Hi"", Ann"'])
def test_quotes_are_escaped_or_doubled(table, quoted):
    assert titles(table(ROWS, f"movieId,title\n1,{quoted}\n2,B\n")) == ['Say "Hi", Ann', "B"]


@pytest.mark.parametrize("quoted", [r'"Say \"Hi\", Ann"', '"Say ""Hi"", Ann"'])
def test_titles_of_a_rating_table_are_whole_too(tmp_path, quoted):
    (tmp_path / "a.csv").write_text(f"user,item,title,rating,timestamp\nann,1,{quoted},4,1\nann,2,B\x1b[31m,4,2\n")
    assert titles(tmp_path / "a.csv") == ['Say "Hi", Ann', "B"]


@pytest.mark.parametrize("fields", ['{n}" disc', 'x" {n}', '"a ""{n}"" b"', '{n}"" disc', '"{n}, with "" one"'])
def test_a_quote_within_a_field_joins_no_rows(table, fields):
    rows = [f"{user},{item},4.0,{user}" for user in (1, 2, 3) for item in (10, 20)]
    noted = [f"{row},{fields.format(n=n)}" for n, row in enumerate(rows)]
    ratings = load_ratings(str(table("\n".join(["userId,movieId,rating,timestamp,note", *noted]))))
    assert ratings.frame.height == len(rows)
    movies = "\n".join(["movieId,title", *(f"{n},{fields.format(n=n)}" for n in (10, 20, 30, 40))])
    ratings = load_ratings(str(table("\n".join(["userId,movieId,rating,timestamp", *rows]), movies)))
    ((_, expected),) = csv.reader([f"1,{fields.format(n=30)}"])
    assert ratings.items.height == 4
    assert ratings.items["title"][2] == expected


def test_quotes_in_a_tab_separated_title_are_part_of_it(tmp_path):
    (tmp_path / "ratings.tsv").write_text(ROWS.replace(",", "\t"))
    (tmp_path / "movies.tsv").write_text('movieId\ttitle\n1\t"Best" Film\n2\t"Never closed\n')
    assert titles(tmp_path) == ['"Best" Film', '"Never closed']


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ('movieId,title\n1,A\n2,"B" C\n', "movies.csv:3: is not CSV: text follows a closing quote"),
        ('movieId,title\n1,A\n2,"B\n', "movies.csv:3: is not CSV: a quote is never closed"),
        ("movieId,title\n1,A\r2,B\n", "movies.csv:2: is not CSV: the line contains a carriage return"),
    ],
)
def test_a_title_that_cannot_be_read_whole_is_refused_with_its_line(table, movies, message):
    with pytest.raises(InputError, match=message):
        titles(table(ROWS, movies))


@examples(200)
@given(st.text(st.sampled_from(list("ab \"'\\,\t\r\n\x1b[31mJ;\x07\x00\x85\x9b\u2028\u2029"))))
def test_a_column_is_folded_as_a_text_is(text):
    one_line = fold(text)
    assert pl.DataFrame({"t": [text]}).select(folded(pl.col("t")))["t"][0] == one_line
    assert not [mark for mark in one_line if not mark.isprintable()]
    assert one_line.split() == one_line.split("\n")[0].split()


@examples(100)
@given(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1), min_size=1))
def test_text_without_control_characters_stays_as_it_stands(tmp_path_factory, texts):
    assert [fold(text) for text in texts] == texts


def test_titles_that_open_a_quote_and_close_none_join_no_rows(tmp_path):
    (tmp_path / "movies.tsv").write_text('movieId\ttitle\n1\t"Heat\n2\tBox"\n3\tZ\n')
    (tmp_path / "ratings.tsv").write_text(
        'userId\tmovieId\trating\ttimestamp\ttitle\n1\t1\t5\t1\t"a\n1\t3\t3\t2\tc"\n1\t2\t3\t3\tz\n'
    )
    ratings = load_ratings(str(tmp_path / "ratings.tsv"), items=str(tmp_path / "movies.tsv"))
    assert ratings.frame.height == 3
    assert ratings.items["title"].to_list() == ['"Heat', 'Box"', "Z"]


@given(st.text('",\n\r1é', max_size=24), st.sampled_from([",", "\t"]), st.integers(1, 30))
def test_what_counts_as_standard_csv_is_read_by_polars_as_by_python(tmp_path_factory, text, separator, size):
    text = "a,b\n" + text
    path = tmp_path_factory.getbasetemp() / "standard.csv"
    path.write_text(text.replace(",", separator), newline="")
    file = SourceFile(path, path.name, str(path), Future())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK", size)
        is_standard = _is_standard(file, separator, 2, 0)
    event(f"standard: {is_standard}")
    if is_standard:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        columns = dict.fromkeys("ab", pl.String())
        found = pl.read_csv(path, has_header=False, separator=separator, schema=columns).fill_null("").rows()
        assert {len(row) for row in rows} == {2}
        assert [row for row in found if any(row)] == [tuple(row) for row in rows if any(row)]


def test_a_quoted_log_is_read_as_fast_as_polars_parses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_walk", only_the_header(layout._walk))
    rows = "".join(f'"u{n}","{n % 9}","A ""B"", C","4","{n}"\n' for n in range(3_000))
    path = tmp_path / "ratings.csv"
    path.write_text('"user","item","title","rating","timestamp"\n' + rows)
    assert load_ratings(str(path)).frame.height == 3_000


def only_the_header(walk):
    """The rows of a text in Python, of which only two may be asked for."""
    return lambda *args, **options: islice(walk(*args, **options), 2)
