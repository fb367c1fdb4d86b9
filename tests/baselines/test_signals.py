"""Signals against their definitions, and against every answer that they must not know."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.rated import samples_of
from tests.timelines import random_timeline, split_by_user_and_time

from palate.baselines.registry import RANKERS, cross_fitted
from palate.baselines.signals import estimate_state, signals_of, source_of
from palate.baselines.statistics import PARTS, BaselineData
from palate.errors import InputError
from palate.prompt.spec import SIGNAL_FIELDS, PromptSpec
from palate.samples import Samples
from palate.samples.queries import Queries
from palate.samples.signals import NONE

EVERY = PromptSpec(candidate_line=" ".join(f"{{{name}}}" for name in SIGNAL_FIELDS), estimate="item-knn")
CHEAP = "{neighbour_mean} {user_deviation} {item_deviation}"
SAMPLES = samples_of(random_timeline(users=25, items=40))


def opposite(samples: Samples, where: Any) -> Samples:
    rating = samples.timeline["rating"].to_numpy()
    other = pl.Series("rating", np.where(where, 5.5 - rating, rating))
    return replace(samples, timeline=samples.timeline.with_columns(other))


def test_the_fields_are_what_their_definitions_say() -> None:
    data, found = BaselineData.of(SAMPLES), signals_of(BaselineData.of(SAMPLES), EVERY)
    rows = SAMPLES.timeline.with_columns(
        item=pl.Series(data.item), fold=pl.Series(data.fold), allowed=pl.Series(data.allowed)
    ).to_dicts()
    similar, neighbours = data.neighbours, set()
    for n in np.random.default_rng(0).choice(SAMPLES.position.size, 60, replace=False).tolist():
        at = int(SAMPLES.position[n])
        now = rows[at]
        others = [row for row in rows if row["allowed"] and row["fold"] != now["fold"]]
        overall = sum(row["rating"] for row in others) / len(others)

        def mean(item: int, others: list[Any] = others, overall: float = overall) -> float:
            own = [row["rating"] for row in others if row["item"] == item]
            return (sum(own) + 5 * overall) / (len(own) + 5)

        past = [row for row in rows[:at] if row["user_id"] == now["user_id"]]
        own = slice(similar.start[now["fold"], now["item"]], similar.start[now["fold"], now["item"] + 1])
        near = dict(zip(similar.item[own].tolist(), similar.similarity[own].tolist(), strict=True))
        liked = [row["item"] for row in past if row["rating"] >= 4 and near.get(row["item"], 0) > 0]
        nearest = max(liked, key=lambda item: (near[item], -item), default=NONE)
        fans = {row["user_id"] for row in others if row["item"] == nearest and row["rating"] >= 4}
        theirs = [row["rating"] for row in others if row["item"] == now["item"] and row["user_id"] in fans]
        told = found.row(n, named=True)
        assert told["neighbour"] == nearest
        expected = {
            "neighbour_mean": (sum(theirs) + 5 * mean(now["item"])) / (len(theirs) + 5),
            "user_deviation": sum(row["rating"] - mean(row["item"]) for row in past) / (len(past) + 2),
            "item_deviation": mean(now["item"]) - overall,
        }
        for name, value in expected.items():
            assert abs(told[name] - value) < 0.05 + 1e-9, name
            assert told[name] == round(told[name], 1)
        neighbours.add(nearest)
    assert NONE in neighbours
    assert len(neighbours) > 5


def test_an_estimate_is_the_baselines_probability_in_hundredths() -> None:
    data, found = BaselineData.of(SAMPLES), signals_of(BaselineData.of(SAMPLES), EVERY)["estimate"].to_numpy()
    p = RANKERS["item-knn"].predictor(data, RANKERS["item-knn"].fitted(data))
    for split in ("val", "test"):
        np.testing.assert_allclose(found[SAMPLES.of(split)], p(data.of_split(split)[0]), atol=0.005 + 1e-9)
    own = SAMPLES.of("train")
    np.testing.assert_allclose(found[own], cross_fitted(RANKERS["item-knn"], data, apart=True), atol=0.005 + 1e-9)
    assert (found == found.round(2)).all()


@pytest.mark.parametrize("key", ["item-knn", "logistic-knn", pytest.param("strongest", marks=pytest.mark.slow)])
def test_no_signal_of_a_training_row_knows_its_own_or_a_later_answer_of_its_user(key: str) -> None:
    prompt = EVERY.model_copy(update={"estimate": key})
    before = signals_of(BaselineData.of(SAMPLES), prompt)
    user, row = SAMPLES.user, np.arange(SAMPLES.timeline.height)
    for at in np.random.default_rng(1).choice(SAMPLES.position[SAMPLES.of("train")], 3, replace=False).tolist():
        changed = opposite(SAMPLES, (user == user[at]) & (row >= at))
        after = signals_of(BaselineData.of(changed), prompt)
        earlier = (user[SAMPLES.position] == user[at]) & (SAMPLES.position <= at)
        assert after.filter(earlier).equals(before.filter(earlier))
        assert not after.equals(before)


@pytest.mark.parametrize("key", ["item-knn", "logistic-knn"])
def test_the_answers_of_test_rows_are_in_no_signal_but_those_of_the_users_own_later_rows(key: str) -> None:
    prompt = EVERY.model_copy(update={"estimate": key})
    before = signals_of(BaselineData.of(SAMPLES), prompt)
    tests = SAMPLES.timeline["split"] == "test"
    after = signals_of(BaselineData.of(opposite(SAMPLES, tests.to_numpy())), prompt)
    own, spared = SAMPLES.of("test"), SAMPLES.split < 2
    spared[own[np.unique(SAMPLES.user[SAMPLES.position[own]], return_index=True)[1]]] = True
    assert after.filter(spared).equals(before.filter(spared))


def test_a_plain_cross_fit_still_knows_a_little_of_them() -> None:
    """Why `apart` exists: the answers are in the item statistics of others, from whose samples the fit learns."""
    data, baseline = BaselineData.of(SAMPLES), RANKERS["logistic"]
    position = SAMPLES.position[SAMPLES.of("train")]
    first = np.unique(SAMPLES.user[position], return_index=True)[1]
    first = first[data.fold[position[first]] % PARTS == 0]
    cut = np.full(int(SAMPLES.user[-1]) + 1, SAMPLES.timeline.height)
    cut[SAMPLES.user[position[first]]] = position[first]
    changed = BaselineData.of(opposite(SAMPLES, np.arange(SAMPLES.timeline.height) >= cut[SAMPLES.user]))
    for apart in (True, False):
        one, other = (cross_fitted(baseline, each, apart=apart)[first] for each in (data, changed))
        assert np.array_equal(one, other) == apart


def test_questions_about_a_samples_item_have_the_signals_of_the_sample() -> None:
    found, data = signals_of(BaselineData.of(SAMPLES), EVERY), BaselineData.of(SAMPLES)
    source = source_of(data, EVERY, estimate_state(data, EVERY))
    for split in ("val", "test"):
        index = SAMPLES.of(split)
        queries = Queries.of_samples(SAMPLES, split)
        assert source.of(queries).equals(found[index])
        assert source.of(queries.take(np.arange(index.size)[::-1])).equals(found[index[::-1]])


def test_only_what_the_prompt_names_is_computed() -> None:
    for name in ("neighbour", "user_deviation", "item_deviation"):
        prompt = PromptSpec(candidate_line=f"{{title}} {{{name}}}", estimate="no baseline")
        assert signals_of(BaselineData.of(SAMPLES), prompt).columns == [name]


def test_a_user_alone_has_no_neighbour_and_no_deviation_of_items() -> None:
    samples = samples_of(split_by_user_and_time(random_timeline(users=2).filter(user_id=0).drop("split")))
    found = signals_of(BaselineData.of(samples), EVERY)
    assert set(found["neighbour"]) == {NONE}
    assert set(found["item_deviation"]) == {0.0}
    later = np.arange(samples.timeline.height) >= samples.position[3]
    again = signals_of(BaselineData.of(opposite(samples, later)), EVERY.model_copy(update={"candidate_line": CHEAP}))
    assert again[:4].equals(found[:4].select(again.columns))
    assert not found["estimate"].is_nan().any()


@pytest.mark.parametrize(
    ("key", "words"),
    [("user-mean", "expected one of online, "), ("text", "reads the items' text, expected text.encoder")],
)
def test_a_baseline_that_cannot_estimate_is_refused(key: str, words: str) -> None:
    prompt = EVERY.model_copy(update={"estimate": key})
    with pytest.raises(InputError, match=words):
        signals_of(BaselineData.of(SAMPLES), prompt)
