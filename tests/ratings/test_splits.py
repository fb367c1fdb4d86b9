"""Tables that bring their splits, as CoLLM's frames are when they are written as CSV or Parquet."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from palate.cli import main
from palate.errors import InputError
from palate.ratings.load import load_ratings
from palate.ratings.split_names import split_files
from palate.ratings.splits import load_given

HEAD = "uid,iid,label,timestamp,title,his,not_cold\n"
ROWS = {
    "train": '1,10,1,100,"Heat (1995)",[0],1\n1,11,0,101,Alien (1979),"[0, 10]",1\n2,10,0,102,"Heat (1995)",[0],1\n',
    "valid": '1,12,1,200,"Lost, The",[0],1\n',
    "test": '2,12,1,300,"Lost, The","[0,\n 1]",1\n3,10,0,301,"Heat (1995)",[0],0\n',
}


def tables(folder: Path, suffix: str = ".csv", **changed: str) -> Path:
    """A folder of three tables; `changed` are other texts by split."""
    folder.mkdir(exist_ok=True)
    for split, rows in ROWS.items():
        path = folder / f"{split}_ood2{suffix}"
        path.with_suffix(".csv").write_text(changed.get(split, HEAD + rows))
        if suffix == ".parquet":
            pl.read_csv(path.with_suffix(".csv")).write_parquet(path)
            path.with_suffix(".csv").unlink()
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_folder_of_splits_is_read(tmp_path: Path, suffix: str) -> None:
    ratings = load_given(str(tables(tmp_path / "ml", suffix)))

    assert ratings.frame.rows() == [
        (1, 10, 1.0, 100, "train"),
        (1, 11, 0.0, 101, "train"),
        (2, 10, 0.0, 102, "train"),
        (1, 12, 1.0, 200, "val"),
        (2, 12, 1.0, 300, "test"),
        (3, 10, 0.0, 301, "test"),
    ]
    assert ratings.items.rows() == [(10, "Heat (1995)"), (11, "Alien (1979)"), (12, "Lost, The")]
    assert (ratings.scale, ratings.name) == ((0.0, 1.0), "ml")
    assert sorted(ratings.inputs) == [f"{split}_ood2{suffix}" for split in ("test", "train", "valid")]


def test_one_file_says_its_splits_in_a_column(tmp_path: Path) -> None:
    text = "user,item,click,title,split\nu1,a,False,A,test\nu1,b,True,B,Train\nu2,a,0,A,validation\nu2,b,1,B,train\n"
    (tmp_path / "all.csv").write_text(text)

    ratings = load_given(str(tmp_path / "all.csv"))

    assert ratings.frame.rows() == [
        ("u1", "b", 1.0, 0, "train"),
        ("u2", "b", 1.0, 1, "train"),
        ("u2", "a", 0.0, 2, "val"),
        ("u1", "a", 0.0, 3, "test"),
    ]


def test_bool_labels_of_parquet_are_labels(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 1], "label": [True, False], "title": ["A", "A"],
                          "split": ["train", "test"]})  # fmt: skip
    frame.write_parquet(tmp_path / "all.parquet")

    assert load_given(str(tmp_path / "all.parquet")).frame["rating"].to_list() == [1.0, 0.0]


def test_ratings_keep_their_scale_and_zeros_and_ones_are_labels(tmp_path: Path) -> None:
    head = "user_id,movie_id,rating,timestamp,title,split\n"
    (tmp_path / "stars.csv").write_text(head + "1,1,4.5,1,A,train\n1,2,1.0,2,B,test\n")
    (tmp_path / "likes.csv").write_text(head + "1,1,1,1,A,train\n1,2,0,2,B,test\n")

    assert load_given(str(tmp_path / "stars.csv")).scale == (0.5, 5.0)
    assert load_given(str(tmp_path / "likes.csv")).scale == (0.0, 1.0)


def test_titles_may_lie_beside_and_columns_may_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,genre\n1,A,x\n2,B,y\n")
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text(f"who\twhat\tgood\n1\t{1 + (split == 'test')}\t1\n")
    columns = {"user": "who", "item": "what", "label": "good"}

    ratings = load_given(str(tmp_path), columns=columns)

    assert ratings.items["genre"].to_list() == ["x", "y"]
    assert "items.csv" in ratings.inputs


def with_line(split: str, number: int, row: str) -> dict[str, str]:
    lines = (HEAD + ROWS[split]).splitlines()
    lines[number - 1 : number] = row.split("\n")
    return {split: "\n".join(lines) + "\n"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (with_line("train", 3, "1,11,2,101,A,x,1"), "train_ood2.csv:3: label '2' is wrong, expected 0 or 1"),
        (with_line("train", 3, "1,11,,101,A,x,1"), "train_ood2.csv:3: label is missing"),
        (with_line("train", 3, "1,,1,101,A,x,1"), "train_ood2.csv:3: iid is missing, expected an id"),
        (
            with_line("valid", 2, "1,11,1,yesterday,A,x,1"),
            "valid_ood2.csv:2: timestamp 'yesterday' is not a number",
        ),
        (with_line("valid", 2, "1,11,1,-5,A,x,1"), "valid_ood2.csv:2: timestamp -5 is negative, expected seconds"),
        (with_line("train", 4, "1,11,1"), "train_ood2.csv:4: row has 3 fields, expected 7"),
        (with_line("train", 4, "1,11,1,5,A,x,1,9"), "train_ood2.csv:4: row has 8 fields, expected 7"),
        (with_line("train", 4, "\n\n1,11,3,5,A,x,1"), "train_ood2.csv:6: label '3' is wrong"),
        (with_line("test", 4, "3,10,0,301,,x,0"), "test_ood2.csv:4: title is missing"),
        (
            with_line("test", 4, "3,10,0,301,Heat,x,0"),
            "test_ood2.csv:4: item 10 is titled 'Heat' here and 'Heat (1995)'",
        ),
        ({"test": "uid,iid,timestamp,title\n1,2,3,A\n"}, "test_ood2.csv:1: has no label and no rating column"),
        ({"test": "uid,label,timestamp,title\n1,2,3,A\n"}, "test_ood2.csv:1: has no item column"),
        ({"test": "uid,iid,label,title\n1,2,1,A\n"}, "test_ood2.csv: has no timestamps"),
        ({"test": "uid,iid,rating,timestamp,title\n1,2,1,3,A\n"}, "test_ood2.csv: has other columns than"),
        ({"test": HEAD}, "test_ood2.csv: has no rows"),
        ({"test": ""}, "test_ood2.csv: is empty"),
        ({"train": "uid,iid,label,timestamp\n1,2,1,3\n"}, "train_ood2.csv: has no titles"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, changed: dict[str, str], told: str) -> None:
    with pytest.raises(InputError) as raised:
        load_given(str(tables(tmp_path / "ml", **changed)))

    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user,item,label,title\n1,2,1,A\n", "all.csv:1: has no split column"),
        ("user,item,label,title,split\n1,2,1,A,train\n1,2,1,A,exam\n", "all.csv:3: split 'exam' is wrong"),
        ("user,item,label,title,split\n1,2,1,A,train\n", "all.csv: has no rows of the split test"),
        (
            "user,item,rating,title,split\n1,2,7,A,train\n1,3,1,B,test",
            "all.csv:2: rating 7 is outside of the scale",
        ),
    ],
)
def test_a_file_of_all_splits_that_is_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "all.csv").write_text(text)

    with pytest.raises(InputError) as raised:
        load_given(str(tmp_path / "all.csv"))

    assert told in str(raised.value)


def test_folders_that_lack_a_split_or_have_it_twice_are_told(tmp_path: Path) -> None:
    folder = tables(tmp_path / "ml")
    (folder / "train.csv").write_text(HEAD)
    with pytest.raises(InputError, match=r"is of the split train, as train\.csv is"):
        load_given(str(folder))
    for path in folder.glob("train*"):
        path.unlink()
    with pytest.raises(InputError, match="has no table of train"):
        load_given(str(folder))


def test_file_names_tell_the_split() -> None:
    names = ["train_ood2.csv", "valid-1.parquet", "test.tsv", "items.csv", "training.md", "trainer.csv"]

    assert split_files(names) == {"train": "train_ood2.csv", "val": "valid-1.parquet", "test": "test.tsv"}


def test_what_is_no_rating_and_no_time_tells_the_way_out(tmp_path: Path) -> None:
    head = "user,item,rating,timestamp,title,split\n"
    (tmp_path / "all.csv").write_text(head + "1,2,-1,5,A,train\n1,3,2,6,B,test\n")
    with pytest.raises(InputError, match=r"rating -1 .* the user did not rate, --set ratings.not_rated=-1"):
        load_given(str(tmp_path / "all.csv"))
    (tmp_path / "all.csv").write_text(head + "1,2,2,2020-01-05,A,train\n1,3,2,6,B,test\n")
    with pytest.raises(InputError, match=r"all\.csv:2: .*'2020-01-05' is not a number.*dates in all rows"):
        load_given(str(tmp_path / "all.csv"))


def test_nested_columns_that_mean_nothing_are_left_alone(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"uid": [1], "iid": [2], "label": [1], "title": ["A"], "his": [[0, 1]]}
    for split in ("train", "test"):
        pl.DataFrame(rows).write_parquet(tmp_path / f"{split}.parquet")

    assert load_given(str(tmp_path)).frame.height == 2


def test_a_damaged_parquet_table_and_one_of_bytes_are_refused(tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": [7, 7], "item_id": [1, 2], "label": [1, 0], "title": ["A", "B"]})
    rows.write_parquet(tmp_path / "test.parquet")
    content = (tmp_path / "test.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(content[:40] + b"\xff" * 30 + content[70:])
    with pytest.raises(InputError, match=r"train\.parquet: cannot be read, expected a whole Parquet file: "):
        load_given(str(tmp_path))
    rows.with_columns(title=pl.lit(b"\xff")).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"train\.parquet: column 'title' has Binary, expected one value"):
        load_given(str(tmp_path))


WRONG = {
    "train": ["1,10,5,2024-01-01,Heat", "1,11,,2024-01-02,Ran", "2,10,9,2024-01-03,", "2,12,1,2024-01-04,"],
    "test": [",10,4,2024-02-02,Heat", "1,12,3", "2,10,4,soon,Heat", "2,10,2,2024-02-04,Heat"],
}


@pytest.mark.parametrize("shape", ["files", "column"])
def test_wrong_rows_and_items_without_a_title_are_left_out(tmp_path: Path, shape: str) -> None:
    place = tmp_path / ("all.csv" if shape == "column" else "tables")
    if shape == "column":
        lines = [f"{line},{split}" for split, rows in WRONG.items() for line in rows]
        place.write_text("\n".join(["u,i,rating,time,title,split", *lines, "2,10,4,2024-02-02,Heat,tets", ""]))
    else:
        place.mkdir()
        for split, rows in WRONG.items():
            (place / f"{split}.csv").write_text("\n".join(["u,i,rating,time,title", *rows, ""]))
    columns = {"user": "u", "item": "i"}
    with pytest.raises(InputError, match=r":[37]: row has \d fields, expected [56]"):
        load_given(str(place), columns=columns)
    with pytest.raises(InputError, match=r":5: title is missing, expected a title, or --untitled drop or id"):
        load_given(str(place), columns=columns, bad_rows="skip")

    ratings = load_given(str(place), columns=columns, bad_rows="report", untitled="drop")

    first, last = 1704067200, 1707004800
    assert ratings.frame.rows() == [(1, 10, 5.0, first, "train"), (2, 10, 2.0, last, "test")]
    assert ratings.items.rows() == [(10, "Heat")]
    assert ratings.skipped is not None
    files = ["all.csv"] * 8 if shape == "column" else ["train.csv"] * 3 + ["test.csv"] * 3
    assert ratings.skipped["file"].to_list() == files[: ratings.skipped.height]
    reasons = ["no rating that is a number", "rating outside of the scale", "item without a title",
               "no user_id", "wrong number of fields", "no readable timestamp"]  # fmt: skip
    assert ratings.skipped["reason"].to_list() == reasons + ["no split"] * (shape == "column")
    lines_of_files = [3, 4, 5, 2, 3, 4] if shape == "files" else [3, 4, 5, 6, 7, 8, 10]
    assert ratings.skipped["line"].to_list() == lines_of_files
    assert sum(ratings.dropped.values()) == ratings.skipped.height

    titles = load_given(str(place), columns=columns, bad_rows="skip", untitled="id").items
    assert titles.rows() == [(10, "Heat"), (12, "12")]


def test_a_parquet_table_and_an_item_table_beside_skip_too(tmp_path: Path) -> None:
    tables = {"train": [(1, 10, 1), (1, 11, None), (2, 12, 0)], "test": [(1, 12, 1), (2, 10, 0)]}
    for split, rows in tables.items():
        pl.DataFrame(rows, ["user_id", "item_id", "label"], orient="row").write_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n10,Heat\n")

    with pytest.raises(InputError, match=r"row 3: item_id '12' is wrong, .* or --untitled drop or id"):
        load_given(str(tmp_path), bad_rows="skip")
    ratings = load_given(str(tmp_path), bad_rows="report", untitled="drop")

    assert ratings.frame.select("user_id", "item_id", "rating").rows() == [(1, 10, 1.0), (2, 10, 0.0)]
    assert ratings.dropped == {"item without a title": 2, "no label of 0 or 1": 1}
    assert ratings.skipped is not None
    assert ratings.skipped["line"].to_list() == [2, 3, 1]


def test_prepare_takes_tables_with_splits_and_their_wrong_rows(tmp_path: Path) -> None:
    place = tables(tmp_path / "ml", train=HEAD + ROWS["train"] + '2,11,maybe,103,"Alien (1979)",[0],1\n')
    command = ["prepare", "--data", str(place), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert main([*command, "--bad-rows", "report"]) == 0
    assert (tmp_path / "out" / "skipped.csv").read_text().splitlines()[1].startswith("train_ood2.csv,5,no label of 0")


def test_a_saved_dataset_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datasets import Dataset, DatasetDict

    csv_folder, folder = tables(tmp_path / "csv"), tmp_path / "dict"
    frames = {split: pl.read_csv(csv_folder / f"{split}_ood2.csv") for split in ROWS}
    called = {"train": "train", "valid": "validation", "test": "test"}
    DatasetDict({called[split]: Dataset.from_polars(frame) for split, frame in frames.items()}).save_to_disk(folder)
    expected = load_given(str(csv_folder))
    found = load_given(str(folder))
    assert found.frame.equals(expected.frame)
    assert found.items.equals(expected.items)
    assert sorted(found.inputs) == ["test", "train", "validation"]
    assert main(["prepare", "--data", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert main(["inspect", str(folder)]) == 2
    told = capsys.readouterr().err
    assert f"`--data {folder}` reads the splits, `--ratings {folder}/train` one of them" in told
    log = Dataset.from_polars(frames["train"].with_columns(rating=4.0).drop("label"))
    DatasetDict({"a": log, "b": log}).save_to_disk(tmp_path / "others")
    assert main(["inspect", str(tmp_path / "others")]) == 2
    others = tmp_path / "others"
    assert f"expected the folder of one: {others}/a, {others}/b" in capsys.readouterr().err
    assert load_ratings(str(others / "b")).shape == "datasets"
    DatasetDict({"train": log}).save_to_disk(tmp_path / "one")
    assert load_ratings(str(tmp_path / "one")).frame.height == 3
