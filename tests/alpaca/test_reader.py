import json
from pathlib import Path

import pytest
from tests.tallrec import examples, write

from palate.alpaca.reader import line_of, read_alpaca
from palate.errors import InputError

GOOD = {"instruction": "I", "input": "in", "output": "Yes"}


@pytest.mark.parametrize("name", ["test.json", "test.jsonl"])
def test_a_file_is_read_in_its_order(tmp_path: Path, name: str) -> None:
    records = examples(5)

    file = read_alpaca(write(tmp_path / name, records))

    assert file.frame.select("instruction", "input", "output").to_dicts() == records
    assert set(file.frame["system"]) == {""}


def test_users_and_items_are_kept_where_the_file_names_them(tmp_path: Path) -> None:
    records = [{**GOOD, "uid": 7, "iid": "a"}, {**GOOD, "uid": 8, "iid": "b"}]

    file = read_alpaca(write(tmp_path / "x.json", records))

    assert file.frame.select("user_id", "item_id").rows() == [("7", "a"), ("8", "b")]


def test_ids_of_two_files_are_spelled_alike_and_missing_ones_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = read_alpaca(write(tmp_path / "x.json", [{**GOOD, "uid": 7}, {**GOOD, "uid": 7.5}]))
    assert file.frame["user_id"].to_list() == ["7", "7.5"]
    file = read_alpaca(write(tmp_path / "y.json", [{**GOOD, "uid": 7}, GOOD]))
    assert "user_id" not in file.frame.columns
    assert "ignoring uid" in caplog.text


def test_earlier_turns_are_kept_and_empty_ones_are_not(tmp_path: Path) -> None:
    some = [{**GOOD, "history": [["a", "b"]]}, {**GOOD, "history": []}]
    none = [{**GOOD, "history": []}]

    assert read_alpaca(write(tmp_path / "some.json", some)).frame["history"].to_list() == [[["a", "b"]], []]
    assert "history" not in read_alpaca(write(tmp_path / "none.json", none)).frame.columns


def test_a_byte_order_mark_and_missing_texts_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([{"instruction": "I", "output": "No", "input": None}]).encode())

    assert read_alpaca(path).frame.row(0, named=True)["input"] == ""


def test_the_line_is_that_of_the_key_in_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", examples(3))
    lines = path.read_text().splitlines()

    line = line_of(path, 2, "output")

    assert line == len(lines) - 2
    assert '"output"' in lines[line - 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "x.json: is empty"),
        ("[ ]", "x.json:1: has no examples"),
        ('[\n{"instruction": "a",\n "output": }]', "x.json:3: is not JSON: Expecting value"),
        ('[\n{"instruction": "a", "output": "Yes"}\n', "x.json:3: is not JSON"),
        ('[\n{"instruction": "a", "output": "Yes"}\n] x', "x.json:3: is not JSON: Extra data"),
        ('[\n{"instruction": "a", "output": "Yes"},\n3]', "x.json:3: record 2 is the number 3, expected an object"),
        ('[\n{"prompt": "a"}]', "x.json:2: record 1 has no 'instruction', only prompt"),
        ('{"instruction": "a", "output": "No"}\n{"instruction": "a"}', "x.json:2: record 2 has no 'output'"),
        ('{"instruction": "a", "output": "No"}\n{"instruc', "x.json:2: is not JSON"),
        ('[{"instruction": "a",\n"output": null}]', "x.json:2: record 1: output is null, expected text"),
        ('[{"instruction": "a",\n"output": 1}]', "x.json:2: record 1: output is the number 1, expected text"),
        ('[{"instruction": "a",\n"output": "No", "input": ["b"]}]', "x.json:2: record 1: input is an array"),
        ('{"instruction": "a",\n"output": "No"}', "x.json:1: is not JSON"),
        ("user,item,label\n1,2,1\n", "x.json:1: is not JSON"),
        ('[{"instruction": "a", "output": "No"},\n]', "x.json:1: is not JSON: a comma before the end"),
        *[
            (
                f'[{{"instruction": "a", "output": "No",\n"history": {turns}}}]',
                "x.json:2: record 1: history is not a list",
            )
            for turns in (
                '"text"',
                "[null]",
                '[["a"]]',
                '[["a", 3]]',
                '[{"role": "user"}]',
                '{"a": 1}',
                '[{"role": "human", "content": "a"}]',
            )
        ],
        (
            '[\n{"instruction": "a", "output": "Yes", "output": "No"}]',
            "x.json:2: is not JSON: an object has the key 'output' twice",
        ),
        ('[\n{"instruction": "\\ud83d", "output": "Yes"}]', "x.json:2: is not JSON: half of a surrogate pair"),
        (
            '{"instruction": "a", "output": "No", "n": ' + "9" * 4400 + "}",
            "x.json:1: is not JSON: a number of thousands",
        ),
        ('[\n{"instruction": "a", "output": "No", "n": ' + "[" * 100_000, "x.json:2: is not JSON: nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.json").write_text(text)

    with pytest.raises(InputError) as raised:
        read_alpaca(tmp_path / "x.json")

    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'[\n{"instruction": "\xff", "output": "Yes"}]')

    with pytest.raises(InputError, match=r"x\.json:2: is not UTF-8"):
        read_alpaca(tmp_path / "x.json")
