"""The columns that a log of a shop has, and the choice between two."""

import pytest

from palate.cli import main
from palate.errors import InputError
from palate.ratings.load import load_ratings


@pytest.mark.parametrize(
    "header",
    [
        "customer,product,stars,created_at",
        "Client ID,SKU,review_score,Order Date",
        "reviewer,asin,Star Rating,date",
        "customer_id,product_id,star_rating,review_date",
        "buyer_id,article_id,grade,datetime",
    ],
)
def test_the_names_of_a_shop_are_known(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header},title\n7,8,4,2024-05-01,T\n")
    assert load_ratings(str(tmp_path / "a.csv")).frame.rows() == [(7, 8, 4.0, 1714521600)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user,asin,stars,date,sku", "the columns 'asin' and 'sku' can both be the item, .*--item NAME"),
        (
            "customer,buyer_id,item,stars,date",
            "'customer' and 'buyer_id' can both be the user, .*--user NAME",
        ),
        ("user,item,score,date,stars", "the columns 'score' and 'stars' can both be the rating, .*--rating NAME"),
        (
            "user,item,stars,order_date,review_date",
            "'review_date' and 'order_date' can both be the timestamp, .*--time",
        ),
    ],
)
def test_two_columns_for_one_role_are_refused_with_the_way_out(tmp_path, header, message):
    (tmp_path / "a.csv").write_text(f"{header}\n1,2,3,4,5\n")
    with pytest.raises(InputError, match=rf"a\.csv:1: .*{message}"):
        load_ratings(str(tmp_path / "a.csv"))


def test_a_sure_name_and_an_id_win(tmp_path):
    (tmp_path / "a.csv").write_text("client,client_id,item_id,sku,stars,timestamp,date,title\nAnn,1,2,x,3,4,5,T\n")
    assert load_ratings(str(tmp_path / "a.csv")).frame.rows() == [(1, 2, 3.0, 4)]


def test_a_name_decides(tmp_path):
    (tmp_path / "a.csv").write_text("user,asin,sku,stars,date,title\n1,2,3,4,5,T\n")
    assert load_ratings(str(tmp_path / "a.csv"), columns={"item": "sku"}).frame["item_id"].to_list() == [3]


def test_the_items_column_may_be_named_for_one_table_alone(tmp_path):
    for ratings, items in (("user,asin,sku,stars,date", "asin,title"), ("user,asin,stars,date", "number,title")):
        (tmp_path / "ratings.csv").write_text(f"{ratings}\n" + ",".join("87999"[: ratings.count(",") + 1]) + "\n")
        (tmp_path / "items.csv").write_text(f"{items}\n7,T\n")
        name = "asin" if "sku" in ratings else "number"
        assert load_ratings(str(tmp_path), columns={"item": name}, scale=(1, 9)).frame["item_id"].to_list() == [7]
    with pytest.raises(InputError, match=r"items\.csv:1: has no item column.* its name as --item; found number, title"):
        load_ratings(str(tmp_path), scale=(1, 9))
    (tmp_path / "items.csv").write_text("MAL_ID,Name\n7,T\n")
    assert load_ratings(str(tmp_path), scale=(1, 9)).items["title"].to_list() == ["T"]
    with pytest.raises(InputError, match=r"ratings\.columns\.item: names no column 'x' of ratings\.csv, items\.csv"):
        load_ratings(str(tmp_path), columns={"item": "x"}, scale=(1, 9))


def test_options_of_the_command_line_name_columns_and_items(tmp_path, capsys):
    lines = [f"{user},{item},{item % 2 * 4 + 1},{user * 100 + item}" for user in range(4) for item in range(12)]
    (tmp_path / "log.csv").write_text("who,what,how,when\n" + "\n".join(lines) + "\n")
    (tmp_path / "wares.csv").write_text("what,title\n" + "".join(f"{i},Thing {i}\n" for i in range(12)))
    ratings = ["--ratings", str(tmp_path / "log.csv"), "--items", str(tmp_path / "wares.csv")]
    names = ["--user", "who", "--item", "what", "--rating", "how", "--time", "when"]
    small = ["--set", "prepare.history_len=4", "--set", f"run_dir={tmp_path / 'run'}"]
    assert main(["audit", *ratings, *names, *small, "--json"]) == 0
    assert '"split": "user-time"' in capsys.readouterr().out
    assert main(["audit", *ratings, *small]) == 2
    assert (
        "log.csv:1: has no user column, expected one such as userId, or its name as --user" in capsys.readouterr().err
    )


def test_recommend_keeps_its_own_user(capsys):
    with pytest.raises(SystemExit):
        main(["recommend", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert [word in text for word in ("--user ID", "--user NAME", "--item NAME")] == [True, False, True]
