import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from palate.errors import InputError
from palate.evaluate.baselines import BASELINES, baseline_scores
from palate.evaluate.metrics import measure

REFERENCE = {  # ../shared/reference/baselines.md: AUC, GAUC, accuracy, log loss
    "constant": (0.500, 0.500, 0.534, 0.692),
    "user-mean": (0.703, 0.500, 0.655, 0.626),
    "item-mean": (0.677, 0.667, 0.631, 0.643),
    "user-item": (0.767, 0.667, 0.695, 0.574),
    "history-mean": (0.764, 0.489, 0.689, 0.575),
}


def naive_statistics(timeline: pl.DataFrame, history_len: int = 15) -> dict[str, list[float]]:
    """Each baseline's statistic for every row of the timeline, one row at a time."""
    rows = timeline.rows(named=True)
    known = [r for r in rows if r["split"] in ("train", "warmup")]
    mu = sum(r["rating"] for r in known) / len(known)

    def item_mean(item: int) -> float:
        own = [r["rating"] for r in known if r["item_id"] == item]
        return (sum(own) + 5 * mu) / (len(own) + 5)

    items = {item: item_mean(item) for item in {r["item_id"] for r in rows}}
    found: dict[str, list[float]] = {name: [] for name in list(BASELINES)[1:]}
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
    got = baseline_scores(timeline, rating_threshold=4.0, history_len=15)
    val, test = ((timeline["split"] == split).to_numpy() for split in ("val", "test"))
    liked = (timeline["rating"] >= 4.0).to_numpy()
    assert got["row"].to_list() == list(range(test.sum()))
    for name, values in naive_statistics(timeline).items():
        x = np.array(values)[:, None]
        expected = LogisticRegression().fit(x[val], liked[val]).predict_proba(x[test])[:, 1]
        np.testing.assert_allclose(got[name], expected, atol=1e-6, err_msg=name)


def test_the_constant_is_the_training_base_rate(timeline: pl.DataFrame) -> None:
    train = timeline.filter(pl.col("split") == "train")
    got = baseline_scores(timeline, rating_threshold=4.0, history_len=15)
    assert got["constant"].to_list() == pytest.approx([(train["rating"] >= 4.0).mean()] * len(got))


def test_static_baselines_do_not_see_validation_test_and_unused_ratings(timeline: pl.DataFrame) -> None:
    """Only the fit on validation sees its labels; here it is taken away, so nothing may change."""
    without = timeline.with_columns(split=pl.col("split").replace("val", "unused"))
    hidden = pl.col("split").is_in(["test", "unused"])
    changed = without.with_columns(rating=pl.when(hidden).then(5.5 - pl.col("rating")).otherwise(pl.col("rating")))
    before = baseline_scores(without, rating_threshold=4.0, history_len=15)
    after = baseline_scores(changed, rating_threshold=4.0, history_len=15)
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
    scores = baseline_scores(pl.concat([timeline, same]), rating_threshold=4.0, history_len=15)
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
    scores = baseline_scores(pl.concat([timeline, stranger]), rating_threshold=4.0, history_len=15)
    for name in ("user-mean", "item-mean", "user-item"):
        model = LogisticRegression().fit(np.array(naive[name])[val, None], (timeline["rating"] >= 4.0).to_numpy()[val])
        assert scores[name][-1] == pytest.approx(model.predict_proba([[known["rating"].mean()]])[0, 1], abs=1e-6)


def test_without_validation_the_fit_is_on_training(timeline: pl.DataFrame) -> None:
    without = timeline.with_columns(split=pl.col("split").replace("val", "unused"))
    scores = baseline_scores(without, rating_threshold=4.0, history_len=15)
    train, test = ((without["split"] == split).to_numpy() for split in ("train", "test"))
    x, liked = np.array(naive_statistics(without)["history-mean"])[:, None], (without["rating"] >= 4.0).to_numpy()
    expected = LogisticRegression().fit(x[train], liked[train]).predict_proba(x[test])[:, 1]
    np.testing.assert_allclose(scores["history-mean"], expected, atol=1e-6)


def test_where_everything_is_liked_every_baseline_is_the_constant(timeline: pl.DataFrame) -> None:
    scores = baseline_scores(timeline, rating_threshold=0.5, history_len=15)
    assert scores.select(list(BASELINES)).unique().rows() == [(1.0,) * len(BASELINES)]


def test_no_training_rows_are_refused(timeline: pl.DataFrame) -> None:
    with pytest.raises(InputError, match="no training rows"):
        baseline_scores(timeline.filter(pl.col("split") != "train"), rating_threshold=4.0, history_len=15)


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

    scores = baseline_scores(given, rating_threshold=4.0, history_len=15)
    order = np.argsort(np.array(mean)[(given["split"] == "test").to_numpy()], kind="stable")
    assert (np.diff(scores["history-mean"].to_numpy()[order]) >= -1e-9).all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_the_reference_is_reproduced_on_ml_latest_small(name: str, real_timeline: pl.DataFrame) -> None:
    test = real_timeline.filter(pl.col("split") == "test")
    scores = baseline_scores(real_timeline, rating_threshold=4.0, history_len=15)
    got = measure((test["rating"] >= 4.0).to_numpy(), scores[name].to_numpy(), test["user_id"].to_numpy())
    assert (got.n, got.users, got.gauc_users) == (8965, 610, 365)
    assert (got.auc, got.gauc, got.accuracy, got.log_loss) == pytest.approx(REFERENCE[name], abs=0.005)
