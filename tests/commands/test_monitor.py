"""`palate monitor` and the gauges of `/metrics`."""

import json
import math
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.acceptance.ratings import write_ratings
from tests.command import palate

from palate.errors import InputError
from palate.serve.monitor import gauges
from palate.serve.schemas import NewEvent, NewRating
from palate.serve.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared run, with a store in which two models' recommendations were shown and rated."""
    folder = tmp_path_factory.mktemp("monitored")
    write_ratings(folder / "log", users=12, each=40, items=80)
    done = palate("prepare", "--ratings", folder / "log", "--set", f"run_dir={folder}/run", "--history-len", "5")
    assert done.returncode == 0, done.stderr
    with closing(Store(f"sqlite:///{folder}/run/feedback.sqlite")) as store:
        for user in (1, 2, "new"):
            shown = [
                NewEvent(event="shown", user_id=user, item_id=item, timestamp=2_000_000, model=model, p=p)
                for item in range(1, 31)
                for model, p in (("strongest", 0.9 if item % 4 == 1 else 0.3), ("a model with a long name", 0.5))
            ]
            store.add_events(shown)
            store.add_ratings(
                [
                    NewRating(user_id=user, item_id=i, rating=2 + 2.5 * (i % 2), timestamp=2_000_001)
                    for i in range(1, 26)
                ]
            )
    return folder / "run"


def test_the_table_fits_a_terminal_and_says_what_the_store_holds(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = palate("monitor", run)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80
    assert "75 ratings in the store, 75 of them unknown to" in done.stdout
    assert "180 events" in done.stdout
    assert re.search(r"users without a rating in training +33\.3", done.stdout)
    assert re.search(r"strongest +90 +75 +0\.468 +0\.520", done.stdout)


def test_json_and_gauges_have_the_same_figures(run: Path) -> None:
    found = json.loads(palate("monitor", run, "--json").stdout)
    assert (found["run"], found["stored"], found["newer"], found["events"]) == (str(run), 75, 75, 180)
    with closing(Store(f"sqlite:///{run}/feedback.sqlite")) as store:
        values = gauges(run, store)
    assert all(math.isfinite(value) and re.fullmatch(r"palate_[a-z_]+", name) for name, value in values.items())
    assert values["palate_drift_psi_ratings"] == found["drift"][0]["psi"]
    assert values["palate_drift_chance_ratings"] == found["drift"][0]["chance"]
    assert values["palate_cold_users_share"] == found["cold"]["users"] == 1 / 3
    assert (values["palate_shown"], values["palate_answered"]) == (90, 75)
    assert values["palate_answered_liked_share"] == pytest.approx(13 / 25)


def test_a_run_without_a_store_or_without_data_is_wrong_input(run: Path, tmp_path: Path) -> None:
    missing = palate("monitor", run, "--ratings", f"sqlite:///{tmp_path}/none.sqlite")
    assert (missing.returncode, "no such file, expected the store" in missing.stderr) == (2, True)
    (tmp_path / "config.yaml").write_text("name: empty\n")
    with closing(Store(f"sqlite:///{run}/feedback.sqlite")) as store, pytest.raises(InputError, match="does not exist"):
        gauges(tmp_path, store)


def test_a_store_with_values_of_another_program_is_one_line(run: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.sqlite"
    with closing(Store(url)) as store:
        store.add_ratings([NewRating(user_id=1, item_id=1, rating=4)])
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as raw:
        raw.execute("UPDATE ratings SET rating = 'abc'")
        raw.commit()
    items = run.parent / "log" / "movies.csv"
    for words in (
        ("monitor", run, "--ratings", url),
        ("prepare", "--ratings", url, "--items", items, "--out", tmp_path / "x"),
    ):
        done = palate(*words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "ratings, row 1: rating is 'abc', expected a number" in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_name_of_a_model_is_a_few_lines(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    url = f"sqlite:///{tmp_path}/a.sqlite"
    with closing(Store(url)) as store:
        names = ("first\nstrongest 90", "x" * 500)
        store.add_events([NewEvent(event="shown", user_id=1, item_id=1, model=each, p=0.5) for each in names])
    table = palate("monitor", run, "--ratings", url).stdout.rpartition("answered")[2].strip().splitlines()
    assert any("first strongest" in each for each in table)
    assert len(table) < 8
