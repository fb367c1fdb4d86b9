"""Baselines for Alpaca examples, which say less of users and items than a timeline does.

    constant       the training base rate; one half where there are no training examples
    history-share  the share of likes in the history, where the text is worded as TALLRec's (Bao et al. 2023)
    user-mean      the user's mean label in the training examples, where the file names users
    item-mean      the target's mean label in them, shrunk: (likes + k μ) / (count + k), k = 5

Each statistic becomes a probability by Platt scaling on validation; without validation it is taken as it stands, or,
where it knows no label, scaled on training. TALLRec's wording is

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
    """What is known of n examples: labels; share of likes in the history, user and target where they are told."""

    label: Labels
    share: Scores | None = None
    user: pl.Series | None = None
    target: pl.Series | None = None


def text_statistics(frame: pl.DataFrame, answers: Answers) -> TextStatistics:
    """What a file's examples say of themselves."""
    found = preferences_of(frame["input"])
    user, item = (frame.get_column(name, default=None) for name in ("user_id", "item_id"))
    if found is None:
        return TextStatistics(labels_of(frame, answers), None, user, item)
    return TextStatistics(
        labels_of(frame, answers), found["share"].to_numpy(), user, found["target"] if item is None else item
    )


def preferences_of(texts: pl.Series) -> pl.DataFrame | None:
    """What the `input` texts say: numbers of items `liked` and `disliked`, the `share` of likes, the `target`'s title.

    The share of an empty history is one half. None unless every text has TALLRec's shape.
    """
    groups = texts.str.extract_groups(_SHAPE).struct.unnest()
    if groups.height == 0 or any(column.null_count() for column in groups):
        return None
    # Titles stand in quotes, `"A", "B"`, for books with ` written by C, Jr.` behind each.
    liked, disliked = (
        pl.when(pl.nth(n).str.strip_chars() == "").then(0).otherwise(pl.nth(n).str.count_matches(', "') + 1)
        for n in (0, 1)
    )
    target = pl.nth(2).str.strip_chars()
    counts = groups.select(liked=liked.cast(pl.Int64), disliked=disliked.cast(pl.Int64), target=target)
    told = pl.col("liked") + pl.col("disliked")
    return counts.with_columns(share=pl.when(told > 0).then(pl.col("liked") / told).otherwise(0.5))


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
