"""A prompt with signals through every command: one value for a user and a candidate, wherever it is shown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from tests.command import palate
from tests.recipes import recipe_to_evaluate
from tests.tiny import random_adapter

from palate.commands.prepare import kept_baselines, prepared
from palate.commands.signals import signals_now, signals_then
from palate.config import Config, load_config
from palate.samples import Prepared
from palate.samples.queries import Queries
from palate.samples.signals import FILE, NO_NEIGHBOUR
from palate.store.artifacts import read_json

LINE = (
    "{title}: {estimate:.0%}, who liked {neighbour:short} gave it {neighbour_mean:.1f} "
    "({user_deviation:+.1f}, {item_deviation:+.1f})"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a config whose prompt names every signal; its run has prepared data and an adapter."""
    folder = recipe_to_evaluate(tmp_path_factory.mktemp("signals"))
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["prompt"] |= {"candidate_line": LINE, "estimate": "logistic"}
    values["tokens"]["cutoff_len"] = 400
    path.write_text(yaml.safe_dump(values))
    random_adapter(load_config(path), folder / "run" / "adapter", 1.0)
    assert palate("prepare", path).returncode == 0
    return folder


@pytest.fixture(scope="module")
def config(home: Path) -> Config:
    return load_config(home / "config.yaml")


@pytest.fixture(scope="module")
def data(config: Config) -> Prepared:
    return prepared(config)


def test_prepared_data_have_them_and_are_the_same_again(home: Path, tmp_path: Path) -> None:
    folder = home / "run" / "data"
    assert palate("prepare", home / "config.yaml", "--out", tmp_path / "again").returncode == 0
    manifest = read_json(folder / "manifest.json")
    assert FILE in manifest["outputs"]
    assert read_json(tmp_path / "again" / "manifest.json")["outputs"] == manifest["outputs"]
    assert manifest["options"]["prompt"]["estimate"] == "logistic"
    (first, *_) = json.loads((folder / "train.json").read_text())
    signals = pl.read_parquet(folder / FILE)
    assert f": {signals['estimate'][0]:.0%}, who liked" in first["input"]
    texts = (folder / "train.json").read_text()
    assert f"who liked {NO_NEIGHBOUR} gave it" in texts


def test_an_estimate_from_texts_records_their_encoder(home: Path, tmp_path: Path) -> None:
    text = ("--set", "prompt.estimate=text", "--set", "text.encoder=base", "--set", f"run_dir={tmp_path}")
    assert palate("prepare", home / "config.yaml", *text).returncode == 0
    assert read_json(tmp_path / "data" / "manifest.json")["options"]["signals"]["encoder"] == "base"
    done = palate("recommend", home / "config.yaml", *text, "--base-only", "--user", "3")
    assert done.returncode == 0, done.stderr
    other = palate("recommend", home / "config.yaml", *text, "--set", "text.layer=1", "--base-only", "--user", "3")
    assert other.returncode == 2
    assert "was prepared with signals.layer = None (the config says 1)" in other.stderr


def test_without_signals_nothing_is_added(home: Path, tmp_path: Path) -> None:
    plain = ("--set", "prompt.candidate_line={title}")
    assert palate("prepare", home / "config.yaml", *plain, "--out", tmp_path / "plain").returncode == 0
    manifest = read_json(tmp_path / "plain" / "manifest.json")
    assert FILE not in manifest["outputs"]
    assert "estimate" not in manifest["options"]["prompt"]


def test_another_baseline_or_a_damaged_file_is_refused(home: Path, tmp_path: Path) -> None:
    other = palate("score", home / "config.yaml", "--set", "prompt.estimate=online", "--base-only")
    assert other.returncode == 2
    assert "prompt.estimate = 'logistic' (the config says 'online')" in other.stderr
    shutil.copytree(home / "run" / "data", tmp_path / "data")
    with (tmp_path / "data" / FILE).open("ab") as file:
        file.write(b"x")
    damaged = palate("score", home / "config.yaml", "--data", tmp_path / "data", "--base-only")
    assert damaged.returncode == 2
    assert FILE in damaged.stderr


def test_straight_from_ratings_the_tokens_are_those_of_prepared_data(home: Path) -> None:
    told = [
        json.loads(palate("lengths", home / "config.yaml", *more, "--json").stdout)
        for more in ((), ("--ratings", home / "ratings"))
    ]
    assert told[0] == told[1]


def test_a_portable_folder_has_the_prompts_of_prepared_data(home: Path, tmp_path: Path) -> None:
    assert palate("tokenize", home / "config.yaml", "--portable", "--out", tmp_path / "portable").returncode == 0
    for name, more in (("one", ()), ("two", ("--data", tmp_path / "portable"))):
        words = ("score", home / "config.yaml", "--base-only", "--out", tmp_path / f"{name}.npz", *more)
        assert palate(*words).returncode == 0
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["logit"].tolist() == two["logit"].tolist()


def test_questions_then_have_the_signals_of_the_samples(config: Config, data: Prepared) -> None:
    samples = data.samples
    asked = signals_then(config, samples, kept_baselines(config, data))
    assert asked is not None
    assert samples.signals is not None
    for split in ("val", "test"):
        queries = Queries.of_samples(samples, split)
        assert asked(queries.anchor, queries.item).equals(samples.signals[samples.of(split)])


def test_questions_now_read_the_whole_past(config: Config, data: Prepared) -> None:
    """Of a known user: those of a further row; of a guest with the same history: the same user's deviation."""
    samples, kept = data.samples, kept_baselines(config, data)
    end = int((samples.timeline["user_id"] == 5).arg_true()[-1]) + 1
    row = samples.timeline[end - 1].with_columns(split=pl.lit("unused").cast(samples.timeline.schema["split"]))
    longer = replace(
        samples,
        timeline=pl.concat([samples.timeline[:end], row, samples.timeline[end:]]),
        position=samples.position + (samples.position >= end),
        signals=None,
    )
    now, then = signals_now(config, samples, kept), signals_then(config, longer, kept)
    items = np.arange(samples.items.height)
    assert now is not None
    assert then is not None
    found = now(np.full(items.size, end), items)
    assert found.equals(then(np.full(items.size, end), items))
    assert found.select("estimate", "neighbour").n_unique() > 5
    part = slice(7, 19)
    assert now(np.full(12, end), items[part]).equals(found[part])


def test_a_guest_has_signals_of_their_own_history(config: Config, data: Prepared) -> None:
    samples, kept = data.samples, kept_baselines(config, data)
    items = np.arange(samples.items.height)

    def of_guest(rating: float) -> pl.DataFrame:
        guest = pl.DataFrame({"item": [3, 5, 7], "rating": [rating] * 3})
        asked = signals_now(config, samples, kept, guest)
        assert asked is not None
        return asked(np.full(items.size, samples.timeline.height + 3), items)

    pleased, not_pleased = of_guest(5.0), of_guest(1.0)
    assert set(not_pleased["neighbour"]) == {-1}
    assert set(pleased["neighbour"]) <= {-1, 3, 5, 7}
    assert len(set(pleased["neighbour"])) > 1
    assert pleased["user_deviation"][0] > 0 > not_pleased["user_deviation"][0]
    assert pleased["item_deviation"].equals(not_pleased["item_deviation"])


def recommended(home: Path, *words: str | Path) -> dict[str, Any]:
    done = palate("recommend", home / "config.yaml", *words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {row["item_id"]: row["p"] for row in found["recommendations"]}


def test_commands_that_ask_run(home: Path, tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text("item_id,rating\n1,5\n2,1\n31,4\n")
    every = ("--top-k", "60")
    assert recommended(home, "--user", "3", *every) == recommended(home, "--user", "3", *every)
    assert len(recommended(home, "--history", history, *every)) > 50
    out = tmp_path / "all.parquet"
    done = palate("recommend", home / "config.yaml", "--all-users", "--out", out, *every)
    assert done.returncode == 0, done.stderr
    mine = pl.read_parquet(out).filter(user_id=3)
    assert dict(mine.select("item_id", "p").iter_rows()) == pytest.approx(recommended(home, "--user", "3", *every))
    asked = ("--set", "evaluate.rank_users=2", "--set", "evaluate.candidates=9", "--set", "evaluate.ablations=[empty]")
    done = palate("evaluate", home / "config.yaml", *asked, "--out", tmp_path / "evaluation")
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "evaluation" / "metrics.json")
    assert found["ablations"]["ablated"][0]["name"] == "empty"


def test_the_audit_checks_them(home: Path, tmp_path: Path) -> None:
    for more in ((), ("--ratings", home / "ratings")):
        done = palate("audit", home / "config.yaml", *more, "--json")
        (found,) = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "candidate-signals"]
        assert (found["severity"], found["count"]) == ("clean", 0)


def test_where_a_signal_cannot_be_had_it_is_refused_in_a_line(home: Path, tmp_path: Path) -> None:
    def refused(*words: str | Path) -> str:
        done = palate(*words)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return line

    example = {"instruction": "a", "input": "b", "output": "Yes"}
    (tmp_path / "test.json").write_text(json.dumps([example, {**example, "output": "No"}]))
    told = refused("evaluate", home / "config.yaml", "--data", tmp_path / "test.json")
    assert told.startswith("error: prompt.candidate_line: names {estimate}, which Alpaca files do not have")
    told = refused("prepare", home / "config.yaml", "--set", "prompt.history_line={title} {neighbour}")
    assert "history_line must not name {neighbour}: only a candidate has one" in told
    told = refused("prepare", home / "config.yaml", "--set", "prompt.estimate=oracle")
    assert "prompt.estimate=oracle, expected one of online, online-then, item-knn" in told
    told = refused("prepare", home / "config.yaml", "--set", "prompt.estimate=text")
    assert "prompt.estimate=text reads the items' text, expected text.encoder" in told
    told = refused("prepare", home / "config.yaml", "--set", "prompt.candidate_line={title} {estimate:.1x}")
    assert "cannot be written as {:.1x}" in told
