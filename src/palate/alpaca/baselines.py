"""Baselines for Alpaca examples, which have less data on users and items than a timeline.

    constant       the training base rate; one half where there are no training examples
    history-share  the share of likes in the history, if the text has TALLRec's wording (Bao et al. 2023)
    user-mean      the user's mean label in the training examples, if the file names users
    item-mean      the target's mean label in the training examples; both are shrunk: (likes + k μ) / (count + k), k = 5

Platt scaling on validation turns each statistic into a probability. Without validation, history-share is scaled on
training; the means, which contain the training labels, are used unscaled. TALLRec's wording is

    User Preference: "Alien (1979)", "Heat (1995)"
    User Unpreference: "In & Out (1997)"
    Whether the user will like the target movie "Scream (1996)"?
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from palate.alpaca.answers import Answers, labels_of
from palate.samples.context import shrunk
from palate.samples.queries import Labels, Scores

EXAMPLE_BASELINES = {
    "constant": "constant (training base rate)",
    "history-share": "share of likes in the history",
    "user-mean": "user mean",
    "item-mean": "item mean",
}
CHANCE = "constant (one half)"
_SHAPE = (
    r"(?s)\A\s*User Preference:(.*?)\n\s*User Unpreference:(.*?)"
    r"\n\s*Whether the user will like the target \w+ (.*)\?\s*\z"
)


@dataclass(frozen=True)
class TextStatistics:
    """Columns of n examples: the label, and, if the file has them, share of likes in the history, user and target."""

    label: Labels
    share: Scores | None = None
    user: pl.Series | None = None
    target: pl.Series | None = None


def text_statistics(frame: pl.DataFrame, answers: Answers) -> TextStatistics:
    """Extract the statistics from the examples of a file."""
    preferences = preferences_of(frame["input"])
    user, item = (frame.get_column(name, default=None) for name in ("user_id", "item_id"))
    label = labels_of(frame, answers)
    if preferences is None:
        return TextStatistics(label, None, user, item)
    target = preferences["target"] if item is None else item
    return TextStatistics(label, preferences["share"].to_numpy(), user, target)


def preferences_of(texts: pl.Series) -> pl.DataFrame | None:
    """Parse `input` texts: numbers of items `liked` and `disliked`, the `share` of likes, and the `target`'s title.

    The share of an empty history is one half. Returns None unless every text has TALLRec's wording.
    """
    groups = texts.str.extract_groups(_SHAPE).struct.unnest()
    if groups.height == 0 or any(column.null_count() for column in groups):
        return None
    # The text quotes titles: `"A", "B"`; books have ` written by C, Jr.` after each.
    liked, disliked = (
        pl.when(pl.nth(n).str.strip_chars() == "").then(0).otherwise(pl.nth(n).str.count_matches(', "') + 1)
        for n in (0, 1)
    )
    target = pl.nth(2).str.strip_chars()
    counts = groups.select(liked=liked.cast(pl.Int64), disliked=disliked.cast(pl.Int64), target=target)
    total = pl.col("liked") + pl.col("disliked")
    return counts.with_columns(share=pl.when(total > 0).then(pl.col("liked") / total).otherwise(0.5))


def example_baselines(
    test: TextStatistics, train: TextStatistics | None, val: TextStatistics | None
) -> tuple[dict[str, Scores], dict[str, str]]:
    """P(like) of each baseline that the data allows for the `test` examples, (n,) float64; and the names in tables."""
    names = dict(EXAMPLE_BASELINES)
    base = 0.5 if train is None else float(train.label.mean())
    if train is None:
        names["constant"] = CHANCE
    found = {"constant": np.full(test.label.size, base)}
    if test.share is not None:
        fitted_on = [(part.share, part.label) for part in (val, train) if part is not None and part.share is not None]
        found["history-share"] = _scaled(test.share, fitted_on)
    for key, role in (("user-mean", "user"), ("item-mean", "target")):
        test_ids = getattr(test, role)
        if train is None or test_ids is None or (train_ids := getattr(train, role)) is None:
            continue
        if not test_ids.is_in(train_ids.unique().implode()).any():
            continue
        val_ids = None if val is None else getattr(val, role)
        fitted_on = [] if val_ids is None or val is None else [(_mean(val_ids, train_ids, train.label), val.label)]
        found[key] = _scaled(_mean(test_ids, train_ids, train.label), fitted_on)
    return found, {key: names[key] for key in found}


def _mean(ids: pl.Series, train_ids: pl.Series, label: Labels) -> Scores:
    """The mean training label of each of `ids`, shrunk to the mean of all."""
    mu = float(label.mean())
    table = pl.DataFrame({"key": train_ids, "label": label}).group_by("key").agg(pl.len(), pl.col("label").sum())
    means = table.select("key", mean=shrunk(table["label"].to_numpy(), table["len"].to_numpy(), mu))
    joined = pl.DataFrame({"key": ids}).join(means, on="key", how="left", maintain_order="left")
    return joined["mean"].fill_null(mu).to_numpy()


def _scaled(statistic: Scores, fitted_on: Sequence[tuple[Scores, Labels]]) -> Scores:
    """P(like) by logistic regression, fitted on the first part with both classes; without one, the statistic itself."""
    from sklearn.linear_model import LogisticRegression

    for values, label in fitted_on:
        if label.any() and not label.all():
            model = LogisticRegression().fit(values[:, None], label)
            scaled: Scores = model.predict_proba(statistic[:, None])[:, 1]
            return scaled
    return statistic
