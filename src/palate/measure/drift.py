"""Drift: have the ratings that a service is given changed from those that its models learned from?

The population stability index compares the shares p and q of the same bins, PSI = Σ (q − p) ln(q / p), each count
raised by ½ so that an empty bin has a share. Without a change, PSI / (1/n + 1/m) of n and m ratings is about χ²
distributed with one degree of freedom less than there are bins (Yurdakul & Naranjo 2020, "Statistical properties of the
population stability index"), so few ratings give a high PSI by chance. The rule therefore has two parts: `moved` if PSI
exceeds both 0.1 and what chance gives in one of a hundred cases, `much` above 0.25; else `steady`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.measure.metrics import Metrics, measure
from palate.samples import Samples

MOVED, MUCH = 0.1, 0.25
"""The usual borders of the PSI."""
GROUPS = 10
"""Number of groups of items, and most bins of ratings."""
_Z99 = 2.3263478740408408
_PAIR = ["user_id", "item_id"]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Drift:
    """The change of one distribution."""

    of: str
    psi: float | None
    """None without ratings on one side."""
    chance: float | None
    """The PSI that chance exceeds in one of a hundred cases."""
    state: Literal["steady", "moved", "much", "unknown"]


@dataclass(frozen=True)
class Cold:
    """The share of what the models never learned from; None without ratings."""

    users: float | None
    """Of the users who rated."""
    ratings: float | None
    """Of the ratings: by users with fewer ratings before than a prompt shows."""
    items: float | None
    """Of the rated items."""
    catalogue: float
    """Of all items."""


@dataclass(frozen=True)
class Answered:
    """The probabilities of recommendations that were rated after they were shown."""

    model: str
    shown: int
    metrics: Metrics
    """Of the answered ones: `n`, `base_rate` (share liked), `slope`, `ece` with its floor, and the others."""
    mean_p: float | None


@dataclass(frozen=True)
class Findings:
    """What a service's store says about the run that it serves."""

    stored: int
    newer: int
    """Ratings that the run lacks; the others were learned from."""
    events: int
    drift: list[Drift]
    cold: Cold
    answered: list[Answered]


def psi(then: Counts, now: Counts) -> float:
    """The population stability index of two counts (bins,)."""
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (then, now))
    return float(((q - p) * np.log(q / p)).sum())


def chance(bins: int, then: int, now: int) -> float:
    """The PSI of `bins` bins that ratings of one distribution, `then` and `now` of them, exceed in 1 % of cases."""
    k = max(bins - 1, 1)  # the χ² quantile by Wilson & Hilferty (1931), within 1 % for k of 2 or more
    return float(k * (1 - 2 / (9 * k) + _Z99 * np.sqrt(2 / (9 * k))) ** 3 * (1 / then + 1 / now))


def drift(of: str, then: NDArray[np.int64], now: NDArray[np.int64]) -> Drift:
    """The drift of binned values (n,) and (m,); each value is the number of its bin."""
    if not then.size or not now.size:
        return Drift(of, None, None, "unknown")
    bins = int(max(then.max(), now.max())) + 1
    counts = [np.bincount(values, minlength=bins) for values in (then, now)]
    used = (counts[0] + counts[1]) > 0
    found, limit = psi(counts[0][used], counts[1][used]), chance(int(used.sum()), then.size, now.size)
    if found <= max(MOVED, limit):
        return Drift(of, found, limit, "steady")
    return Drift(of, found, limit, "much" if found > MUCH else "moved")


def findings(samples: Samples, ratings: pl.DataFrame, events: pl.DataFrame) -> Findings:
    """What ratings and events of a store (see `palate.serve.store.Store`) say about a run with these samples."""
    then, now = (_in_words(frame) for frame in (samples.timeline, ratings))
    newer = now.join(then, on=[*_PAIR, "timestamp"], how="anti", maintain_order="left")
    learned = then.filter(pl.col("split").cast(pl.String).is_in(["warmup", "train"]))
    by_user = _histories(pl.concat([then.select(newer.columns[:4]), newer.select(newer.columns[:4])], how="vertical"))
    late = by_user.join(newer, on=[*_PAIR, "timestamp"], how="semi")["before"].to_numpy()
    early = _histories(learned)["before"].to_numpy()
    of_item = learned.group_by("item_id").len().sort("len", "item_id", descending=[True, False])
    known = samples.items.height
    return Findings(
        stored=now.height,
        newer=newer.height,
        events=events.height,
        drift=[
            drift("ratings", *_rating_bins(learned["rating"].to_numpy(), newer["rating"].to_numpy())),
            drift("popularity of items", *_popularity(of_item, learned["item_id"], newer["item_id"])),
            drift("length of histories", *(np.frexp(part)[1].astype(np.int64) for part in (early, late))),
        ],
        cold=Cold(
            users=_share(~newer["user_id"].unique().is_in(learned["user_id"].unique().implode())),
            ratings=_share(pl.Series(late < samples.history_len)),
            items=_share(~newer["item_id"].unique().is_in(of_item["item_id"].implode())),
            catalogue=1 - of_item.height / known if known else 0.0,
        ),
        answered=answered(now, events, samples.threshold),
    )


def answered(ratings: pl.DataFrame, events: pl.DataFrame, threshold: float) -> list[Answered]:
    """Per model, the shown recommendations with a probability, and those that their user rated at that time or later.

    A rating answers the last time that the item was shown to the user before; of several ratings the first counts.
    """
    shown = events.filter((pl.col("event") == "shown") & pl.col("p").is_not_null()).with_columns(
        pl.col(_PAIR).cast(pl.String), pl.col("model").fill_null("unnamed")
    )
    given = ratings.select(pl.col(_PAIR).cast(pl.String), "rating", at="timestamp").sort("at", maintain_order=True)
    given, what = given.with_row_index("answer"), [*_PAIR, "model"]
    pairs = shown.join(given, on=_PAIR).filter(pl.col("at") >= pl.col("timestamp"))
    first = pairs.filter(pl.col("answer") == pl.col("answer").min().over(what))
    last = first.sort("timestamp", maintain_order=True).unique(what, keep="last", maintain_order=True)
    found = []
    for model in shown["model"].unique().sort():
        part = last.filter(model=model)
        p, users = part["p"].to_numpy(), part["user_id"].rank("dense").to_numpy().astype(np.int64)
        metrics = measure((part["rating"] >= threshold).to_numpy(), p, users)
        seen = shown.filter(model=model).select(_PAIR).unique().height
        found.append(Answered(model, seen, metrics, float(p.mean()) if p.size else None))
    return found


def _in_words(frame: pl.DataFrame) -> pl.DataFrame:
    """Ratings with ids as text: those of store and log may have different types."""
    rest = [name for name in frame.columns if name not in (*_PAIR, "rating", "timestamp")]
    return frame.select(pl.col(_PAIR).cast(pl.String), "rating", pl.col("timestamp").cast(pl.Int64), *rest)


def _histories(ratings: pl.DataFrame) -> pl.DataFrame:
    """The ratings by time, with the number of their user's ratings `before`."""
    return ratings.sort("timestamp", maintain_order=True).with_columns(before=pl.int_range(pl.len()).over("user_id"))


def _rating_bins(then: NDArray[np.float64], now: NDArray[np.float64]) -> tuple[Counts, Counts]:
    """The number of each rating's value among the distinct ones, or its decile if there are many."""
    edges = np.unique(np.concatenate([then, now]))
    if edges.size > GROUPS and then.size:
        edges = np.unique(np.quantile(then, np.linspace(0, 1, GROUPS + 1)[1:-1]))
    return np.searchsorted(edges, then, side="right"), np.searchsorted(edges, now, side="right")


def _popularity(of_item: pl.DataFrame, then: pl.Series, now: pl.Series) -> tuple[Counts, Counts]:
    """Groups of items from popular to rare, each with a tenth of the learned ratings; one more for new items."""
    before = of_item["len"].cum_sum() - of_item["len"]
    group = (before * GROUPS // max(int(of_item["len"].sum()), 1)).cast(pl.Int64)
    place = pl.DataFrame({"item_id": of_item["item_id"], "group": group})
    first, second = (
        part.to_frame("item_id").join(place, on="item_id", how="left")["group"].fill_null(GROUPS).to_numpy()
        for part in (then, now)
    )
    return first, second


def _share(is_so: pl.Series) -> float | None:
    return float(is_so.mean()) if is_so.len() else None  # type: ignore[arg-type]
