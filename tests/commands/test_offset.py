"""An adapter that corrects a baseline, from `palate run` to recommendations, on a signal that only titles have."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from tests.tiny import tiny_folder, toy_config

from palate.baselines.registry import RANKERS, fit_one
from palate.baselines.statistics import BaselineData
from palate.cli import main
from palate.config import load_config
from palate.measure.calibration import sigmoid
from palate.measure.offset import load_offset, log_odds
from palate.samples import load_prepared

KEY = "logistic"


def write_log(folder: Path, users: int = 20, each: int = 20) -> Path:
    """A log of items that nobody rated before, without genres: their titles alone say who likes them."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    titles, rows, item = ["movieId,title"], ["userId,movieId,rating,timestamp"], 0
    for user in range(1, users + 1):
        for time in range(each):
            item += 1
            good = draw.random() < 0.5
            rating = 5.0 if good == (draw.random() < 0.9) else 1.0
            titles.append(f"{item},{'aaaaaa' if good else 'bbbbbb'} {item}")
            rows.append(f"{user},{item},{rating},{1_000_000 + 1000 * user + time}")
    (folder / "movies.csv").write_text("\n".join(titles) + "\n")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a config whose run went through."""
    folder = tmp_path_factory.mktemp("offset")
    toy = toy_config(tiny_folder(folder / "model"))
    config = {
        **toy.model_dump(include={"name", "prompt", "model", "tokens"}, mode="json"),
        "run_dir": str(folder / "run"),
        "ratings": {"source": str(write_log(folder / "ratings"))},
        "prepare": {"history_len": 3, "val_ratio": 0.3, "test_ratio": 0.2, "max_eval": 40},
        "train": {
            "offset": KEY, "train_on": "answer", "epochs": 2, "batch_size": 4, "gradient_accumulation": 1,
            "learning_rate": 0.005, "lora": {"r": 8, "alpha": 16, "dropout": 0.0},
        },
        "evaluate": {"bootstrap": 50, "zero_shot": False, "baselines": "quick"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(folder / "config.yaml")]) == 0
    return folder


def palate(*words: str | Path) -> int:
    return main([str(word) for word in words])


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def of_baseline(home: Path, split: str = "test") -> np.ndarray:
    """P(like) of the baseline, fitted anew."""
    known = BaselineData.of(load_prepared(home / "run" / "data").samples)
    return RANKERS[KEY].predictor(known, fit_one(RANKERS[KEY], known))(known.of_split(split)[0])


def test_a_signal_in_titles_makes_the_sum_better_than_the_baseline(home: Path) -> None:
    found = metrics(home / "run")
    entries = {entry["key"]: entry for entry in found["entries"]}
    assert list(entries)[-2:] == [KEY, "fine-tuned"]  # a baseline that is corrected is measured with the quick ones
    assert entries["fine-tuned"]["label"] == f"{KEY} + model, fine-tuned"
    assert entries[KEY]["metrics"]["auc"] < 0.65 < 0.8 < entries["fine-tuned"]["metrics"]["auc"]
    assert entries["fine-tuned"]["metrics"]["log_loss"] < entries[KEY]["metrics"]["log_loss"] - 0.1
    (gap,) = [d for d in found["differences"] if (d["first"], d["second"], d["metric"]) == ("fine-tuned", KEY, "auc")]
    assert gap["interval"]["low"] > 0.1
    offset = found["offsets"]["fine-tuned"]
    assert offset["interval"]["low"] > 0
    assert offset["losses"]["sum"] < offset["losses"]["baseline"]
    assert any(line.startswith("The weight alpha of the fine-tuned model's logit") for line in found["verdict"])
    assert any(line.startswith(f"The sum of {KEY} and the fine-tuned model beats") for line in found["verdict"])
    assert found["calibrations"] == {}
    assert "adapter/baseline.npz" in json.loads((home / "run" / "manifest.json").read_text())["outputs"]


def test_the_row_is_the_sum_of_baseline_and_language_model(home: Path) -> None:
    offset, scores = load_offset(home / "run" / "adapter"), pl.read_parquet(home / "run/scores/fine-tuned.parquet")
    assert offset is not None
    p = sigmoid(log_odds(of_baseline(home)) + offset.alpha * scores["logit"].to_numpy() + offset.intercept)
    label, entry = scores["label"].to_numpy(), metrics(home / "run")["entries"][-1]["metrics"]
    assert entry["log_loss"] == pytest.approx(-np.log(np.where(label, p, 1 - p)).mean(), rel=1e-6)


def test_with_alpha_0_the_sum_is_the_baseline(home: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(home / "run" / "adapter", tmp_path / "adapter")
    kept = json.loads((adapter / "offset.json").read_text())
    kept["offset"] |= {"alpha": 0.0, "intercept": 0.0}
    (adapter / "offset.json").write_text(json.dumps(kept))
    out = tmp_path / "out"
    assert palate("evaluate", "--config", home / "config.yaml", "--adapter", adapter, "--out", out) == 0
    *_, baseline, model = metrics(out)["entries"]
    assert model["metrics"] == pytest.approx(baseline["metrics"], rel=1e-6)
    assert json.loads((adapter / "offset.json").read_text()) == kept
    assert not (out / "scores" / "validation-fine-tuned.parquet").exists()  # fitted to the same scores


def test_files_of_scores_have_the_sum_and_are_measured_the_same(home: Path, tmp_path: Path) -> None:
    for name in ("scores.npz", "again.npz"):
        assert palate("score", "--config", home / "config.yaml", "--out", tmp_path / name) == 0
    with np.load(tmp_path / "scores.npz") as one, np.load(tmp_path / "again.npz") as two:
        p, z, row = one["p"], one["logit"], one["row"]
        np.testing.assert_array_equal(p, two["p"])
    offset = load_offset(home / "run" / "adapter")
    assert offset is not None
    np.testing.assert_allclose(p, sigmoid(offset.added(of_baseline(home)[row], z.astype(float))), atol=1e-6)
    out = tmp_path / "out"
    words = ("--config", home / "config.yaml", "--scores", tmp_path / "scores.npz", "--out", out)
    assert palate("evaluate", *words) == 0
    first, again = (metrics(folder)["entries"][-1]["metrics"] for folder in (home / "run", out))
    assert again == pytest.approx(first, rel=1e-6)


def recommended(home: Path, capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert palate("recommend", "--config", home / "config.yaml", *words, "--top-k", "600", "--json") == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["recommendations"]
    return sorted(found, key=lambda row: row["item_id"])


def test_a_service_answers_with_the_sum(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from palate.commands.engine import engine_of
    from palate.serve.engine import ALONE, FINE_TUNED

    engine = engine_of(load_config(home / "config.yaml"))
    try:
        assert engine.corrected is not None
        assert engine.corrected.alpha > 0
        person = engine.person(3, None)
        item, _ = engine.candidates(person, None, "all", 0, include_seen=False)
        parts = list(engine.score(FINE_TUNED, person, item))
        found = dict(zip(item[np.concatenate([part.position for part in parts])].tolist(),
                         np.concatenate([part.p for part in parts]).tolist(), strict=True))  # fmt: skip
        expected = {row["item_id"]: row["p"] for row in recommended(home, capsys, "--user", "3")}
        ids = engine.items["item_id"].to_list()
        assert len(expected) == item.size
        for row, p in found.items():
            assert p == pytest.approx(expected[ids[row]], abs=2e-6)
        whole, effects = engine.explain(FINE_TUNED, person, int(item[0]))
        assert whole.p[0] == pytest.approx(found[int(item[0])], abs=1e-5)
        assert len(effects) == 3
        assert any(each.effect for each in effects)
        assert engine.models[ALONE].kind == "language model"
    finally:
        engine.close()


def test_recommendations_are_sorted_by_the_sum(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = tmp_path / "history.csv"
    history.write_text("item_id,rating\n1,5\n2,1\n30,4\n")
    plain = shutil.copytree(home / "run" / "adapter", tmp_path / "plain")
    about = json.loads((plain / "palate.json").read_text())
    del about["offset"]
    (plain / "palate.json").write_text(json.dumps(about))
    offset = load_offset(home / "run" / "adapter")
    assert offset is not None
    for who in (("--user", "3"), ("--history", history)):
        found, own, free = (
            recommended(home, capsys, *who, *more) for more in ((), ("--adapter", plain), ("--model", KEY))
        )
        z = np.array([row["logit"] for row in own], np.float64)
        p = np.array([row["p"] for row in free], np.float64)
        np.testing.assert_allclose([row["p"] for row in found], sigmoid(offset.added(p, z)), atol=1e-4)
        assert [row["item_id"] for row in found] == [row["item_id"] for row in own]


def test_a_catalogue_is_ranked_by_the_sum(home: Path, tmp_path: Path) -> None:
    command = (
        "evaluate",
        "--config",
        home / "config.yaml",
        "--set",
        "evaluate.rank_users=2",
        "--set",
        "evaluate.candidates=40",
    )
    ranked = {}
    for alpha in (None, 0.0):
        adapter = shutil.copytree(home / "run" / "adapter", tmp_path / f"adapter{alpha}")
        if alpha is not None:
            kept = json.loads((adapter / "offset.json").read_text())
            kept["offset"] |= {"alpha": alpha, "intercept": 0.0}
            (adapter / "offset.json").write_text(json.dumps(kept))
        out = tmp_path / f"out{alpha}"
        assert palate(*command, "--adapter", adapter, "--out", out) == 0
        entries = {entry["key"]: entry["metrics"] for entry in metrics(out)["rankings"][-1]["entries"]}
        ranked[alpha] = entries["fine-tuned"], entries[KEY]
    assert ranked[0.0][0] == ranked[0.0][1]
    assert ranked[None][0] != ranked[None][1]


def test_a_sum_without_its_baseline_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = shutil.copytree(home / "run" / "adapter", tmp_path / "adapter")
    whole = (adapter / "palate.json").read_text()

    def refused(*words: str | Path) -> str:
        capsys.readouterr()
        assert palate(*words) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line.replace(str(adapter), "ADAPTER")

    of_config = ("--config", home / "config.yaml", "--adapter", adapter)
    for command in (("score",), ("evaluate",), ("recommend", "--user", "3")):
        (adapter / "baseline.npz").rename(tmp_path / "aside")
        told = refused(command[0], *of_config, *command[1:])
        assert told == f"error: ADAPTER/baseline.npz: is missing or damaged, expected the {KEY} baseline"
        (tmp_path / "aside").rename(adapter / "baseline.npz")
        for key, value, expected in (
            ("baseline", "logistik", "error: ADAPTER: corrects the unknown baseline 'logistik'"),
            ("data", "0" * 64, f"error: ADAPTER: corrects a {KEY} baseline of other ratings than "),
        ):
            about = json.loads(whole)
            about["offset"][key] = value
            (adapter / "palate.json").write_text(json.dumps(about))
            assert refused(command[0], *of_config, *command[1:]).startswith(expected)
        (adapter / "palate.json").write_text(whole)

    portable = tmp_path / "portable"
    assert palate("tokenize", "--config", home / "config.yaml", "--portable", "--out", portable) == 0
    told = refused("score", *of_config, "--data", portable, "--out", tmp_path / "scores.npz")
    assert told.startswith(f"error: ADAPTER: corrects a {KEY} baseline, whose ratings {portable} does not have")
    told = refused("train", "--config", home / "config.yaml", "--data", portable)
    assert told.startswith("error: train.offset: learns from ratings, which ")


def test_an_export_carries_the_baseline_and_tells_that_it_is_needed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert palate("export", "--merge", "--config", home / "config.yaml", "--out", tmp_path / "merged") == 0
    assert f"corrects {KEY}: P(like) needs the baseline's logit" in capsys.readouterr().out
    merged, adapter = tmp_path / "merged", home / "run" / "adapter"
    for name in ("baseline.npz", "offset.json"):
        assert (merged / name).read_bytes() == (adapter / name).read_bytes()
    told, corrected = (json.loads((folder / "palate.json").read_text())["offset"] for folder in (merged, adapter))
    assert told == corrected


def test_runs_are_compared_by_the_sum(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert palate("evaluate", "--config", home / "config.yaml", "--out", tmp_path / "again") == 0
    capsys.readouterr()
    assert palate("compare", home / "run", tmp_path / "again", "--json") == 0
    told = capsys.readouterr().out
    auc = metrics(home / "run")["entries"][-1]["metrics"]["auc"]
    assert told.count(f"{auc:.6f}"[:-1]) >= 2
