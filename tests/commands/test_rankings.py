"""Whole catalogues ranked in `palate evaluate`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.recipes import recipe_to_evaluate

from palate.baselines.retriever import ItemKNN, Past
from palate.baselines.statistics import BaselineData
from palate.cli import main
from palate.commands import rankings
from palate.commands.prepare import prepare, prepared
from palate.commands.scores import Model
from palate.config import Config, load_config
from palate.measure.candidates import candidate_sets
from palate.samples.queries import Queries
from palate.score.scorer import Scorer
from palate.store.artifacts import sha256_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with an adapter that was never trained."""
    folder = recipe_to_evaluate(tmp_path_factory.mktemp("ranked"), adapter=0.1)
    prepare(load_config(folder / "config.yaml"))
    return folder


@pytest.fixture
def config(home: Path) -> Config:
    return load_config(home / "config.yaml")


def scored(home: Path) -> rankings.RankedModel:
    return rankings.RankedModel(Model("fine-tuned", home / "run" / "adapter"), "a model", {"model": "one"})


def evaluate(home: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    assert main(["evaluate", "--config", str(home / "config.yaml"), "--out", str(out), *words]) == 0
    rankings: list[dict[str, Any]] = json.loads((out / "metrics.json").read_text())["rankings"]
    return rankings


def test_quick_baselines_always_rank_and_the_model_only_if_asked(home: Path, tmp_path: Path) -> None:
    (quick,) = evaluate(home, tmp_path / "quick")
    assert [entry["key"] for entry in quick["entries"]] == ["popularity", "first-stage", "constant", "item-mean"]
    assert quick["negatives"] is None
    assert "did not rank" in (tmp_path / "quick" / "report.html").read_text()
    first, second = evaluate(home, tmp_path / "asked", "--set", "evaluate.rank_users=3")
    assert first == quick
    assert [entry["key"] for entry in second["entries"]][-1] == "fine-tuned"
    assert second["users"] + second["unranked"] == 3
    assert all(
        list(entry["lists"]) == ["coverage@10", "popularity@10", "novelty@10", "diversity@10"]
        for entry in second["entries"]
    )
    assert "Novelty@10" in (tmp_path / "asked" / "report.html").read_text()
    assert "did not rank" not in (tmp_path / "asked" / "report.html").read_text()


def test_the_first_stage_ranks_as_recommend_retrieves(config: Config) -> None:
    samples = prepared(config).samples
    known = BaselineData.of(samples)
    retriever = ItemKNN.fit(known.training)
    predict = rankings.first_stage(known, retriever)
    for anchor in samples.position[samples.of("test")][::5].tolist():
        rows = slice(known.first[anchor], anchor)
        past = Past(known.item[rows], known.rating[rows], known.liked[rows])
        unseen = np.setdiff1d(np.arange(samples.items.height), past.item)
        score = predict(Queries(np.full(unseen.size, anchor), unseen))
        expected = retriever.top(past, 10, past.item)
        assert unseen[np.argsort(-score)][: expected.size].tolist() == expected.tolist()


def test_sampled_candidates_are_marked(home: Path, tmp_path: Path) -> None:
    (table,) = evaluate(home, tmp_path, "--set", "evaluate.candidates=5")
    assert table["negatives"] == 5
    assert table["candidates"].startswith("sampled: 5 ")
    assert "5 sampled candidates" in (tmp_path / "report.html").read_text()


def test_a_model_cannot_rank_where_only_scores_are_brought(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scores", str(tmp_path / "any.npz"), "--set", "evaluate.rank_users=3", "--out", str(tmp_path / "out")]
    assert main(["evaluate", "--config", str(home / "config.yaml"), *words]) == 2
    assert "error: evaluate.rank_users: scores with a model, expected 0 beside --scores" in capsys.readouterr().err


def test_the_model_is_asked_what_the_sample_asks(home: Path, config: Config, tmp_path: Path) -> None:
    """For the item of a user's first test sample the logit is that of the sample's own prompt."""
    from palate.commands.prepare import scored_tokens
    from palate.commands.score import load_scorer

    data = prepared(config)
    sets = candidate_sets(data.samples)
    logits = rankings.model_logits(config, data, scored(home), sets, tmp_path)
    asked = next(asked for *_, asked, _ in sets.chunks())
    scorer = load_scorer(config, home / "run" / "adapter")
    tokens = scored_tokens(config, data, scorer.chat, ("test",))["test"]
    test = data.samples.position[data.samples.of("test")]
    own = data.samples.items["item_id"].gather(asked.item) == data.samples.timeline["item_id"].gather(asked.anchor)
    pairs = np.flatnonzero(own.to_numpy())
    assert len(pairs) >= 5
    rows = np.searchsorted(test, asked.anchor[pairs])
    expected = scorer.score_ids(tokens.prompts(rows)).logit
    np.testing.assert_allclose(logits[pairs], expected, atol=1e-4)


def test_an_interrupted_ranking_goes_on_and_a_finished_one_is_kept(
    home: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepared(config)
    sets = candidate_sets(data.samples, users=pl.Series(data.samples.timeline["user_id"].unique().sort()[:4]))
    whole = rankings.model_logits(config, data, scored(home), sets, tmp_path / "whole")
    rank_ids, calls = Scorer.rank_ids, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rank_ids(*args)

    monkeypatch.setattr(Scorer, "rank_ids", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rankings.model_logits(config, data, scored(home), sets, tmp_path / "broken")
    assert not list((tmp_path / "broken" / "scores").glob("*.npz"))
    again = rankings.model_logits(config, data, scored(home), sets, tmp_path / "broken")
    np.testing.assert_array_equal(again, whole)
    assert len(calls) == len(sets) + 1
    np.testing.assert_array_equal(rankings.model_logits(config, data, scored(home), sets, tmp_path / "broken"), whole)
    assert len(calls) == len(sets) + 1
    assert [path.name for path in (tmp_path / "broken" / "scores").iterdir()] == ["ranking-fine-tuned.npz"]


def test_damaged_logits_are_computed_again(tmp_path: Path) -> None:
    out, key = tmp_path / "rankings.npz", {"of": "this"}
    np.savez(out, logit=np.zeros(3, np.float32), key=np.array(sha256_of(key)))
    assert rankings._kept(out, key) is not None
    out.write_bytes(out.read_bytes()[:-30])
    assert rankings._kept(out, key) is None
