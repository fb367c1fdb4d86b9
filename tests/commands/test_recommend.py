"""`palate recommend --model BASELINE`: what a language model does, with a classical model and without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.acceptance.ratings import write_ratings

from palate.baselines.registry import RANKERS, REGISTRY, Baseline
from palate.baselines.statistics import BaselineData
from palate.cli import main
from palate.samples import Samples, load_prepared
from palate.samples.queries import Queries

SHORT = 99
"""A user with three ratings."""
SOME = ("user-item", "history-mean", "item-knn", "factors", "logistic-knn", "lightgbm-then", "lightgbm", "popularity")
SOME += ("strongest-then", "strongest")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has prepared data, and no model."""
    folder = tmp_path_factory.mktemp("recommend")
    ratings = write_ratings(folder / "ratings")
    with (ratings / "ratings.csv").open("a") as file:
        file.writelines(f"{SHORT},{item},4.5,{2_000_000 + item}\n" for item in (1, 2, 3))
    (folder / "run").mkdir()
    config = f"run_dir: {folder / 'run'}\nratings: {{source: {ratings}}}\nprepare: {{history_len: 5, val_ratio: 0.2}}\n"
    (folder / "run" / "config.yaml").write_text(config)
    assert main(["prepare", str(folder / "run")]) == 0
    return folder / "run"


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(run: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def told(model: str, *words: str) -> dict[str, Any]:
        code = main(["recommend", str(run), "--model", model, "--json", *words])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        found: dict[str, Any] = json.loads(captured.out)
        return found

    return told


def after_the_last_rating(samples: Samples, user: int) -> tuple[BaselineData, int]:
    """The log with one more row of a user, and that row: the obvious way to ask what they would like next."""
    end = int((samples.timeline["user_id"] == user).arg_true()[-1]) + 1
    now = samples.timeline.select(pl.col("timestamp").max() + 1).item()
    row = samples.timeline[end - 1].with_columns(timestamp=pl.lit(now), split=pl.lit("unused"))
    timeline = pl.concat([samples.timeline[:end], row.cast(samples.timeline.schema), samples.timeline[end:]])
    position = samples.position + (samples.position >= end)
    longer = Samples(timeline, samples.items, position, samples.split, samples.threshold, samples.history_len)
    return BaselineData.of(longer), end


@pytest.mark.parametrize("model", SOME)
def test_a_user_is_recommended_what_the_fitted_baseline_likes_best(run: Path, ask: Ask, model: str) -> None:
    found = ask(model, "--user", "3", "--top-k", "60", "--include-seen")
    assert (run / "baselines" / f"{model}.npz").is_file()
    samples = load_prepared(run / "data").samples
    state = RANKERS[model].fitted(BaselineData.of(samples))
    longer, anchor = after_the_last_rating(samples, 3)
    p = RANKERS[model].predictor(longer, state)(Queries(np.full(60, anchor), np.arange(60)))
    best = found["recommendations"]
    assert [row["p"] for row in best] == pytest.approx(np.sort(p)[::-1].tolist(), abs=1e-6)
    of_item = dict(zip(samples.items["item_id"].to_list(), p.tolist(), strict=True))
    assert [row["p"] for row in best] == pytest.approx([of_item[row["item_id"]] for row in best], abs=1e-6)
    assert found["scored"]["model"] == model


def test_it_is_fitted_once(run: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask("logistic", "--user", "3")["recommendations"]
    monkeypatch.setattr(Baseline, "fitted", lambda self, data: pytest.fail("fits again"))
    assert ask("logistic", "--user", "3")["recommendations"] == before


def test_seen_items_are_left_out_and_the_first_stage_and_the_list_are_those_of_language_models(
    run: Path, ask: Ask, tmp_path: Path
) -> None:
    found = ask("item-mean", "--user", "3", "--top-k", "60")
    rated = load_prepared(run / "data").samples.timeline.filter(user_id=3)["item_id"].to_list()
    left = {row["item_id"] for row in found["recommendations"]}
    assert left == set(range(1, 61)) - set(rated)
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*sorted(left)[:3], rated[0]])))
    listed = ask("item-mean", "--user", "3", "--candidates", str(tmp_path / "list.txt"))
    assert {row["item_id"] for row in listed["recommendations"]} == set(sorted(left)[:3])
    assert ask("item-mean", "--user", "3", "--retrieve", "12")["scored"]["candidates"] == 12


@pytest.mark.parametrize("model", ["lightgbm-prompt", "history-mean"])
def test_a_history_in_a_file_is_recommended_what_the_user_with_the_same_is(
    run: Path, ask: Ask, tmp_path: Path, model: str
) -> None:
    """These two know of a user only the last ratings; the others know the fold of a user, too."""
    own = load_prepared(run / "data").samples.timeline.filter(user_id=5)
    (tmp_path / "mine.csv").write_text(own.select("item_id", "rating").write_csv())
    expected = ask(model, "--user", "5")["recommendations"]
    found = ask(model, "--history", str(tmp_path / "mine.csv"))["recommendations"]
    assert [row["item_id"] for row in found] == [row["item_id"] for row in expected]
    assert [row["p"] for row in found] == pytest.approx([row["p"] for row in expected], abs=1e-6)


@pytest.mark.parametrize("model", [baseline.key for baseline in REGISTRY if not baseline.reads_text])
def test_every_baseline_answers_a_stranger(ask: Ask, tmp_path: Path, model: str) -> None:
    (tmp_path / "mine.csv").write_text("item_id,rating\n1,5\n2,1.5\n")
    best = ask(model, "--history", str(tmp_path / "mine.csv"))["recommendations"]
    assert len(best) == 10
    assert all(0 <= row["p"] <= 1 for row in best)


def test_all_users_are_recommended_what_each_is_alone_without_torch(run: Path, ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "top.parquet"
    words = ["recommend", str(run), "--model", "lightgbm", "--all-users", "--out", str(out), "--top-k", "4"]
    code = (
        f"import sys; from palate.cli import main; assert main({words!r}) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = pl.read_parquet(out)
    assert found["user_id"].unique(maintain_order=True).to_list() == [*range(1, 13), SHORT]
    for user in (7, SHORT):
        alone = ask("lightgbm", "--user", str(user), "--top-k", "4")["recommendations"]
        schema = found.drop("user_id").schema
        assert found.filter(user_id=user).drop("user_id").equals(pl.DataFrame(alone, schema=schema))


def test_the_table_names_the_baseline_and_no_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(run), "--model", "lightgbm", "--user", str(SHORT), "--top-k", "3"]) == 0
    captured = capsys.readouterr()
    assert f"user {SHORT}: 3 ratings, 4.50 on average\n" in captured.out
    assert "LightGBM (all features) scored 57 of 60 items, in " in captured.out
    assert "prompt" not in captured.out + captured.err


def test_a_baseline_has_no_adapter(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(run), "--model", "lightgbm", "--user", "3", "--base-only"]) == 2
    assert "--model: lightgbm is a baseline, expected neither --adapter" in capsys.readouterr().err


def test_a_mistyped_baseline_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--ratings", "ml-100k", "--model", "lightgmb", "--user", "1"]) == 2
    assert capsys.readouterr().err == "error: --model: is 'lightgmb', did you mean 'lightgbm'?\n"


def test_a_folder_that_was_only_prepared_is_a_config_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ratings(tmp_path / "shop", users=40)
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "--ratings", "shop", "--history-len", "4"]) == 0
    capsys.readouterr()
    question = ["--model", "item-mean", "--user", "1", "--top-k", "3"]
    assert main(["recommend", "runs/shop", *question]) == 0
    there = capsys.readouterr().out
    (tmp_path / "runs" / "shop").rename(tmp_path / "moved")
    (tmp_path / "shop").rename(tmp_path / "gone")
    assert main(["recommend", "moved", *question]) == 0
    assert capsys.readouterr().out == there
    assert not any((tmp_path / "runs").iterdir())


def test_a_model_that_is_neither_a_baseline_nor_a_model_is_refused_with_the_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nonsense", "logistic regression + kNN"):
        assert main(["recommend", str(tmp_path), "--model", name, "--user", "1"]) == 2
        assert f"--model: is {name!r}, expected a path, a hub id, " in capsys.readouterr().err
