"""`palate advise`: models in order of cost on a log, and the one to use."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.ratings import write_ratings
from tests.recipes import recipe_to_evaluate, recipe_to_run
from tests.tiny import tiny_folder

from palate.baselines.registry import LADDER
from palate.cli import main
from palate.commands.advise import _changed, _unfinished_run
from palate.commands.plan import samples_within
from palate.config import Config, load_config, write_config
from palate.measure.ladder import LANGUAGE_MODEL

FEW = ["--set", "evaluate.bootstrap=50"]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("log") / "ratings")


def test_the_advice_names_a_tried_model_its_cost_and_what_was_not_tried(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(ratings), *FEW, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "advice.json").read_text())
    tried = [rung["key"] for rung in found["rungs"]]
    assert tried == list(LADDER[: len(tried)])
    assert found["use"] in tried
    label = next(rung["label"] for rung in found["rungs"] if rung["key"] == found["use"])
    assert f"Use {label}: " in shown
    assert "a thousand requests" in " ".join(shown.split())
    assert "language model" in found["skipped"]
    assert all(len(line.rstrip()) <= 80 for line in shown.split("Use ")[0].splitlines())


def commands(shown: str) -> list[list[str]]:
    """The commands that the advice ends in, without the program's name."""
    return [shlex.split(line[6:])[1:] for line in shown[shown.index("next: ") :].splitlines()]


@pytest.mark.parametrize("out", [None, "my advice"])
@pytest.mark.parametrize("source", ["my log", "mine.yaml"])
def test_the_commands_at_the_end_work_as_they_stand(
    source: str, out: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ratings(Path("my log"))
    write_config(Config.model_validate({"name": "mine", "ratings": {"source": "my log"}}), Path("mine.yaml"))
    words = ["advise", source, *FEW, "--seed", "5", "--set", "prepare.history_len=3", "--minutes", "0.000001"]
    words += ["--out", out] if out else []

    assert main(words) == 0
    given = commands(capsys.readouterr().out)
    assert [command[0] for command in given] == ["prepare", "recommend"]
    assert given[1][-2:] == ["--model", LADDER[0]]
    for command in given:
        assert main(command) == 0
    assert "P(like)" in capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    prepared = load_config(run / "config.yaml")
    assert (prepared.prepare.history_len, prepared.seed) == (3, 5)
    if out:
        assert load_config(Path(out) / "advice.yaml") == prepared

    assert main(["advise", str(run), "--minutes", "0.000001"]) == 0
    (rank,) = commands(capsys.readouterr().out)
    assert main(rank) == 0


def test_the_config_of_a_model_that_reads_text_names_the_encoder(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("palate.commands.advise.ENCODER", str(tiny_folder(tmp_path / "encoder", "llama")))
    monkeypatch.setattr("palate.commands.advise.ladder_of", lambda likes: ("text",))
    for more in ([], ["--out", "advice"]):
        assert main(["advise", str(ratings), *FEW, "--set", "text.columns=[genres]", *more]) == 0
        for command in commands(capsys.readouterr().out):
            assert main(command) == 0
    text = load_config(tmp_path / "advice" / "advice.yaml").text
    assert (text.encoder, text.columns) == (str(tmp_path / "encoder"), ["genres"])


def test_no_fit_begins_when_the_time_is_up(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(ratings), *FEW, "--minutes", "0.000001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [rung["key"] for rung in found["rungs"]] == [LADDER[0]]
    assert all("the time is up" in reason for label, reason in found["skipped"].items() if label != "language model")


@pytest.mark.parametrize("minutes", ["0", "-1", "ten"])
def test_a_wrong_time_is_wrong_input(ratings: Path, minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["advise", str(ratings), "--minutes", minutes])
    except SystemExit as end:  # argparse refuses what is no number
        code = end.code
    assert code == 2
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "nan"], "--minutes: nan"),
        (["--set", "evaluate.bootstrap=0"], "evaluate.bootstrap: 0, expected resamples"),
        (["--split", "train"], "evaluate.split: train, expected test"),
        (["--text", "minilmm"], "minilmm"),
        (["--set", "text.columns=[nope]", "--text", "minilm"], "text.columns: the items have no column 'nope'"),
        (
            ["--set", "train.train_on=answer", "--set", "train.offset=strongest-text"],
            "--set train.offset: train.offset=strongest-text reads the items' text, expected text.encoder, such as min",
        ),
    ],
)
def test_wrong_options_end_before_anything_is_fitted(
    ratings: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(ratings), *words]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert not shown.out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with an encoder, so that every rung is tried."""
    folder = tmp_path_factory.mktemp("recipe")
    return recipe_to_run(
        folder,
        prepare={"history_len": 3, "val_ratio": 0.3, "max_eval": 5},
        train={"batch_size": 32},
        text={"encoder": str(tiny_folder(folder / "encoder", "llama"))},
        evaluate={"bootstrap": 20, "baselines": "quick"},
    )


def test_the_last_rung_is_trained_if_it_fits_into_the_time(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(recipe), "--minutes", "0.000001", "--train"]) == 0
    assert "no baseline was fitted that it could correct: --minutes allows more" in " ".join(
        capsys.readouterr().out.split()
    )
    assert not (recipe.parent / "run").exists()

    assert main(["advise", str(recipe), "--minutes", "3", "--train", "--out", str(tmp_path)]) == 0
    (rank,) = commands(capsys.readouterr().out)
    assert main(["run", str(tmp_path / "advice.yaml")]) == 0
    shown = capsys.readouterr()
    assert "skipped: all stages are finished" in shown.err  # it is the config of that run
    assert "a thousand requests" in " ".join(shown.out.split())
    assert main(rank) == 0
    capsys.readouterr()
    found = json.loads((tmp_path / "advice.json").read_text())
    assert [rung["key"] for rung in found["rungs"]] == [*LADDER, LANGUAGE_MODEL]
    run = load_config(recipe.parent / "run" / "config.yaml")
    assert run.train.offset == LADDER[-1]
    assert run.train.max_samples
    assert (recipe.parent / "run" / "report.html").is_file()
    rows = found["rungs"][-1]["metrics"]["n"]
    assert 0 < rows <= (run.evaluate.max_samples or 0)

    (recipe.parent / "run" / "scores" / "fine-tuned.sum.parquet").unlink()  # a run that was stopped before it
    assert main(["advise", str(recipe), "--json"]) == 0
    assert "language model" in json.loads(capsys.readouterr().out)["skipped"]


def test_a_training_that_was_interrupted_goes_on_with_its_numbers(recipe: Path, tmp_path: Path) -> None:
    """The numbers depend on a measured speed: other ones would start the training anew."""
    config = load_config(recipe).model_copy(update={"run_dir": str(tmp_path)})
    stopped = _changed(config, {"train": {"max_samples": 77}, "evaluate": {"max_samples": 44, "zero_shot": False}})
    write_config(stopped, tmp_path / "config.yaml")
    assert _unfinished_run(config) is None  # nothing is trained yet
    (tmp_path / "checkpoints").mkdir()
    assert _unfinished_run(config) == stopped
    assert _unfinished_run(_changed(config, {"train": {"epochs": 3.0}})) is None


def test_epochs_and_seeds_take_their_share_of_the_time(recipe: Path) -> None:
    config = load_config(recipe)
    once, rows = samples_within(config, 20.0)
    often, _ = samples_within(_changed(config, {"train": {"epochs": 5.0, "seeds": 4}}), 20.0)
    assert 0 < often < once / 4  # the speed is measured anew, so 20 only about
    assert rows > 0


def test_a_model_that_is_missing_is_reported_before_anything_is_fitted(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "palate.commands.advise.build_ladder", lambda *args, **options: pytest.fail("a model was fitted")
    )
    words = ["--train", "--minutes", "3", "--model", str(tmp_path / "none"), "--set", f"run_dir={tmp_path}"]
    assert main(["advise", str(recipe), *words]) == 2
    assert f"{tmp_path / 'none'}: no such model" in capsys.readouterr().err


def test_scores_of_other_rows_are_not_those_of_the_language_model(
    ratings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_ratings(tmp_path / "ratings") / "ratings.csv"
    folder = recipe_to_evaluate(tmp_path / "home", adapter=0.1)
    words = [str(folder / "config.yaml"), "--set", f"ratings.source={log.parent}", *FEW]
    one = ["--minutes", "0.000001", "--json"]

    def advised(*more: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["advise", *words, *one, *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def prepare(*more: str) -> None:
        assert main(["prepare", *words[:-2], *more]) == 0

    prepare()
    assert main(["evaluate", *words, "--out", str(folder / "run")]) == 0
    scored = advised()
    assert LANGUAGE_MODEL in [rung["key"] for rung in scored["rungs"]]
    other = ["--set", "prepare.test_ratio=0.3"]
    assert "train.offset" in advised(*other)["skipped"]["language model"]  # no data of these options
    assert "no baseline was fitted" in advised(*other, "--train")["skipped"]["language model"]
    prepare(*other)
    assert "train.offset" in advised(*other)["skipped"]["language model"]  # data, and scores of the data before
    assert advised(*other)["n"] > scored["n"]

    prepare()
    log.write_text(log.read_text() + "".join(f"99,{item},{1 + item % 5},{item}\n" for item in range(1, 41)))
    assert advised()["n"] == scored["n"]
    assert advised("--train")["n"] > scored["n"]  # the rows of the run, which prepares the ratings again


def test_a_log_alone_has_no_run_to_train(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(ratings), "--train"]) == 2
    assert "--train: trains a run, expected a config instead of a log" in capsys.readouterr().err
