import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter
from tests.films import film_samples

from palate.errors import InputError
from palate.measure.candidates import candidate_sets
from palate.measure.ranking import Ranked, rank
from palate.measure.ranking_table import RankingTable, compare_rankings, ranking_table
from palate.samples.queries import Queries


def noise(asked: Queries) -> np.ndarray:
    return np.sin(asked.anchor * 17.0 + asked.item * 5.0)


def constant(asked: Queries) -> np.ndarray:
    return np.zeros(len(asked))


def ranked(negatives: int | None = None, **options: object) -> dict[str, Ranked]:
    sets = candidate_sets(film_samples(), negatives=negatives)
    likes = np.zeros((int(sets.anchor.max()) + 1, sets.items))
    likes[sets.anchor[sets.user], sets.item] = 1
    models = {"llm": lambda asked: likes[asked.anchor, asked.item] + 2 * noise(asked), "constant": constant}
    return {key: rank(sets, predict, **options) for key, predict in models.items()}


@pytest.fixture(scope="module")
def table() -> RankingTable:
    return ranking_table(ranked(), baselines=["constant"], labels={"llm": "the model"}, resamples=300)


def test_each_figure_is_the_mean_over_users(table: RankingTable) -> None:
    for key, one in ranked().items():
        for name, values in one.values.items():
            assert table.entry(key).metrics[name] == pytest.approx(np.mean(values))


def test_intervals_are_those_of_the_mean_over_resampled_users(table: RankingTable) -> None:
    values = ranked()["llm"].values["ndcg@10"]
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(4000, len(values)))].mean(axis=1)
    found = table.entry("llm").intervals["ndcg@10"]
    assert found is not None
    np.testing.assert_allclose([found.low, found.high], np.percentile(means, [2.5, 97.5]), atol=0.3 * means.std())


def test_baselines_come_first_and_models_are_compared_with_the_best_of_them(table: RankingTable) -> None:
    assert [(entry.key, entry.kind) for entry in table.entries] == [("constant", "baseline"), ("llm", "model")]
    assert table.entry("llm").label == "the model"
    assert [d.metric for d in table.differences] == list(table.entry("llm").metrics)
    for d in table.differences:
        assert (d.first, d.second) == ("llm", "constant")
        of = [table.entry(key).metrics[d.metric] for key in (d.first, d.second)]
        assert d.value == pytest.approx(of[0] - of[1])
    first = table.differences[0]
    assert (first.metric, first.better) == ("ndcg@5", "llm")
    assert first.p is not None
    assert first.p <= first.holm < 0.05


def test_sampled_figures_say_so_wherever_they_stand(table: RankingTable) -> None:
    sampled = ranking_table(ranked(negatives=8), resamples=0)
    assert (table.sampled, table.name_of("ndcg@10"), table.name_of("recall@5")) == (False, "NDCG@10", "Recall@5")
    assert table.candidates == "all 50 items but those rated before"
    assert sampled.sampled
    assert sampled.name_of("ndcg@10") == "NDCG@10 (8 sampled)"
    assert sampled.name_of("mrr") == "MRR (8 sampled)"
    assert sampled.to_dict()["candidates"].startswith("sampled: 8 random items")


def test_it_survives_json(table: RankingTable) -> None:
    assert TypeAdapter(RankingTable).validate_python(json.loads(json.dumps(table.to_dict(), allow_nan=False))) == table


def test_no_resamples_give_no_intervals() -> None:
    found = ranking_table(ranked(), baselines=["constant"], resamples=0)
    assert set(found.entry("llm").intervals.values()) == {None}
    assert {(d.interval, d.p) for d in found.differences} == {(None, None)}


def test_models_ranked_on_other_candidates_or_lists_are_refused() -> None:
    for other in (ranked(negatives=8), ranked(ks=(3,))):
        with pytest.raises(InputError, match="expected the same"):
            ranking_table({"llm": ranked()["llm"], "other": other["llm"]})


def test_nobody_to_rank_gives_a_table_without_figures() -> None:
    samples = film_samples()
    sets = candidate_sets(replace(samples, label=np.zeros_like(samples.label)))
    found = ranking_table({"a": rank(sets, constant), "b": rank(sets, noise)}, baselines=["a"], resamples=20)
    assert found.users == 0
    assert set(found.entry("a").metrics.values()) == {None}
    assert TypeAdapter(RankingTable).validate_python(json.loads(json.dumps(found.to_dict()))) == found


def test_any_two_rankings_are_compared_as_the_table_compares_them(table: RankingTable) -> None:
    found = compare_rankings(ranked(), [("llm", "constant")], resamples=300)
    assert found == table.differences
    turned = compare_rankings(ranked(), [("constant", "llm")], resamples=300)
    assert [pair.value for pair in turned] == [-pair.value for pair in found]
    assert [pair.p for pair in turned] == [pair.p for pair in found]
    assert turned[0].better == "llm"


def test_each_is_compared_with_each_where_no_pairs_are_named() -> None:
    three = ranked() | {"again": ranked()["llm"]}
    found = [(pair.first, pair.second) for pair in compare_rankings(three, resamples=20) if pair.metric == "mrr"]
    assert found == [("llm", "constant"), ("llm", "again"), ("constant", "again")]
    itself = next(pair for pair in compare_rankings(three, [("llm", "again")], resamples=20) if pair.metric == "mrr")
    assert (itself.value, itself.p, itself.better) == (0, 1, None)
