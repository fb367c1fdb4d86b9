"""The newest samples: neither of two runs learned from them, and the older one scores them as if it were in service."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.examples import examples

from palate.baselines.registry import RANKERS
from palate.baselines.statistics import BaselineData
from palate.config import PrepareConfig
from palate.ratings.load import Ratings
from palate.samples import Samples, build_samples
from palate.samples.newest import newest
from palate.samples.queries import Queries, item_rows

OPTIONS = PrepareConfig(history_len=4, val_ratio=0.1, test_ratio=0.2)


def log(users: int, each: int, items: int, seed: int) -> pl.DataFrame:
    """Users rate different items at growing times, in turns."""
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    user = np.repeat(np.arange(users), each)
    time = rng.permutation(users * each) * 10 + 100
    stars = np.where(rng.random(len(item)) < 0.8, 2.0 + 2.5 * (item % 2), rng.integers(1, 6, len(item)))
    return pl.DataFrame(
        {"user_id": user, "item_id": item, "rating": stars, "timestamp": np.sort(time)[np.argsort(user)]}
    )


def samples_of(frame: pl.DataFrame, items: int) -> Samples:
    titles = pl.DataFrame({"item_id": range(items), "title": [f"Film {n}" for n in range(items)]})
    return build_samples(Ratings(frame, titles, "films", {}, (0.5, 5.0)), OPTIONS)


def whole(seed: int, cut: float) -> tuple[Samples, Samples]:
    """Samples of a log's ratings until a time, and of all of them; the first lacks two items and some users."""
    frame = log(users=14, each=16, items=24, seed=seed).sample(fraction=1, shuffle=True, seed=seed)
    border = frame["timestamp"].quantile(cut)
    early = frame.filter((pl.col("timestamp") <= border) & (pl.col("user_id") < 11) & (pl.col("item_id") < 22))
    return samples_of(early, 22), samples_of(frame, 24)


@given(st.integers(0, 10_000), st.sampled_from([0.4, 0.7]))
@examples(15)
def test_the_newest_samples_are_those_that_a_loop_finds(seed: int, cut: float) -> None:
    old, new = whole(seed, cut)
    found = newest(old, new)
    known = {row[:2] for row in old.timeline.rows()}
    last = max(row[3] for row in old.timeline.rows() if row[4] in ("warmup", "train"))
    rows = new.timeline.rows()
    of_user: dict[int, list[int]] = {}
    expected = []
    for at, (user, item, _, time, role) in enumerate(rows):
        shown = len([each for each in of_user.get(user, []) if each < 22])
        newer = role == "test" and time > last and (user, item) not in known
        if newer and item < 22 and shown >= OPTIONS.history_len:
            expected.append(at)
        of_user.setdefault(user, []).append(item)
    assert sorted(found.new.tolist()) == expected
    ids = [frame.select(pl.col("user_id", "item_id").cast(pl.String), "rating", "timestamp")
           for frame in (found.before.timeline[found.old], new.timeline[found.new])]  # fmt: skip
    assert ids[0].equals(ids[1])
    assert found.guests == new.timeline["user_id"].n_unique() - old.timeline["user_id"].n_unique()
    assert found.newer == new.timeline.height - old.timeline.height
    learned = pl.col("split").cast(pl.String).is_in(["warmup", "train"])
    then, now = (s.timeline.filter(learned).drop("split", "user_id") for s in (old, found.before))
    assert then.equals(now)


@pytest.mark.parametrize("key", ["user-item", "item-knn", "logistic-knn", "corrected"])
def test_the_older_model_scores_an_older_row_as_before_and_sees_newer_histories(key: str) -> None:
    old, new = whole(seed=5, cut=0.7)
    found, baseline = newest(old, new), RANKERS[key]
    learned = replace(BaselineData.of(old), fits=1)
    state = baseline.fitted(learned)
    known = replace(BaselineData.of(found.before, guests=found.guests), fits=1)
    asked, _ = learned.of_split("test")
    ids = found.before.timeline.with_row_index("row")
    wanted = old.timeline[asked.anchor].select(pl.col("user_id").cast(pl.String), "item_id", "timestamp")
    at = wanted.join(ids, on=["user_id", "item_id", "timestamp"], how="left", maintain_order="left")["row"].to_numpy()
    again = Queries(at.astype(np.int64), item_rows(found.before, at.astype(np.int64)))
    predict = baseline.predictor(known, state)
    np.testing.assert_allclose(predict(again), baseline.predictor(learned, state)(asked), rtol=1e-6)
    p = predict(Queries(found.old, item_rows(found.before, found.old)))
    assert ((p > 0) & (p < 1)).all()
