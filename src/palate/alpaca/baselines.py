"""Baselines for Alpaca examples, which say less of users and items than a timeline does.

    constant       the training base rate; one half where there are no training examples
    history-share  the share of likes in the history, where the text is worded as TALLRec's
    user-mean      the user's mean label in the training examples, where the file names users
    item-mean      the target's mean label in them, shrunk: (likes + k μ) / (count + k), k = 5

Each statistic becomes a probability by Platt scaling on validation; without validation it is taken as it stands, or,
where it knows no label, scaled on training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from palate.samples.context import shrunk
from palate.samples.queries import Labels, Scores

EXAMPLE_BASELINES = {
    "constant": "constant (training base rate)",
    "history-share": "share of likes in the history",
    "user-mean": "user mean",
    "item-mean": "item mean",
}
CHANCE = "constant (one half)"


@dataclass(frozen=True)
class TextStatistics:
    """What is known of n examples: labels; share of likes in the history, user and target where they are told."""

    label: Labels
    share: Scores | None = None
    user: pl.Series | None = None
    target: pl.Series | None = None


def example_baselines(
    test: TextStatistics, train: TextStatistics | None, val: TextStatistics | None
) -> tuple[dict[str, Scores], dict[str, str]]:
    """P(like) of each baseline that can be had for the `test` examples, (n,) float64, and what tables call them."""
    names = dict(EXAMPLE_BASELINES)
    base = 0.5 if train is None else float(train.label.mean())
    if train is None:
        names["constant"] = CHANCE
    found = {"constant": np.full(test.label.size, base)}
    if test.share is not None:
        fitted_on = [(part.share, part.label) for part in (val, train) if part is not None and part.share is not None]
        found["history-share"] = _scaled(test.share, fitted_on)
    for key, role in (("user-mean", "user"), ("item-mean", "target")):
        asked = getattr(test, role)
        if train is None or asked is None or (known := getattr(train, role)) is None:
            continue
        if not asked.is_in(known.unique().implode()).any():
            continue  # of nobody that is asked of
        there = None if val is None else getattr(val, role)
        fitted_on = [] if there is None or val is None else [(_mean(there, known, train.label), val.label)]
        found[key] = _scaled(_mean(asked, known, train.label), fitted_on)
    return found, {key: names[key] for key in found}


def _mean(asked: pl.Series, known: pl.Series, label: Labels) -> Scores:
    """The mean label of what is asked among what is known, shrunk to the mean of all."""
    mu = float(label.mean())
    table = pl.DataFrame({"key": known, "label": label}).group_by("key").agg(pl.len(), pl.col("label").sum())
    means = table.select("key", mean=shrunk(table["label"].to_numpy(), table["len"].to_numpy(), mu))
    joined = pl.DataFrame({"key": asked}).join(means, on="key", how="left", maintain_order="left")
    return joined["mean"].fill_null(mu).to_numpy()


def _scaled(statistic: Scores, fitted_on: Sequence[tuple[Scores, Labels]]) -> Scores:
    """P(like) by logistic regression on one statistic, fitted where both classes are; else the statistic itself."""
    from sklearn.linear_model import LogisticRegression

    for known, label in fitted_on:
        if label.any() and not label.all():
            model = LogisticRegression().fit(known[:, None], label)
            scaled: Scores = model.predict_proba(statistic[:, None])[:, 1]
            return scaled
    return statistic
