"""Wrong rows that are left out and reported, and items without a title."""

import csv
import json
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.cli import main
from palate.errors import InputError
from palate.ratings.layout import Layout, lacks_fields, records
from palate.ratings.load import load_ratings
from palate.ratings.source import open_source

HEAD = "customer,sku,stars,order_date,note"
ROWS = """\
1,5,4,2024-05-01,
1,6,,2024-05-02,"a, b"
,5,4,2024-05-03,

1,6,9,2024-05-04,x
1,6,3,soon,
1,6,3,2024-05-05
1,6,good,2024-05-06,
2,5,2,1969-01-01,
1,5,4,2024-05-01,again
2,6,5,2024-05-07,
,,,,
"""
WRONG = {
    3: "no rating that is a number",
    4: "no user_id",
    6: "rating outside of the scale",
    7: "no readable timestamp",
    8: "wrong number of fields",
    9: "no rating that is a number",
    10: "timestamp before 1970",
    11: "repeated",
}
GOOD = [(1, 5, 4.0, 1714521600), (2, 6, 5.0, 1715040000)]


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "ratings.csv").write_text(f"{HEAD}\n{ROWS}")
    (tmp_path / "items.csv").write_text("sku,title,price\n5,Heat,3\n6,Ran,4\n7,,5\n")
    return tmp_path


def test_the_first_wrong_row_is_refused_by_default(shop):
    with pytest.raises(InputError, match=r"ratings\.csv:3: stars '' is not a number"):
        load_ratings(str(shop))


def test_wrong_rows_are_left_out_and_counted_by_reason(shop):
    ratings = load_ratings(str(shop), bad_rows="skip")
    assert ratings.frame.rows() == GOOD
    assert ratings.dropped == {reason: list(WRONG.values()).count(reason) for reason in set(WRONG.values())}
    assert next(iter(ratings.dropped)) == "no rating that is a number"
    assert ratings.skipped is None


def test_a_report_has_line_reason_and_text(shop):
    skipped = load_ratings(str(shop), bad_rows="report").skipped
    assert dict(skipped.select("line", "reason").rows()) == WRONG
    assert skipped["row"][0] == "1,6,,2024-05-02,a, b"


def test_rows_of_parquet_are_reported_by_number(tmp_path):
    rows = {"user": [1, None, 2], "item": [5, 5, 6], "rating": [4.0, 3.0, None], "timestamp": [7, 8, 9], "title": "T"}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    ratings = load_ratings(str(tmp_path / "a.parquet"), bad_rows="report")
    assert ratings.frame.rows() == [(1, 5, 4.0, 7)]
    assert ratings.skipped.select("line", "reason").rows() == [(2, "no user_id"), (3, "no rating that is a number")]
    assert json.loads(ratings.skipped["row"][1]) == {"user": 2, "item": 6, "rating": None, "timestamp": 9, "title": "T"}


def test_a_row_that_lacks_fields_without_a_role_is_left_out(shop):
    rows = ["1,5,4,3,x", "2,6,5,4", "", "3,6,4,5,", '4,5,4,6,"a\n\nb, c"', "5,5,4,7,"]
    (shop / "ratings.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    ratings = load_ratings(str(shop), bad_rows="report")
    assert ratings.frame["user_id"].to_list() == [1, 3, 4, 5]
    assert ratings.skipped.rows() == [(3, "wrong number of fields", "2,6,5,4")]


FIELDS = st.sampled_from(["", "", "a", "b c", ",", '"', "\n", "a\r\nb"])


@examples(200)
@given(
    st.lists(st.lists(FIELDS, min_size=1, max_size=3), max_size=9), st.sampled_from(["\n", "\r\n"]), st.integers(1, 9)
)
def test_lacking_fields_are_found_where_a_plain_reading_finds_them(tmp_path_factory, rows, end, block):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator=end).writerows([["user", "item", "note"], *rows])
    layout = Layout(",", True, ("user", "item", "note"), 1)
    with open_source(path) as tables, patch("palate.ratings.layout._BLOCK", block):
        read = tables.open("a.csv")
        assert lacks_fields(read, layout) == any(len(fields) < 3 for _, fields in records(read, layout))


def test_lines_of_json_that_are_no_objects_are_left_out(tmp_path):
    path, good = tmp_path / "log.jsonl", [f'{{"user": {u}, "item": 5, "rating": 4, "time": {u}}}' for u in (1, 2)]
    wrong = {2: '{"user": 1,', 4: "[1, 2]", 5: '{"user": 3, "item": 6, "time": 7}', 7: "7"}
    lines = [good[0], wrong[2], "", wrong[4], wrong[5], good[1], wrong[7]]
    path.write_text("\n".join(lines))
    ratings = load_ratings(str(path), bad_rows="report", untitled="id")
    assert ratings.frame.rows() == [(1, 5, 4.0, 1), (2, 5, 4.0, 2)]
    reasons = ["not JSON", "not an object", "no rating that is a number", "not an object"]
    assert dict(ratings.skipped.select("line", "reason").rows()) == dict(zip(wrong, reasons, strict=True))
    assert ratings.skipped["row"][0] == wrong[2]
    assert ratings.dropped == {"not an object": 2, "no rating that is a number": 1, "not JSON": 1}
    with pytest.raises(InputError, match=r"log\.jsonl:2: is not JSON: .*; `--bad-rows skip` leaves such rows out"):
        load_ratings(str(path), untitled="id")


def test_wrong_lines_of_mind_are_left_out(tmp_path):
    right = "U1\t11/15/2019 9:55:12 AM\tN1 N2\tN3-1 N4-0"
    wrong = {
        1: "U3",
        3: "U2\t11/15/2019 9:55:12 AM\tN3-1",
        4: "U2\tyesterday\tN1\tN3-1",
        5: "U2\t11/15/2019 9:55:12 AM\tN1\tN3 N4-1",
    }
    late = "U2\t11/16/2019 9:55:12 AM\t\tN3-0"
    lines = [f"{n}\t{line}" for n, line in enumerate([wrong[1], right, wrong[3], wrong[4], wrong[5], late], 1)]
    (tmp_path / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    ratings = load_ratings(str(tmp_path), bad_rows="report", untitled="id")
    assert ratings.frame.select("user_id", "item_id", "rating").rows() == [
        ("U1", "N1", 1), ("U1", "N2", 1), ("U1", "N3", 1), ("U1", "N4", 0), ("U2", "N3", 0)
    ]  # fmt: skip
    reasons = ["wrong number of fields"] * 2 + ["no readable timestamp", "no list of news"]
    assert ratings.skipped.rows() == [(n, why, lines[n - 1]) for n, why in zip(wrong, reasons, strict=True)]
    with pytest.raises(InputError, match=r"behaviors\.tsv:1: row has 2 fields, expected 5 \(impression, user_id.*skip"):
        load_ratings(str(tmp_path), untitled="id")
    (tmp_path / "behaviors.tsv").write_text("\n".join([lines[1], lines[-1], lines[-1]]))
    with pytest.raises(InputError, match=r"behaviors\.tsv:3: user U2 rated item N3 at .* already on line 2"):
        load_ratings(str(tmp_path), untitled="id")


def test_the_part_of_mind_without_labels_is_named(tmp_path):
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/15/2019 9:55:12 AM\tN1 N2\tN3 N4\n")
    for bad_rows in ("refuse", "skip"):
        with pytest.raises(InputError, match="no labels -0 and -1, which the train and dev parts of MIND have"):
            load_ratings(str(tmp_path), bad_rows=bad_rows, untitled="id")


def test_ids_are_integers_if_the_rows_that_stay_have_integers(shop):
    (shop / "ratings.csv").write_text(f"{HEAD}\n1,5,4,3,\nann,5,,3,\n")
    assert load_ratings(str(shop), bad_rows="skip").frame.rows() == [(1, 5, 4.0, 3)]


def test_a_later_mistake_is_named_with_its_own_line(shop):
    (shop / "ratings.csv").write_text(f"{HEAD}\n\n1,5,,3,\n1,5\n1,5,4,3,\n1,8,4,4,\n")
    with pytest.raises(InputError, match=r"ratings\.csv:6: item 8 has no title"):
        load_ratings(str(shop), bad_rows="skip")


def test_a_table_without_a_good_row_is_refused(shop):
    (shop / "ratings.csv").write_text(f"{HEAD}\n1,5,,3,\n")
    with pytest.raises(
        InputError,
        match=r"has no ratings, expected a row that is right: 1 no rating that is a number; `--bad-rows refuse",
    ):
        load_ratings(str(shop), bad_rows="skip")


@examples(60)
@given(
    st.lists(
        st.sampled_from(["1,5,4,{n},", "1,5,x,{n},", "1,5,4", "", "u,6,4,{n},n", '1,"5",99,{n},"a\nb"']), max_size=9
    )
)
def test_what_stays_is_what_a_table_of_good_rows_gives(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "items.csv").write_text("sku,title\n5,A\n6,B\n")
    rows = ["2,6,1,1,"] + [row.format(n=n) for n, row in enumerate(drawn, 2)]
    good = [row for row in rows if row.count(",") == 4 and ",x," not in row and ",99," not in row]
    (folder / "ratings.csv").write_text("\n".join([HEAD, *good]) + "\n")
    expected = load_ratings(str(folder)).frame
    (folder / "ratings.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    ratings = load_ratings(str(folder), bad_rows="report")
    assert ratings.frame.equals(expected)
    assert ratings.skipped.height == sum(row != "" for row in rows) - len(good)


def test_ratings_of_items_without_a_title(shop):
    (shop / "ratings.csv").write_text(f"{HEAD}\n1,5,4,3,\n1,7,4,4,\n1,8,4,5,\n")
    with pytest.raises(InputError, match=r"ratings\.csv:3: item 7 has no title .* or --untitled drop or id"):
        load_ratings(str(shop))
    dropped = load_ratings(str(shop), untitled="drop")
    assert (dropped.frame["item_id"].to_list(), dropped.dropped) == ([5], {"item without a title": 2})
    by_id = load_ratings(str(shop), untitled="id")
    assert by_id.frame["item_id"].to_list() == [5, 7, 8]
    assert by_id.items.rows() == [(5, "Heat", "3"), (6, "Ran", "4"), (7, "7", "5"), (8, "8", "")]


def test_prepare_writes_the_rows_that_it_left_out(tmp_path, capsys):
    rows = [f"{user},{item},{item % 2 * 4 + 1},{user * 100 + item}" for user in range(6) for item in range(12)]
    rows.insert(30, "9,3,,7")
    (tmp_path / "ratings.csv").write_text("user,item,rating,timestamp\n" + "\n".join(rows) + "\n9,99,3,8\n")
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{i},T{i}\n" for i in range(12)))
    out = tmp_path / "out"
    rules = ["--bad-rows", "report", "--untitled", "drop", "--history-len", "4"]
    assert main(["prepare", "--ratings", str(tmp_path), *rules, "--out", str(out)]) == 0
    with (out / "skipped.csv").open() as file:
        found = [(row["line"], row["reason"], row["row"]) for row in csv.DictReader(file)]
    assert found == [("32", "no rating that is a number", "9,3,,7"), ("75", "item without a title", "9,99,3,8")]
    assert "skipped.csv" in json.loads((out / "manifest.json").read_text())["outputs"]
    told = capsys.readouterr().err
    assert "left out 2 rows: 1 item without a title, 1 no rating that is a number" in " ".join(told.split())


def test_data_that_were_read_in_another_way_are_prepared_again(tmp_path, capsys):
    rows = [f"{user},{item},{item % 2 * 4 + 1},{user * 100 + item},T{item}" for user in range(6) for item in range(12)]
    text = "user,item,rating,timestamp,title\n" + "\n".join(rows) + "\n"
    (tmp_path / "log.csv").write_text(text + "9,3,,7,T3\n")
    at = ["--ratings", str(tmp_path / "log.csv"), "--set", f"run_dir={tmp_path / 'run'}"]
    at += ["--set", "prepare.history_len=4"]
    assert main(["prepare", *at, "--bad-rows", "skip"]) == 0
    assert main(["recommend", *at, "--user", "1", "--base-only"]) == 2
    assert "prepared with ratings.bad_rows = 'skip' (the config says None)" in capsys.readouterr().err


@pytest.mark.parametrize("time", ["11/15/20199:55:12 AM", "11/15/2019 9:55:12AM", "11/15/2019 9:55: 2 AM"])
def test_a_time_of_mind_has_its_spaces(tmp_path, time):
    (tmp_path / "behaviors.tsv").write_text(f"1\tU1\t11/15/2019 9:55:11 AM\t\tN1-1\n2\tU1\t{time}\t\tN3-1\n")
    with pytest.raises(InputError, match=r"behaviors\.tsv:2: timestamp '.*' is not a time, expected one such as"):
        load_ratings(str(tmp_path), untitled="id")
