"""`palate recommend`, as a user gives it, on a tiny model."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from tests.acceptance.ratings import write_ratings
from tests.acceptance.test_wrong_input import expect_refusal
from tests.tiny import random_adapter, tiny_folder

from palate.cli import main
from palate.commands.score import load_scorer
from palate.config import load_config
from palate.samples import load_prepared

FULL, SHORT = 98, 99
"""A user who has rated everything, and one with three ratings."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with prepared data and an adapter, its config beside it."""
    folder = tmp_path_factory.mktemp("recommend")
    ratings = write_ratings(folder / "ratings")
    with (ratings / "ratings.csv").open("a") as file:
        file.writelines(f"{FULL},{item},3.0,{2_000_000 + item}\n" for item in range(1, 61))
        file.writelines(f"{SHORT},{item},4.5,{2_000_000 + item}\n" for item in (1, 2, 3))
    config = {
        "name": "tiny",
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(ratings)},
        "prompt": {"system": "S", "instruction": "Like it?", "history_line": "{rating:.1f} {title}"},
        "model": {"base": str(tiny_folder(folder / "model")), "dtype": "float32"},
    }
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    random_adapter(load_config(folder / "run" / "config.yaml"), folder / "run" / "adapter", scale=0.3)
    assert (
        main(["prepare", "--config", str(folder / "run" / "config.yaml"), "--out", str(folder / "run" / "data")]) == 0
    )
    return folder / "run"


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(run: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Gives the command, and its JSON."""

    def told(*words: str) -> dict[str, Any]:
        code = main(["recommend", "--adapter", str(run / "adapter"), "--json", *words])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        found: dict[str, Any] = json.loads(captured.out)
        return found

    return told


def rated(run: Path, user: int) -> pl.DataFrame:
    return pl.read_parquet(run / "data" / "ratings.parquet").filter(user_id=user)


def test_a_user_is_recommended_what_the_model_likes_best_of_what_is_left(run: Path, ask: Ask) -> None:
    found = ask("--user", "3", "--top-k", "20")
    best = pl.DataFrame(found["recommendations"])
    seen = rated(run, 3)
    assert best["rank"].to_list() == list(range(1, 21))
    assert best["p"].is_sorted(descending=True)
    assert best["p"].n_unique() > 10, "a test on equal scores would prove nothing"
    assert found["scored"]["candidates"] == 20
    assert (found["scored"]["items"], found["scored"]["left_out_as_seen"]) == (60, 40)
    assert set(best["item_id"]) == set(range(1, 61)) - set(seen["item_id"])

    # The obvious way: each prompt written by hand, and scored by itself.
    config = load_config(run / "config.yaml")
    titles = dict(load_prepared(run / "data").samples.items.select("item_id", "title").iter_rows())
    last = seen[-15:]
    history = config.prompt.history(({"title": titles[i]} for i in last["item_id"]), last["rating"])
    examples = [config.prompt.alpaca(history, titles[i], "", 15) for i in best["item_id"]]
    assert best["title"].to_list() == [titles[i] for i in best["item_id"]]
    scores = load_scorer(config, run / "adapter").score_examples(examples, 1)
    assert best["p"].to_list() == pytest.approx(scores.p.tolist(), abs=1e-4)
    assert best["logit"].to_list() == pytest.approx(scores.logit.tolist(), abs=1e-3)
    assert best["mass"].to_list() == pytest.approx(scores.mass.tolist(), abs=1e-4)


def test_what_means_think_is_what_the_known_ratings_say(run: Path, ask: Ask) -> None:
    best = pl.DataFrame(ask("--user", "3")["recommendations"])
    table = pl.read_parquet(run / "data" / "ratings.parquet").filter(pl.col("split").is_in(["warmup", "train"]))
    overall = table["rating"].mean()

    def mean(item: int) -> float:
        own = table.filter(item_id=item)["rating"]
        return float((own.sum() + 5 * overall) / (len(own) + 5))

    own = rated(run, 3)
    apart = sum(rating - mean(item) for item, rating in own.select("item_id", "rating").iter_rows()) / (len(own) + 5)
    for row in best.iter_rows(named=True):
        assert row["item_count"] == table.filter(item_id=row["item_id"]).height
        assert row["item_mean"] == pytest.approx(mean(row["item_id"]), abs=1e-5)
        assert row["user_item"] == pytest.approx(mean(row["item_id"]) + apart, abs=1e-5)


def test_a_history_in_a_file_is_recommended_what_the_user_with_the_same_is(run: Path, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(rated(run, 5).select("item_id", "rating").write_csv())
    (tmp_path / "mine.jsonl").write_text(rated(run, 5).select("item_id", "rating").write_ndjson())
    expected = ask("--user", "5")
    for name in ("mine.csv", "mine.jsonl"):
        found = ask("--history", str(tmp_path / name))
        assert found["for"].endswith(name)
        assert found["recommendations"] == expected["recommendations"]


def test_a_history_may_hold_any_rating_of_the_scale(run: Path, ask: Ask, tmp_path: Path) -> None:
    log = pl.read_parquet(run / "data" / "ratings.parquet")["rating"]
    assert log.min() == 1.5, "a test on ratings that the log holds would prove nothing"
    (tmp_path / "mine.csv").write_text('Name,Year,Rating\n"Film 1, The",1951,0.5\n"Film 2, The",1952,5\n')
    assert ask("--history", str(tmp_path / "mine.csv"))["scored"]["left_out_as_seen"] == 2


def test_candidates_of_a_list_and_of_a_first_stage(run: Path, ask: Ask, tmp_path: Path) -> None:
    every = {row["item_id"]: row["p"] for row in ask("--user", "3", "--top-k", "60")["recommendations"]}
    seen = int(rated(run, 3)["item_id"][0])
    some = list(every)[4:8]
    (tmp_path / "list.txt").write_text(
        "\n".join([*map(str, some[:2]), *(f"film {i}, the ({1950 + i})" for i in some[2:])])
    )
    found = ask("--user", "3", "--candidates", str(tmp_path / "list.txt"))
    assert [row["item_id"] for row in found["recommendations"]] == some
    assert [row["p"] for row in found["recommendations"]] == pytest.approx([every[i] for i in some], abs=1e-4)

    (tmp_path / "list.txt").write_text(f"{some[0]}\n{seen}\n")
    found = ask("--user", "3", "--candidates", str(tmp_path / "list.txt"))
    assert (found["scored"]["candidates"], found["scored"]["left_out_as_seen"]) == (1, 1)
    found = ask("--user", "3", "--candidates", str(tmp_path / "list.txt"), "--include-seen")
    assert {row["item_id"] for row in found["recommendations"]} == {some[0], seen}

    for words, name in (([], "item-knn"), (["--retriever", "popularity"], "popularity")):
        found = ask("--user", "3", "--retrieve", "12", "--top-k", "12", *words)
        assert (found["scored"]["candidates"], found["scored"]["retriever"]) == (12, name)
        assert {row["item_id"] for row in found["recommendations"]} < set(every)


def test_the_base_model_alone_recommends_something_else(run: Path, ask: Ask) -> None:
    base = ask("--user", "3", "--base-only")
    assert base["scored"]["adapter"] is None
    assert [row["p"] for row in base["recommendations"]] != [row["p"] for row in ask("--user", "3")["recommendations"]]


def test_the_table_is_printed_and_what_was_scored_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--config", str(run / "config.yaml"), "--user", str(SHORT), "--top-k", "3"]) == 0
    captured = capsys.readouterr()
    assert f"user {SHORT}: 3 ratings, 4.50 on average; the prompt shows them" in captured.out
    assert "latest: Film 3, The (1953): 4.5 · Film 2, The (1952): 4.5" in captured.out
    assert len(re.findall(r"^ ?[123]   Film \d+, The \(\d{4}\) +0\.\d{3} ", captured.out, re.M)) == 3
    told = " ".join(captured.out.split("\n\n")[-1].split())
    assert re.fullmatch(r"model with \S+adapter scored 57 of 60 items, in \d+ s; 3 left out as rated before", told)
    assert f"user {SHORT} has 3 of the 15 ratings that prompts showed in training" in captured.err


@pytest.fixture(scope="module")
def batch(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recommendations for all users."""
    out = tmp_path_factory.mktemp("batch") / "top.parquet"
    assert main(all_users(run, out)) == 0
    return out


def all_users(run: Path, out: Path, *words: str) -> list[str]:
    command = ["recommend", "--config", str(run / "config.yaml"), "--all-users", "--out", str(out)]
    return [*command, "--retrieve", "15", "--top-k", "4", *words]


def test_all_users_are_recommended_what_each_is_alone(run: Path, batch: Path, ask: Ask) -> None:
    found = pl.read_parquet(batch)
    assert found.schema == {
        **{"user_id": pl.Int64, "rank": pl.Int32, "item_id": pl.Int64, "title": pl.String},
        **{"p": pl.Float32, "logit": pl.Float32, "mass": pl.Float32},
        **{"item_mean": pl.Float32, "item_count": pl.Int32, "user_item": pl.Float32},
    }
    assert found["user_id"].unique(maintain_order=True).to_list() == [*range(1, 13), SHORT]
    assert found.height == 13 * 4
    for user in (1, 7, SHORT):
        alone = ask("--user", str(user), "--retrieve", "15", "--top-k", "4")["recommendations"]
        assert (
            found.filter(user_id=user).drop("user_id").equals(pl.DataFrame(alone, schema=found.drop("user_id").schema))
        )
    assert [path.name for path in batch.parent.iterdir()] == ["top.parquet"]


def test_who_has_rated_everything_is_recommended_nothing_new(
    run: Path, batch: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pl.read_parquet(batch).filter(user_id=FULL).is_empty()
    command = ["recommend", "--config", str(run / "config.yaml"), "--user", str(FULL)]
    expect_refusal(command, capsys, f"user {FULL} has rated every candidate, expected others or --include-seen")
    assert len(ask("--user", str(FULL), "--include-seen", "--top-k", "60")["recommendations"]) == 60


def test_finished_recommendations_are_kept_until_what_they_depend_on_changes(
    run: Path, batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "top.parquet"
    out.write_bytes(batch.read_bytes())
    before = out.stat().st_mtime_ns
    assert main(all_users(run, out)) == 0
    assert "recommendations for 13 users" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == before
    assert main(all_users(run, out, "--top-k", "2")) == 0
    assert pl.read_parquet(out).height == 13 * 2


def parts_of(out: Path) -> list[Path]:
    return list(out.with_name(f"{out.name}.parts").glob("0*"))


def expect_to_go_on(run: Path, batch: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not out.exists()
    capsys.readouterr()
    assert main(all_users(run, out)) == 0
    assert re.search(r"resumes: ([2-9]|1[0-3]) of 14 users", capsys.readouterr().err)
    assert pl.read_parquet(out).equals(pl.read_parquet(batch))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_an_interrupted_batch_goes_on_to_the_same_file(
    run: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "top.parquet"
    monkeypatch.setattr("palate.recommend.batch.EVERY", 0.0)

    def interrupt() -> None:
        while len(parts_of(out)) < 2:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert main(all_users(run, out)) == 130
    thread.join()
    expect_to_go_on(run, batch, out, capsys)


@pytest.mark.slow
def test_a_killed_batch_goes_on_to_the_same_file(
    run: Path, batch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "top.parquet"
    program = (
        "import sys; from palate.recommend import batch; batch.EVERY = 0; from palate.cli import main; sys.exit(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", program, *all_users(run, out)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len(parts_of(out)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=60)
    expect_to_go_on(run, batch, out, capsys)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "palate recommend: names no recipient, expected one of --user, --history and --all-users"),
        (["--user", "3", "--all-users"], "palate recommend: names several recipients, expected one of --user"),
        (["--user", "77"], "--user: ratings has no user '77', expected one of 14 from 1 to 99"),
        (["--user", "3", "--top-k", "0"], "--top-k: 0, expected 1 or more"),
        (["--user", "3", "--retrieve", "5"], "--retrieve: 5, expected as many as --top-k at least: 10"),
        (["--user", "3", "--retriever", "popularity"], "--retriever: selects a first stage"),
        (["--user", "3", "--retrieve", "20", "--candidates", "x"], "--candidates: names the candidates"),
        (["--user", "3", "--candidates", "absent.txt"], "absent.txt: cannot be read: No such file"),
        (["--history", "absent.csv"], "absent.csv: cannot be read: No such file"),
        (["--user", "3", "--out", "x.parquet"], "--out: is the output of --all-users"),
        (["--all-users"], "--all-users: writes a file, expected --out FILE.parquet"),
        (["--all-users", "--out", "x.csv"], "--all-users: writes a file, expected --out FILE.parquet"),
        (["--user", "3", "--adapter", "absent"], "absent: there is no adapter"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    expect_refusal(["recommend", "--config", str(run / "config.yaml"), *words], capsys, told)


def test_wrong_files_are_told_with_their_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recommend", "--config", str(run / "config.yaml")]
    (tmp_path / "mine.csv").write_text('title,rating\n"Film 1, The (1951)",4\n"The Film 2",3\n')
    expect_refusal([*command, "--history", str(tmp_path / "mine.csv")], capsys, "mine.csv:3", ["Film 2, The (1952)"])
    (tmp_path / "mine.csv").write_text("movieId,rating\n1,5.5\n")
    expect_refusal([*command, "--history", str(tmp_path / "mine.csv")], capsys, "mine.csv:2", ["from 0.5 to 5"])
    (tmp_path / "list.txt").write_text("1\n61\n")
    listed = ["--candidates", str(tmp_path / "list.txt")]
    expect_refusal([*command, "--user", "3", *listed], capsys, "list.txt:2", ["'61'"])
    (tmp_path / "list.txt").write_text(f"{rated(run, 3)['item_id'][0]}\n")
    expect_refusal([*command, "--user", "3", *listed], capsys, "list.txt", ["user 3 has rated every candidate"])
    (tmp_path / "mine.parquet").write_text("mine")
    other = ["--all-users", "--out", str(tmp_path / "mine.parquet")]
    expect_refusal([*command, *other], capsys, "mine.parquet", ["was not written by `palate recommend`"])
    assert (tmp_path / "mine.parquet").read_text() == "mine"
