import json
from pathlib import Path

import pytest
from tests.disk import files_of_at_most

from palate.errors import InputError, WorkError
from palate.tokens.examples import load_examples

ROW = {"instruction": "I", "input": "X", "output": "No", "system": "S", "history": []}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE_DIR", str(tmp_path / "cache"))


def test_an_array_and_lines_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ROW, ROW | {"output": "Yes"}]))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row) for row in [ROW, ROW | {"output": "Yes"}]))
    a, b = load_examples(tmp_path / "a.json"), load_examples(tmp_path / "b.jsonl")

    assert a["output"][:] == ["No", "Yes"]
    assert a.to_list() == b.to_list()


def test_earlier_turns_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ROW | {"history": [["q", "a"]]}, ROW]))

    assert [row["history"] for row in load_examples(tmp_path / "a.json")] == [[["q", "a"]], []]


def test_others_files_may_lack_system_and_input(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "I", "output": "Yes.", "id": 3}]))

    assert load_examples(tmp_path / "a.json").to_list() == [
        {"instruction": "I", "input": "", "output": "Yes.", "system": ""}
    ]


def test_no_examples_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")

    assert len(load_examples(tmp_path / "a.json")) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"instruction": "I",\n"output": }]', r"a\.json:2: is not JSON: .*, expected a list of Alpaca"),
        (
            '{"instruction": "I", "output": "No"}\n{"instr',
            r"a\.json:2: is not a JSON object, expected an Alpaca example",
        ),
        ('[{"prompt": "I", "completion": "No"}]', "has no instruction and no output, only prompt, completion"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(InputError, match=message):
        load_examples(tmp_path / "a.json")


def test_a_missing_file_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="palate prepare"):
        load_examples(tmp_path / "absent.json")


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ROW] * 2000))
    with files_of_at_most(20_000), pytest.raises(WorkError, match="cannot be written"):
        load_examples(tmp_path / "a.json")
