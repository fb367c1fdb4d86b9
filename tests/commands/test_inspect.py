"""What `palate inspect` prints of a log, and the page that it writes."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings
from tests.browser import browse, needs_browser
from tests.tree import Tree

from palate import console
from palate.cli import _parser, main


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("log") / "films", users=30, each=12, items=30)


def test_the_figures_fit_into_eighty_columns(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    assert main(["inspect", str(log), "--history-len", "5"]) == 0
    printed = capsys.readouterr().out
    assert "360, 40.00% of all pairs of a user and an item" in printed
    assert "movieId" in printed
    assert "{genres}" in printed
    assert "samples at 5: 150 train, 30 val, 30 test" in printed
    # Only the path of the log, which is the user's, may be longer.
    assert max(map(len, printed.splitlines())) <= 80


def test_inspect_says_how_many_users_the_default_loses(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(log)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "30 of 30 users have too few ratings (<16); `history_len 10` would keep 30" in told
    assert "`palate prepare` would stop" in told


def test_json_has_the_figures_and_writes_nothing(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(log), "--json", "--set", "prepare.history_len=5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ratings"], found["users"], found["items"]) == (360, 30, 30)
    assert found["columns"]["ratings.csv"] == {
        "userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"
    }  # fmt: skip
    assert found["samples"] == {"train": 150, "val": 30, "test": 30}
    assert sum(each["ratings"] for each in found["distribution"]) == 360
    assert list(tmp_path.iterdir()) == []


def test_ratings_beyond_the_usual_scale_are_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{user},{item},{(user + item) % 10 + 1},{item},Pan {item}" for user in range(5) for item in range(20)]
    path = tmp_path / "pans.csv"
    path.write_text("\n".join(["user,item,rating,timestamp,title", *rows]) + "\n")
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scale"] == [1, 10]
    assert found["chosen"]["rating_threshold"] == 6
    assert "ratings are from 1 to 10: a config needs `ratings.scale: [1, 10]`" in found["advice"]
    assert not [line for line in found["advice"] if "not_rated" in line]
    rows = [f"{user},{item},{(user + item) % 5 * 20 + 20},{item},Pan {item}" for user in range(5) for item in range(20)]
    path.write_text("\n".join(["user,item,rating,timestamp,title", *rows]) + "\n")
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == [0, 100]


def test_a_few_ratings_beyond_the_scale_are_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{user},{item},{(user + item) % 5 + 1},{item},Pan {item}" for user in range(10) for item in range(20)]
    path = tmp_path / "pans.csv"
    path.write_text("\n".join(["user,item,rating,timestamp,title", *rows, "9,1,-1,30,Pan 1"]) + "\n")
    assert main(["inspect", str(path), "--bad-rows", "refuse"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}:202: rating -1 is outside of the scale")
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scale"] == [0.5, 5]
    assert sum(found["dropped"].values()) == 1


def test_inspect_without_a_log_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect"]) == 2
    assert "PATH|NAME" in capsys.readouterr().err


def test_the_page_holds_its_pictures_with_their_numbers(log: Path, tmp_path: Path) -> None:
    assert main(["inspect", str(log), "--html", str(tmp_path / "log.html"), "--history-len", "5"]) == 0
    tree = Tree((tmp_path / "log.html").read_text())
    assert {"ratings", "users", "kept", "items", "popularity", "columns", "samples"} <= tree.ids


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_a_browser_shows_the_page(log: Path, tmp_path: Path, width: int, dark: bool) -> None:
    assert main(["inspect", str(log), "--html", str(tmp_path / "log.html")]) == 0
    seen = browse((tmp_path / "log.html").read_text(), tmp_path, width=width, dark=dark)
    assert seen.console == ""
    assert not seen.probe["requests"]
    assert not seen.probe["wide"]
    assert not seen.probe["hidden"]


def test_inspect_imports_neither_torch_nor_transformers(log: Path) -> None:
    code = "import sys; from palate.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "inspect", str(log)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stderr.split()
    assert "polars" in loaded
    assert not {"torch", "transformers", "sklearn", "matplotlib"} & set(loaded)


def test_a_log_in_several_files_with_titles_is_inspected_and_its_url_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "user,item,rating,timestamp,title"
    for month in range(2):
        rows = [f"{u},{i},{(u + i) % 5 + 1},{100 * month + i},Pan {i}" for u in range(6) for i in range(20)]
        (tmp_path / f"log-{month}.csv").write_text("\n".join([head, *rows]) + "\n")
    assert main(["inspect", str(tmp_path / "log-?.csv")]) == 0
    assert "2 files of CSV" in capsys.readouterr().out
    assert main(["init", f"file://{tmp_path}/log-0.csv", "--noun", "pan", "--out", str(tmp_path / "a.yaml")]) == 0
    assert f"source: file://{tmp_path}/log-0.csv" in (tmp_path / "a.yaml").read_text()
    assert main(["prepare", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "out")]) == 0


def test_columns_and_tables_of_other_names_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{u},{i},{(u + i) % 5 + 1}/5,{i}" for u in range(5) for i in range(20)]
    (tmp_path / "log.csv").write_text("\n".join(["who,what,opinion,moment", *rows]) + "\n")
    (tmp_path / "pans.csv").write_text("what,label,name\n" + "".join(f"{i},Pan {i},x\n" for i in range(20)))
    (tmp_path / "people.csv").write_text("who,age\n" + "".join(f"{u},3{u}\n" for u in range(5)))
    words = ["--user", "who", "--item", "what", "--rating", "opinion", "--time", "moment", "--title", "label"]
    tables = ["--items", str(tmp_path / "pans.csv"), "--users", str(tmp_path / "people.csv")]
    assert main(["inspect", str(tmp_path / "log.csv"), *words, *tables]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "written as numbers out of 5" in printed
    assert "label title" in printed
    assert "{user.age}" in printed
    assert main(["inspect", str(tmp_path / "log.csv"), *words[:-1], "lable", *tables]) == 2
    assert "no column 'lable'" in capsys.readouterr().err


def test_every_command_with_a_log_names_all_its_columns() -> None:
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    wanted = {"--items", "--users", "--item", "--rating", "--time", "--title"}
    for name, parser in commands.choices.items():
        options = {word for action in parser._actions for word in action.option_strings}
        assert "--time" not in options or wanted <= options, name
