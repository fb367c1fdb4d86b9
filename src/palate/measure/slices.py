"""Slices: the groups of users and items for which a model is better or worse than the best baseline.

A slice is a group of test rows that share a property known before the rating. Each slice has metrics of its rows, with
intervals over its users. All slices use the same baseline: choosing the best one per slice would select noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.measure.bootstrap import Interval, bootstrap, interval
from palate.measure.metrics import Users, measure, metrics_in, nats
from palate.measure.paired import Paired, SameRows, paired_metrics
from palate.progress import Meter
from palate.samples import Samples
from palate.samples.items import NO_GENRES, NO_YEAR, shown_items
from palate.samples.queries import RowNumbers, Scores, candidate_rows, item_rows

FEW_USERS, FEW_ROWS = 30, 10
"""A slice with fewer users, or fewer rows of either class, is small: its interval is unreliable."""
WARMTH = (1, 10, 50)
"""Lower bounds, in training rows of a user or an item, of the bands from cold to warm."""
OLD = 1950
"""Items before this year form one slice."""
EXAMPLES = 5

SlicePart = tuple[str, str, NDArray[np.int64]]
"""A dimension, the name of a slice of it, and its rows, as indices into the measured ones."""


@dataclass(frozen=True)
class Measured:
    """A metric on a slice; None for an undefined value or interval."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Slice:
    """One part of the rows. Slices of genres overlap, those of other dimensions do not."""

    dimension: str
    label: str
    n: int
    users: int
    base_rate: float | None
    """Share of liked rows; None without rows."""
    small: bool
    """Whether too few users or rows of a class make the metrics unreliable."""
    metrics: dict[str, dict[str, Measured]]
    """By model, then by metric."""
    differences: list[Paired]
    """The model minus the baseline, metric by metric."""

    def difference(self, metric: str) -> Paired:
        """The model minus the baseline in one metric."""
        return {pair.metric: pair for pair in self.differences}[metric]


@dataclass(frozen=True)
class SliceRow:
    """A row with one of the largest differences between model and baseline."""

    row: int
    """Index within the split."""
    user_id: int | str
    item_id: int | str
    title: str
    label: bool
    model: float
    """P(like) of the model."""
    baseline: float
    gain: float
    """The baseline's log loss on the row minus the model's, in nats."""


@dataclass(frozen=True)
class Slices:
    """All slices, and the rows where the model gains and loses most, at most one per user."""

    model: str
    baseline: str
    resamples: int
    seed: int
    slices: list[Slice]
    wins: list[SliceRow]
    losses: list[SliceRow]

    def of(self, dimension: str) -> list[Slice]:
        """The slices of one dimension, in its order."""
        return [part for part in self.slices if part.dimension == dimension]

    @property
    def dimensions(self) -> list[str]:
        """The dimensions of the slices."""
        return list(dict.fromkeys(part.dimension for part in self.slices))

    def ahead(self, key: str, metric: str = "auc") -> list[Slice]:
        """Slices, without small ones, whose whole interval favours `key` (model or baseline); the largest first.

        One slice in twenty does so by chance, one in forty for either side.
        """
        found = [part for part in self.slices if not part.small and part.difference(metric).better == key]
        return sorted(found, key=lambda part: -abs(part.difference(metric).value or 0.0))


def measure_slices(
    samples: Samples,
    scores: Mapping[str, Scores],
    *,
    model: str,
    baseline: str,
    rows: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    split: str = "test",
    resamples: int = 1000,
    seed: int = 13,
) -> Slices:
    """Measure `scores` (each (n,) float64 in [0, 1]) on every slice of n rows, and `model` against `baseline`.

    `rows` are the rows' indices within the split, (n,); None: all. Other keys of `scores` get metrics too. Raises
    `KeyError` if `scores` lacks `model` or `baseline`.
    """
    test = samples.of(split)
    chosen = np.arange(len(test)) if rows is None else np.asarray(rows, dtype=np.int64)
    own = test[chosen]
    y, position = samples.label[own], samples.position[own]
    users = samples.user[position]
    item = candidate_rows(samples, own)
    parts = slices_of(samples, position, item)
    found, sampled = [], samples.likes is not None
    with Meter("slices", len(parts), "slices") as meter:
        for dimension, label, part in parts:
            same = SameRows(part, y[part], users[part], {key: p[part] for key, p in scores.items()})
            found.append(_measured(dimension, label, same, (model, baseline), resamples, seed, sampled=sampled))
            meter.advance(1)
    pairs = pl.DataFrame([samples.timeline["user_id"].gather(position), samples.items["item_id"].gather(item)])
    titles = samples.items["title"].gather(item)
    columns = {"row": chosen, "label": y, "model": scores[model], "baseline": scores[baseline]}
    gain = nats(y, scores[baseline]) - nats(y, scores[model])
    table = pairs.with_columns(title=titles, gain=pl.Series(gain), **{key: pl.Series(c) for key, c in columns.items()})
    wins, losses = (
        [SliceRow(**row) for row in table[_best_of_users(by, users)].iter_rows(named=True)] for by in (gain, -gain)
    )
    return Slices(model, baseline, resamples, seed, found, wins, losses)


def slices_of(samples: Samples, position: RowNumbers, item: RowNumbers | None = None) -> list[SlicePart]:
    """The slices of samples at `position` (n,); fixed slices exist even if they are empty.

    `item` (n,) are the candidates, rows of the item table; None: those of the timeline rows.

    Training rows have the role "train" for users, and "train" or "warmup" for items.
    """
    users, items = samples.user, item_rows(samples)
    user, item = users[position], items[position] if item is None else item
    role = samples.timeline["split"]
    train = (role == "train").to_numpy()
    known = train | (role == "warmup").to_numpy()
    of_user = np.bincount(users[train], minlength=int(users.max(initial=0)) + 1)[user]
    of_item = np.bincount(items[known], minlength=samples.items.height)[item]
    before = position - np.searchsorted(users, user)
    total = np.concatenate([[0.0], np.cumsum(samples.timeline["rating"].to_numpy())])
    shown = before.clip(max=samples.history_len)  # given splits contain samples with few or no earlier ratings
    mean = ((total[position] - total[position - shown]) / shown.clip(min=1)).round(9)
    return [
        *_warmth("training samples of the user", of_user),
        *_warmth("training ratings of the item", of_item),
        *_bands("popularity of the item, tenths of the rows", of_item, 10, "{:,}"),
        *_bands("ratings of the user so far", before, 5, "{:,}"),
        *_bands("mean of the history", mean, 5, "{:.2f}", shown > 0),
        *_years(samples.items, item),
        *_genres(samples.items, item),
    ]


def _warmth(dimension: str, counts: NDArray[np.int64]) -> list[SlicePart]:
    """Slices from cold to warm, by fixed numbers of training rows."""
    ends = [f"{low:,} to {high - 1:,}" for low, high in pairwise(WARMTH)]
    names = ["cold: none", *ends, f"{WARMTH[-1]:,} or more"]
    band = np.searchsorted(WARMTH, counts, side="right")
    return [(dimension, name, np.flatnonzero(band == i)) for i, name in enumerate(names)]


def _bands(
    dimension: str, values: NDArray[Any], bands: int, shown: str, there: NDArray[np.bool_] | None = None
) -> list[SlicePart]:
    """Slices of about equal size, named by their lowest and highest value; equal values share a slice.

    The first slice has the rows without a value (not `there`), if any.
    """
    parts = [] if there is None or there.all() else [(dimension, "none", np.flatnonzero(~there))]
    rows = np.arange(len(values)) if there is None else np.flatnonzero(there)
    if not len(rows):
        return parts
    inner = np.quantile(values[rows], np.arange(1, bands) / bands, method="inverted_cdf")
    band = np.searchsorted(np.unique(inner), values[rows], side="left")
    for one in np.unique(band):
        part = rows[band == one]
        low, high = (shown.format(value) for value in (values[part].min(), values[part].max()))
        parts.append((dimension, low if low == high else f"{low} to {high}", part))
    return parts


def _years(items: pl.DataFrame, item: RowNumbers) -> list[SlicePart]:
    """Slices by decade of release; none if no item has a year."""
    shown = shown_items(items)
    if "year" not in shown.columns:
        return []
    year = shown["year"].cast(pl.Int64, strict=False).gather(item)
    decade = pl.select(
        pl.when(year.is_null())
        .then(pl.lit(NO_YEAR))
        .when(year < OLD)
        .then(pl.lit(f"before {OLD}"))
        .otherwise((year // 10 * 10).cast(pl.String) + "s")
    ).to_series()
    # Alphabetical order would not put "before" first and "unknown" last.
    names = sorted(decade.unique(), key=lambda name: (name == NO_YEAR, name[0].isdigit(), name))
    return [("release year", name, (decade == name).arg_true().to_numpy().astype(np.int64)) for name in names]


def _genres(items: pl.DataFrame, item: RowNumbers) -> list[SlicePart]:
    """Slices by genre, the most frequent first, with an item in each of its genres; none without a genres column."""
    if items.schema.get("genres") != pl.String:
        return []
    listed = (
        items["genres"].fill_null("").replace({"(no genres listed)": "", NO_GENRES: ""}).str.split("|").gather(item)
    )
    rows = pl.DataFrame({"genre": listed}).with_row_index("at").explode("genre").unique(maintain_order=True)
    groups = rows.group_by("genre").agg("at").sort(pl.col("at").list.len(), "genre", descending=[True, False])
    return [("genre", genre or NO_GENRES, np.array(at, dtype=np.int64)) for genre, at in groups.iter_rows()]


def _measured(
    dimension: str, label: str, same: SameRows, pair: tuple[str, str], resamples: int, seed: int, *, sampled: bool
) -> Slice:
    """Measure one slice."""
    replicates = bootstrap(same.y, same.users, same.scores, resamples=resamples, seed=seed)
    values = {key: asdict(measure(same.y, p, same.users, sampled=sampled)) for key, p in same.scores.items()}
    n, count, liked = len(same.y), len(np.unique(same.users)), int(same.y.sum())
    keys = [metric.key for metric in metrics_in("slices", sampled=sampled)]
    return Slice(
        dimension=dimension,
        label=label,
        n=n,
        users=count,
        base_rate=float(same.y.mean()) if n else None,
        small=count < FEW_USERS or min(liked, n - liked) < FEW_ROWS,
        metrics={
            model: {key: Measured(metrics[key], interval(replicates[model].get(key))) for key in keys}
            for model, metrics in values.items()
        },
        differences=paired_metrics("slices", [pair], values, replicates),
    )


def _best_of_users(gain: NDArray[np.float64], users: Users) -> NDArray[np.int64]:
    """The rows of largest positive gain, at most one per user."""
    order = np.argsort(-gain, kind="stable")
    first = np.sort(np.unique(users[order], return_index=True)[1])
    best = order[first][:EXAMPLES]
    return best[gain[best] > 0]
