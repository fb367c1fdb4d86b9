"""Five baselines that cost nothing; a model that does not beat them has learned nothing.

    constant       the training base rate
    user-mean      the user's mean rating
    item-mean      the item's mean rating, shrunk to the mean of all: (sum + k μ) / (count + k), k = 5
    user-item      μ + b_i + b_u: the item's mean as above, plus the user's mean residual, shrunk alike
    history-mean   the mean of the ratings that the prompt shows

The first four are static: they see the ratings of the splits "train" and "warmup" and no other. A rating of an unused
user is not seen, as the model is not trained on it either; nor is one of the splits "val" and "test". The last sees
the sample's own history. Each statistic becomes a probability by Platt scaling (Platt 1999) on validation.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.errors import InputError

BASELINES = {
    "constant": "constant (training base rate)",
    "user-mean": "user mean",
    "item-mean": "item mean",
    "user-item": "user + item",
    "history-mean": "mean of the history's ratings",
}
"""The baselines' keys, in the order of the tables, and what the tables call them."""

SHRINKAGE = 5.0


def baseline_scores(
    timeline: pl.DataFrame, *, rating_threshold: float, history_len: int, split: str = "test"
) -> pl.DataFrame:
    """P(like) of every baseline for every row of a split, in the order of the timeline.

    `timeline` has the columns of `ratings.parquet`. The result has `row` (UInt32, the index within the split) and
    one Float64 column for each key of `BASELINES`. Raises `InputError` where there is no training row to learn
    from. A sample with fewer than `history_len` rows of its user before it has the mean of those that there are, one
    without any the mean of all ratings.
    """
    known = timeline.filter(pl.col("split").is_in(["train", "warmup"]))
    train = pl.col("split") == "train"
    if timeline.select(train.sum()).item() == 0:
        raise InputError("the timeline has no training rows, expected some for the baselines to learn from")
    samples = _with_statistics(timeline, known, history_len).filter(pl.col("split").is_in(["train", "val", "test"]))
    samples = samples.with_columns(liked=pl.col("rating") >= rating_threshold)
    training, validation, test = (samples.filter(pl.col("split") == name) for name in ("train", "val", split))
    base_rate = float(training["liked"].to_numpy().mean())
    # One class alone fits no slope. Training is the poor second choice: its rows are part of their own statistics.
    fitted_on = next((part for part in (validation, training) if part["liked"].n_unique() == 2), None)
    columns = {"constant": np.full(len(test), base_rate)}
    for name in list(BASELINES)[1:]:
        columns[name] = columns["constant"] if fitted_on is None else _platt(fitted_on, test, name)
    return pl.DataFrame(columns).with_row_index("row")


def _with_statistics(timeline: pl.DataFrame, known: pl.DataFrame, history_len: int) -> pl.DataFrame:
    """The timeline with a column for each baseline's statistic; one that is not known takes the mean of all."""
    mu = float(known["rating"].to_numpy().mean())
    users = known.group_by("user_id").agg(pl.col("rating").mean().alias("user-mean"))
    items = known.group_by("item_id").agg(_shrunk(pl.col("rating"), mu).alias("item-mean"))
    residual = pl.col("rating") - pl.col("item-mean")
    biases = known.join(items, on="item_id").group_by("user_id").agg(user_bias=_shrunk(residual, 0.0))
    statistics = timeline
    for table, key in ((users, "user_id"), (biases, "user_id"), (items, "item_id")):
        statistics = statistics.join(table, on=key, how="left", maintain_order="left")
    before = pl.col("rating").cum_sum().shift(1, fill_value=0.0)
    told = pl.min_horizontal(pl.int_range(pl.len()), history_len)
    mean = (before - before.shift(history_len, fill_value=0.0)) / told
    return statistics.with_columns(
        pl.col("user-mean", "item-mean").fill_null(mu),
        # Rounded, or the running sum's last bits would tell apart histories whose means are equal.
        pl.when(told > 0).then(mean).otherwise(mu).round(9).over("user_id").alias("history-mean"),
    ).with_columns((pl.col("item-mean") + pl.col("user_bias").fill_null(0.0)).alias("user-item"))


def _shrunk(values: pl.Expr, towards: float) -> pl.Expr:
    """The mean of a group's values, drawn `towards` a number by `SHRINKAGE` imaginary rows."""
    return (values.sum() + SHRINKAGE * towards) / (values.len() + SHRINKAGE)


def _platt(fitted_on: pl.DataFrame, test: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """P(like) of the test rows by logistic regression on one statistic, shape (test rows,)."""
    from sklearn.linear_model import LogisticRegression

    if not len(test):
        return np.empty(0)
    # An L2 penalty of 1 on the slope, scikit-learn's default: nothing on thousands of rows, and finite on a few.
    model = LogisticRegression().fit(fitted_on.select(name).to_numpy(), fitted_on["liked"].to_numpy())
    probabilities: NDArray[np.float64] = model.predict_proba(test.select(name).to_numpy())[:, 1]
    return probabilities
