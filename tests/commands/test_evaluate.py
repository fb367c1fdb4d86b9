"""`palate evaluate`: calibrations, several adapters, splits, ablations, stacking, and scores from elsewhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.recipes import recipe_to_evaluate

from palate.cli import main
from palate.commands.scores import validation_key
from palate.measure.calibration import load_calibration
from palate.score.files import read_scores


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with prepared data, and two adapters that were never trained."""
    return recipe_to_evaluate(tmp_path_factory.mktemp("home"), adapter=0.1, second=0.2)


def evaluate(home: Path, out: Path, *words: str | Path) -> dict[str, Any]:
    """What an evaluation finds."""
    command = ["evaluate", "--config", home / "config.yaml", "--out", out, *words]
    assert main([str(word) for word in command]) == 0
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def of(found: dict[str, Any]) -> dict[str, Any]:
    return {entry["key"]: entry["metrics"] for entry in found["entries"] if entry["kind"] == "model"}


@pytest.fixture
def adapter(home: Path, tmp_path: Path) -> Path:
    """The first adapter, in a folder of its own."""
    shutil.copytree(home / "run" / "adapter", tmp_path / "copied", ignore=shutil.ignore_patterns("calibration.json"))
    return tmp_path / "copied"


def test_the_calibration_is_kept_with_the_adapter_and_used_again(
    home: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluate(home, tmp_path / "first", "--adapter", adapter)
    assert list(of(first)) == ["fine-tuned", "fine-tuned-calibrated"]
    assert of(first)["fine-tuned"]["auc"] == of(first)["fine-tuned-calibrated"]["auc"]
    assert (tmp_path / "first" / "scores" / "validation-fine-tuned.parquet").is_file()
    kept = load_calibration(adapter)
    assert kept is not None
    assert (kept.fitted_on.rows, kept.fitted_on.users) == (60, 12)
    scores = pl.read_parquet(tmp_path / "first" / "scores" / "fine-tuned.parquet")
    np.testing.assert_allclose(scores["p"], 1 / (1 + np.exp(-scores["logit"].to_numpy())), atol=1e-6)  # stays raw

    capsys.readouterr()
    again = evaluate(home, tmp_path / "again", "--adapter", adapter)
    assert again == first
    assert "validation is not scored again" in capsys.readouterr().err
    assert not (tmp_path / "again" / "scores" / "validation-fine-tuned.parquet").exists()


def test_what_was_fitted_before_is_not_replaced_by_an_evaluation(home: Path, adapter: Path, tmp_path: Path) -> None:
    evaluate(home, tmp_path / "first", "--adapter", adapter, "--set", "score.calibration=platt")
    before = (adapter / "calibration.json").read_bytes()
    out = tmp_path / "other"
    found = evaluate(home, out, "--adapter", adapter, "--set", "score.calibration=isotonic")
    assert (adapter / "calibration.json").read_bytes() == before
    assert json.loads((out / "calibration-fine-tuned.json").read_text())["method"] == "isotonic"
    assert found["calibrations"]["fine-tuned"]["method"] == "isotonic"
    assert of(found)["fine-tuned"]["auc"] == of(found)["fine-tuned-calibrated"]["auc"]
    none = evaluate(home, tmp_path / "none", "--adapter", adapter, "--set", "score.calibration=none")
    assert list(of(none)) == ["fine-tuned"]


def test_a_calibration_of_another_adapter_is_refused(
    home: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(home, tmp_path / "first", "--adapter", adapter)
    other = shutil.copytree(home / "run" / "second", tmp_path / "second")
    shutil.copy(adapter / "calibration.json", other)
    capsys.readouterr()
    words = ["evaluate", "--config", str(home / "config.yaml"), "--out", str(tmp_path / "out"), "--adapter", str(other)]
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {other / 'calibration.json'}: was fitted to the scores of another adapter")
    assert not (tmp_path / "out").exists()


def test_several_adapters_have_a_row_each_and_their_mean(home: Path, tmp_path: Path) -> None:
    run = home / "run"
    words = ("--adapter", run / "adapter", "--adapter", run / "second", "--set", "score.stack=true")
    found = evaluate(home, tmp_path, *words, "--ablations", "titles", "empty")
    keys = []
    for key, calibration in found["calibrations"].items():  # a row more only where it says something else
        keys += [key] if calibration["method"] == "none" else [key, f"{key}-calibrated"]
        assert any(f"{key.replace('@', ' ')} model is not calibrated" in told for told in found["verdict"]) == (
            calibration["method"] == "none"
        )
    assert keys[0] == "fine-tuned@1"
    assert "fine-tuned@2" in keys
    assert list(of(found)) == [*keys, "mean-of-adapters", "stacked", "statistics", "stacked-baseline"]
    pairs = {(d["first"], d["second"]) for d in found["differences"]}
    assert {("stacked", "statistics"), ("stacked", "fine-tuned@1")} <= pairs
    assert not any(first.endswith("-calibrated") for first, _ in pairs)
    assert next(iter(found["stack"]["weights"])) == "logit"
    beside = found["stack"]["beside"]
    assert list(beside["weights"]) == ["logit", beside["baseline"]]
    assert ("stacked-baseline", beside["baseline"]) in pairs
    told = [(d["first"], d["second"], d["metric"]) for d in found["differences"]]
    assert len(told) == len(set(told))
    assert {path.name for path in (tmp_path / "scores").iterdir()} >= {
        *("titles-fine-tuned@1.parquet", "empty-fine-tuned@1.parquet", "validation-fine-tuned@2.parquet"),
    }
    apart = found["seeds"]["spread"]["auc"]
    aucs = [of(found)[f"fine-tuned@{n}"]["auc"] for n in (1, 2)]
    assert (apart["mean"], apart["low"]) == (pytest.approx(np.mean(aucs)), pytest.approx(min(aucs)))
    assert [sentence for sentence in found["verdict"] if sentence.startswith("AUC of 2 adapters: ")]
    ablated = {one["name"]: one for one in found["ablations"]["ablated"]}
    assert list(ablated) == ["titles", "empty"]
    assert found["ablations"]["auc"] == pytest.approx(of(found)["fine-tuned@1"]["auc"])
    assert ablated["titles"]["moved"] > 0
    assert "What the model uses" in (tmp_path / "report.html").read_text()


def test_several_adapters_are_compared_with_the_baseline_that_is_best_on_validation(home: Path, tmp_path: Path) -> None:
    from palate.baselines.registry import baseline_scores
    from palate.commands.prepare import prepared
    from palate.config import load_config

    run = home / "run"
    found = evaluate(home, tmp_path, "--adapter", run / "adapter", "--adapter", run / "second")
    config = load_config(home / "config.yaml")
    samples = prepared(config).samples
    scores = baseline_scores(samples, choice="quick", split="val", seed=config.seed)
    liked = samples.label[samples.of("val")]
    loss = {key: -np.log(np.where(liked, p := scores[key].to_numpy(), 1 - p)).mean() for key in scores.columns[1:]}
    against = min(loss, key=loss.__getitem__)
    seeds, baseline = found["seeds"], next(entry for entry in found["entries"] if entry["key"] == against)
    assert seeds["against"] == against
    assert seeds["differences"]["auc"]["mean"] == pytest.approx(
        seeds["spread"]["auc"]["mean"] - baseline["metrics"]["auc"]
    )
    assert [sentence for sentence in found["verdict"] if sentence.startswith("AUC of 2 adapters minus that of ")]


def test_a_model_is_stacked_with_the_baseline_that_validation_finds_best(
    home: Path, adapter: Path, tmp_path: Path
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from palate.baselines.registry import baseline_scores
    from palate.commands.prepare import prepared
    from palate.config import load_config

    found = evaluate(home, tmp_path / "out", "--adapter", adapter, "--set", "score.stack=true")
    data = prepared(load_config(home / "config.yaml")).samples
    quick = {split: baseline_scores(data, choice="quick", split=split) for split in ("val", "test")}
    liked = (data.timeline["rating"].to_numpy() >= 4)[data.position[data.of("val")]]
    losses = {column.name: -np.log(np.where(liked, column, 1 - column)).mean() for column in quick["val"].drop("row")}
    best = min(losses, key=lambda key: losses[key])
    assert found["stack"]["beside"]["baseline"] == best

    scores = tmp_path / "out" / "scores"
    fitted_on = pl.read_parquet(scores / "validation-fine-tuned.parquet").join(
        quick["val"], on="row", maintain_order="left"
    )
    asked = pl.read_parquet(scores / "fine-tuned.parquet").join(quick["test"], on="row", maintain_order="left")

    def features(frame: pl.DataFrame) -> Any:
        p = frame[best].to_numpy()
        return np.column_stack([frame["logit"], np.log(p / (1 - p))])

    scale = StandardScaler().fit(features(fitted_on))
    model = LogisticRegression().fit(scale.transform(features(fitted_on)), fitted_on["label"])
    expected = model.predict_proba(scale.transform(features(asked)))[:, 1]
    loss = -np.log(np.where(asked["label"], expected, 1 - expected)).mean()
    assert of(found)["stacked-baseline"]["log_loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    ("split", "words"), [("val", "These are validation rows"), ("train", "These are training rows")]
)
def test_any_split_is_measured_and_says_what_that_is_worth(home: Path, tmp_path: Path, split: str, words: str) -> None:
    found = evaluate(home, tmp_path, "--split", split, "--max-samples", "30")
    assert (found["n"], found["split"]) == (30, split)
    assert [sentence for sentence in found["verdict"] if sentence.startswith(words)]
    scores = pl.read_parquet(tmp_path / "scores" / f"{split}-fine-tuned.parquet")
    timeline = pl.read_parquet(home / "run" / "data" / "ratings.parquet").filter(pl.col("split") == split)
    assert scores["item_id"].to_list() == timeline["item_id"].gather(scores["row"]).to_list()


def test_scores_from_elsewhere_are_calibrated_by_those_of_validation(
    home: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for split in ("test", "val"):
        file = tmp_path / f"{split}.npz"
        words = ["score", "--config", home / "config.yaml", "--adapter", adapter, "--split", split, "--out", file]
        assert main([str(word) for word in words]) == 0
        files += ["--scores", str(file)]
    found = evaluate(home, tmp_path / "brought", "--adapter", adapter, *files)
    own = evaluate(home, tmp_path / "own", "--adapter", adapter)
    assert of(found) == of(own)
    kept = load_calibration(adapter)
    assert kept is not None
    assert kept.fitted_on.key == validation_key(read_scores(tmp_path / "val.npz").key, np.arange(60))
    assert not (tmp_path / "own" / "scores" / "validation-fine-tuned.parquet").exists()
    # Without validation scores the calibration that lies beside the adapter is taken.
    assert of(evaluate(home, tmp_path / "alone", "--adapter", adapter, *files[:2])) == of(own)

    capsys.readouterr()
    words = ["evaluate", "--config", str(home / "config.yaml"), "--adapter", str(adapter), *files[2:]]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "validation scores of fine-tuned only, expected test scores too" in capsys.readouterr().err
    assert main([*words[:-2], "--ablations", "empty", *files, "--out", str(tmp_path / "out")]) == 2
    assert "evaluate.ablations: scores with a model, expected none beside --scores" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ablated_rows_are_told_as_rows_of_the_split(home: Path, tmp_path: Path) -> None:
    from palate.commands.prepare import prepared
    from palate.commands.scores import measured_rows, models_of, read_model, score_files
    from palate.config import load_config

    evaluate(home, tmp_path, "--max-samples", "9", "--ablations", "shuffle")
    config = load_config(home / "config.yaml")
    chosen = config.evaluate.model_copy(update={"max_samples": 9, "ablations": ["shuffle"]})
    config = config.model_copy(update={"evaluate": chosen})
    data = prepared(config)
    (model,) = models_of(config, [home / "run" / "adapter"])
    files = score_files(config, data, model, tmp_path, ablated=True)
    scores = read_model(config, data, {"measured": files["measured"], "shuffle": files["shuffle"]})
    for column in ("row", "user_id", "item_id", "label"):
        np.testing.assert_array_equal(scores["shuffle"].columns[column], scores["measured"].columns[column])
    assert scores["shuffle"].columns["row"].tolist() == measured_rows(config, data).tolist()
    assert read_scores(files["shuffle"]).key["adapter"] == scores["measured"].key["adapter"]


def test_files_of_others_are_not_replaced(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert main(["evaluate", "--config", str(home / "config.yaml"), "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}: holds report.html, expected an empty folder" in capsys.readouterr().err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
