from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from tests.rated import samples_of
from tests.timelines import random_timeline

from palate.baselines import learned, registry
from palate.baselines import statistics as known_data
from palate.baselines.kept import Kept
from palate.baselines.platt import Predict
from palate.baselines.registry import (
    RANKERS,
    REGISTRY,
    TEACHERS,
    baseline_scores,
    cross_fitted,
    fit_baselines,
)
from palate.baselines.statistics import PARTS, BaselineData
from palate.config import TrainConfig
from palate.errors import InputError
from palate.measure.metrics import measure
from palate.samples import Samples
from palate.samples.queries import Queries

QUICK = [baseline.key for baseline in REGISTRY if baseline.quick]


def quick(timeline: pl.DataFrame, rating_threshold: float = 4.0, history_len: int = 15) -> pl.DataFrame:
    samples = samples_of(timeline, rating_threshold, history_len)
    return baseline_scores(samples, choice="quick")


def naive_statistics(timeline: pl.DataFrame, history_len: int = 15) -> dict[str, list[float]]:
    """Each baseline's statistic for every row of the timeline, one row at a time."""
    rows = timeline.rows(named=True)
    known = [r for r in rows if r["split"] in ("train", "warmup")]
    mu = sum(r["rating"] for r in known) / len(known)

    def item_mean(item: int) -> float:
        own = [r["rating"] for r in known if r["item_id"] == item]
        return (sum(own) + 5 * mu) / (len(own) + 5)

    items = {item: item_mean(item) for item in {r["item_id"] for r in rows}}
    found: dict[str, list[float]] = {name: [] for name in QUICK[1:]}
    for i, row in enumerate(rows):
        own = [r for r in known if r["user_id"] == row["user_id"]]
        residuals = [r["rating"] - items[r["item_id"]] for r in own]
        found["user-mean"].append(sum(r["rating"] for r in own) / len(own) if own else mu)
        found["item-mean"].append(items[row["item_id"]])
        found["user-item"].append(items[row["item_id"]] + sum(residuals) / (len(residuals) + 5))
        past = [r["rating"] for r in rows[max(0, i - history_len) : i] if r["user_id"] == row["user_id"]]
        found["history-mean"].append(sum(past) / history_len if len(past) == history_len else np.nan)
    return found


def test_each_baseline_is_the_platt_scaling_of_its_statistic(timeline: pl.DataFrame) -> None:
    got = quick(timeline)
    val, test = ((timeline["split"] == split).to_numpy() for split in ("val", "test"))
    liked = (timeline["rating"] >= 4.0).to_numpy()
    assert got["row"].to_list() == list(range(test.sum()))
    for name, values in naive_statistics(timeline).items():
        x = np.array(values)[:, None]
        expected = LogisticRegression().fit(x[val], liked[val]).predict_proba(x[test])[:, 1]
        np.testing.assert_allclose(got[name], expected, atol=1e-6, err_msg=name)


def test_the_constant_is_the_training_base_rate(timeline: pl.DataFrame) -> None:
    train = timeline.filter(pl.col("split") == "train")
    got = quick(timeline)
    assert got["constant"].to_list() == pytest.approx([(train["rating"] >= 4.0).mean()] * len(got))


def test_static_baselines_do_not_see_validation_test_and_unused_ratings(timeline: pl.DataFrame) -> None:
    """Only the fit on validation sees its labels; here it is taken away, so nothing may change."""
    without = timeline.with_columns(split=pl.col("split").replace("val", "unused"))
    hidden = pl.col("split").is_in(["test", "unused"])
    changed = without.with_columns(rating=pl.when(hidden).then(5.5 - pl.col("rating")).otherwise(pl.col("rating")))
    before = quick(without)
    after = quick(changed)
    static = ["constant", "user-mean", "item-mean", "user-item"]
    assert before.select(static).equals(after.select(static))
    assert not before["history-mean"].equals(after["history-mean"])


def test_histories_of_equal_mean_score_exactly_the_same(timeline: pl.DataFrame) -> None:
    """Ratings that binary fractions cannot hold, in 30 orders, would differ in the last bits of a running sum."""
    rng = np.random.default_rng(1)
    histories = [[*rng.permutation(np.repeat([1.1, 2.3, 4.7], 5)), 4.7] for _ in range(30)]
    same = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(1000, 1030), 16),
            "item_id": rng.integers(60, size=480),
            "rating": np.concatenate(histories),
            "timestamp": np.arange(480),
            "split": (["warmup"] * 15 + ["test"]) * 30,
        },
        schema=timeline.schema,
    )
    scores = quick(pl.concat([timeline, same]))
    assert scores["history-mean"].tail(30).n_unique() == 1


def test_unknown_users_and_items_score_as_the_mean_of_all(timeline: pl.DataFrame) -> None:
    stranger = pl.DataFrame(
        {
            "user_id": [1000] * 16,
            "item_id": [5000 + i for i in range(16)],
            "rating": [3.0] * 16,
            "timestamp": list(range(16)),
            "split": ["unused"] * 15 + ["test"],
        },
        schema=timeline.schema,
    )
    naive = naive_statistics(timeline)
    known = timeline.filter(pl.col("split").is_in(["train", "warmup"]))
    val = (timeline["split"] == "val").to_numpy()
    scores = quick(pl.concat([timeline, stranger]))
    for name in ("user-mean", "item-mean", "user-item"):
        model = LogisticRegression().fit(np.array(naive[name])[val, None], (timeline["rating"] >= 4.0).to_numpy()[val])
        assert scores[name][-1] == pytest.approx(model.predict_proba([[known["rating"].mean()]])[0, 1], abs=1e-6)


def test_without_validation_the_fit_is_on_training(timeline: pl.DataFrame) -> None:
    without = timeline.with_columns(split=pl.col("split").replace("val", "unused"))
    scores = quick(without)
    train, test = ((without["split"] == split).to_numpy() for split in ("train", "test"))
    x, liked = np.array(naive_statistics(without)["history-mean"])[:, None], (without["rating"] >= 4.0).to_numpy()
    expected = LogisticRegression().fit(x[train], liked[train]).predict_proba(x[test])[:, 1]
    np.testing.assert_allclose(scores["history-mean"], expected, atol=1e-6)


def test_where_everything_is_liked_every_baseline_is_the_constant(timeline: pl.DataFrame) -> None:
    scores = quick(timeline, rating_threshold=0.5)
    assert scores.select(QUICK).unique().rows() == [(1.0,) * len(QUICK)]


def test_no_training_rows_are_refused(timeline: pl.DataFrame) -> None:
    with pytest.raises(InputError, match="no training rows"):
        quick(timeline.filter(pl.col("split") != "train"))


def test_a_shorter_history_has_the_mean_of_what_there_is(timeline: pl.DataFrame) -> None:
    given = timeline.filter(pl.col("split") != "warmup")
    first = given["user_id"].is_first_distinct()
    given = given.with_columns(split=pl.when(first).then(pl.lit("test")).otherwise(pl.col("split").cast(pl.String)))
    before, mean = {}, []
    known = given.filter(pl.col("split").is_in(["train", "warmup"]))["rating"].mean()
    for user, rating in given.select("user_id", "rating").rows():
        past = before.setdefault(user, [])
        mean.append(np.mean(past[-15:]) if past else known)
        past.append(rating)

    scores = quick(given)
    order = np.argsort(np.array(mean)[(given["split"] == "test").to_numpy()], kind="stable")
    assert (np.diff(scores["history-mean"].to_numpy()[order]) >= -1e-9).all()


ALL = [baseline.key for baseline in REGISTRY if not baseline.reads_text]
LEARNED = [baseline.key for baseline in REGISTRY if not baseline.quick and not baseline.reads_text]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return samples_of(random_timeline())


@pytest.fixture(scope="module")
def fitted(samples: Samples) -> dict[str, Predict]:
    return fit_baselines(BaselineData.of(samples))


@pytest.fixture(scope="module")
def catalogue(samples: Samples) -> Queries:
    """All items, asked of the last test row of every user."""
    test = samples.position[samples.of("test")]
    users = samples.timeline["user_id"].gather(test).to_numpy()
    last = test[np.append(users[1:] != users[:-1], True)]
    return Queries(np.repeat(last, len(samples.items)), np.tile(np.arange(len(samples.items)), len(last)))


def test_every_baseline_is_fitted_in_the_order_of_the_tables(fitted: dict[str, Predict]) -> None:
    assert list(fitted) == ALL


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_orders_the_test_rows_better_than_chance(
    name: str, samples: Samples, fitted: dict[str, Predict]
) -> None:
    asked = Queries.of_samples(samples, "test")
    liked = samples.label[samples.of("test")]
    found = measure(liked, fitted[name](asked), samples.timeline["user_id"].gather(asked.anchor).to_numpy())
    assert found.auc is not None
    assert found.auc > 0.65


@pytest.mark.parametrize("name", ALL)
def test_each_question_is_answered_for_itself(
    name: str, fitted: dict[str, Predict], catalogue: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is asked, in whatever order and however many at once."""
    p = fitted[name](catalogue)
    assert p.shape == (len(catalogue),)
    assert p.dtype == np.float64
    assert ((p >= 0) & (p <= 1)).all()
    mixed = np.random.default_rng(5).permutation(len(catalogue))[:500]
    monkeypatch.setattr(registry, "CHUNK", 64)
    np.testing.assert_allclose(fitted[name](catalogue.take(mixed)), p[mixed], rtol=1e-12)
    assert fitted[name](catalogue.take(slice(0))).shape == (0,)


def test_no_baseline_sees_what_came_after_the_anchor(
    samples: Samples, fitted: dict[str, Predict], catalogue: Queries
) -> None:
    """Test rows of others may be whatever they like, and what the user did from the anchor on too."""
    timeline = samples.timeline
    rng = np.random.default_rng(3)
    row = np.arange(len(timeline))
    anchors = samples.position[samples.of("test")]
    anchor = anchors[len(anchors) // 2]
    mine = (timeline["user_id"] == timeline["user_id"][int(anchor)]).to_numpy()
    later = np.where(mine, row >= anchor, (timeline["split"] == "test").to_numpy())
    rating = np.where(later, rng.integers(1, 11, len(row)) / 2, timeline["rating"].to_numpy())
    item = np.where(later, rng.integers(60, size=len(row)), timeline["item_id"].to_numpy())
    other = replace(samples, timeline=timeline.with_columns(rating=rating, item_id=item))
    asked = Queries(np.full(60, anchor), np.arange(60))
    again = fit_baselines(BaselineData.of(other))
    for name in ALL:
        assert np.array_equal(fitted[name](asked), again[name](asked)), name


def test_the_same_seed_gives_the_same_bits(samples: Samples, fitted: dict[str, Predict], catalogue: Queries) -> None:
    again = fit_baselines(BaselineData.of(samples))
    for name in ALL:
        assert np.array_equal(fitted[name](catalogue), again[name](catalogue)), name


@pytest.mark.parametrize("key", ["factors", "lightgbm-prompt"])
def test_what_is_random_is_the_mean_of_five_seeds(key: str, samples: Samples) -> None:
    """Compared before the scaling on validation, which turns each score differently."""
    asked, baseline = Queries.of_samples(samples, "test"), RANKERS[key]
    known = BaselineData.of(samples, seed=20)

    def scored(known: BaselineData) -> np.ndarray:
        state = baseline.fit(known)
        assert state is not None
        return baseline.score(known, state)(asked)

    found = scored(known)
    alone = np.stack([scored(replace(known, fits=1, seed=seed)) for seed in range(20, 25)])
    assert np.ptp(alone, axis=0).max() > 0.01
    np.testing.assert_allclose(found, alone.mean(axis=0), rtol=1e-9)


def test_an_item_that_nobody_rated_is_answered(samples: Samples) -> None:
    new = samples.items.head(1).with_columns(item_id=pl.lit(10**6).cast(samples.items["item_id"].dtype))
    known = BaselineData.of(replace(samples, items=pl.concat([samples.items, new])))
    for name, predict in fit_baselines(known).items():
        p = predict(Queries(samples.position[-3:], np.full(3, len(samples.items))))
        assert ((p > 0) & (p < 1)).all(), name


def test_a_single_user_is_enough_for_every_baseline() -> None:
    timeline = random_timeline()
    for name, p in baseline_scores(samples_of(timeline.filter(user_id=0))).drop("row").to_dict().items():
        assert p.is_finite().all(), name


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 1.0), (5.5, 0.0)])
def test_where_all_are_of_one_class_every_baseline_is_the_constant(threshold: float, expected: float) -> None:
    scores = baseline_scores(samples_of(random_timeline(), threshold))
    assert scores.select(ALL).unique().rows() == [(expected,) * len(ALL)]


def test_without_validation_the_learned_baselines_are_fitted_too() -> None:
    timeline = random_timeline().with_columns(split=pl.col("split").replace("val", "unused"))
    scores = baseline_scores(samples_of(timeline))
    for name in LEARNED:
        assert scores[name].n_unique() > 10


def test_a_baseline_whose_package_is_absent_is_left_out_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    kept = [baseline.key for baseline in registry.chosen_baselines("all")]
    assert kept == [baseline.key for baseline in REGISTRY if baseline.needs is None and not baseline.reads_text]
    assert "skipping the baseline 'matrix factorization': surprise is not installed" in caplog.text


def test_of_many_samples_some_are_fitted_on(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_data, "MOST", 300)
    known = BaselineData.of(samples)
    asked, liked = known.drawn("train")
    assert (len(asked), len(set(asked.anchor.tolist()))) == (300, 300)
    assert np.array_equal(liked, known.liked[asked.anchor])
    assert np.isin(asked.anchor, samples.position[samples.of("train")]).all()
    assert list(fit_baselines(known)) == ALL


def test_kept_baselines_score_as_the_fitted_ones_and_are_not_fitted_again(
    samples: Samples, fitted: dict[str, Predict], catalogue: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, kept = BaselineData.of(samples), Kept(tmp_path, {"data": 1})
    fit_baselines(known, kept=kept)
    kept_of = {file.stem: np.load(file) for file in tmp_path.iterdir()}  # refuses pickles
    assert sorted(kept_of) == sorted(ALL)

    monkeypatch.setattr(registry.Baseline, "fitted", lambda self, data: pytest.fail(f"fits {self.key} again"))
    again = fit_baselines(BaselineData.of(samples), kept=kept)
    assert list(again) == ALL
    for name in ALL:
        assert np.array_equal(again[name](catalogue), fitted[name](catalogue)), name


def test_kept_baselines_of_other_data_and_damaged_ones_are_fitted_again(samples: Samples, tmp_path: Path) -> None:
    known = BaselineData.of(samples)
    fit_baselines(known, "quick", Kept(tmp_path, {"data": 1}))
    assert Kept(tmp_path, {"data": 1}).read("item-mean") is not None
    assert Kept(tmp_path, {"data": 2}).read("item-mean") is None
    whole = (tmp_path / "item-mean.npz").read_bytes()
    (tmp_path / "item-mean.npz").write_bytes(whole[: len(whole) // 2])
    assert Kept(tmp_path, {"data": 1}).read("item-mean") is None
    fit_baselines(known, "quick", Kept(tmp_path, {"data": 1}))
    assert (tmp_path / "item-mean.npz").read_bytes() == whole


def test_the_config_takes_the_baselines_that_can_teach() -> None:
    field = TrainConfig.model_json_schema()["properties"]["teacher"]
    assert field["anyOf"][0]["enum"] == TEACHERS


def test_a_cross_fit_learns_from_the_samples_of_other_users_alone() -> None:
    class Known(registry.Baseline):
        """1 for the samples of users that it was fitted on."""

        def fitted(self, data: BaselineData) -> dict[str, np.ndarray]:
            queries, _ = data.drawn("train")
            return {"users": np.unique(data.user[queries.anchor[data.learned(queries)]])}

        def predictor(self, data: BaselineData, state: dict[str, np.ndarray]) -> Predict:
            return lambda queries: np.isin(data.user[queries.anchor], state["users"]).astype(float)

    data, known = BaselineData.of(samples_of(random_timeline(users=60, seed=3))), Known("known", "known")
    queries, liked = data.of_split("train")
    assert known.predictor(data, known.fitted(data))(queries).all()
    assert cross_fitted(known, data).tolist() == [0.0] * len(liked)
    asked = Queries(queries.anchor, queries.item[::-1])  # of other items
    for crossed in (False, True):
        assert not cross_fitted(Known("known", "known", crossed=crossed), data, queries=asked).any()
    for part in range(PARTS):
        others = replace(data, without=part, linear={})
        rows = others.learned(queries)
        x, labels = learned._features_and_labels(others, "train", ("prompt", "item"))
        assert 0 < len(x) == rows.size < len(liked)
        assert np.array_equal(labels, liked[rows])
        fitted = RANKERS["online"].fitted(others)["weights"]
        alone = LogisticRegression().fit(np.column_stack(learned.online_means(data, queries))[rows], liked[rows])
        assert np.allclose(fitted, alone.coef_[0])


def test_cross_fitted_predictions_are_kept(tmp_path: Path) -> None:
    data = BaselineData.of(samples_of(random_timeline(seed=4)))
    kept = Kept(tmp_path, {"data": "these"})
    p = cross_fitted(RANKERS["logistic"], data, kept)
    assert np.array_equal(kept.read("logistic-cross-fitted")["p"], p)
    kept.write("logistic-cross-fitted", {"p": p + 1})
    assert np.array_equal(cross_fitted(RANKERS["logistic"], data, kept), p + 1)
    queries, _ = data.of_split("train")
    for n in range(3):  # those of other queries beside them, of the last ones alone
        some = queries.take(slice(n, 20))
        asked = cross_fitted(RANKERS["logistic"], data, kept, queries=some)
        np.testing.assert_array_equal(asked, p[n:20])
        assert np.array_equal(kept.read("logistic-cross-fitted")["p"], p + 1)
