"""Slices: for whom and for what a model is better than the best baseline, and where it is worse.

A slice is a part of the test rows that share something which was known before they were asked. Each is measured on its
own rows, with intervals over its own users. The baseline is the same in every slice: the best one of each would be
picked by the noise that it is then compared on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.measure.bootstrap import Interval, bootstrap, interval
from palate.measure.metrics import CLIP, Users, measure
from palate.measure.paired import Paired, paired
from palate.progress import Meter
from palate.samples import Samples
from palate.samples.items import NO_GENRES, NO_YEAR, shown_items
from palate.samples.queries import Labels, RowNumbers, Scores, item_rows

METRICS = ("auc", "gauc", "log_loss")
FEW_USERS, FEW_ROWS = 30, 10
"""A slice is small below so many users, or so many rows of either class: its interval is too narrow to believe."""
WARMTH = (1, 10, 50)
"""From how many training rows on a user or an item is less cold."""
OLD = 1950
"""Films before this year are one slice."""
EXAMPLES = 5

SlicePart = tuple[str, str, NDArray[np.int64]]
"""A dimension, the name of a slice of it, and its rows, as indices into the measured ones."""


@dataclass(frozen=True)
class Measured:
    """A metric's value on a slice; None where it is not defined there, or has no interval."""

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
    """Share of liked rows; None where there are none."""
    small: bool
    """Whether there are too few users or rows of a class to take the figures at their word."""
    metrics: dict[str, dict[str, Measured]]
    """By model, then by metric: auc, gauc and log_loss."""
    differences: list[Paired]
    """The model minus the baseline, metric by metric."""

    def difference(self, metric: str) -> Paired:
        """The model minus the baseline in one metric."""
        return {pair.metric: pair for pair in self.differences}[metric]


@dataclass(frozen=True)
class SliceRow:
    """A row on which model and baseline disagree most."""

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
    """What the model's log loss on the row is below the baseline's, in nats."""


@dataclass(frozen=True)
class Slices:
    """All slices, and the rows where the model gains and loses most, one a user."""

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
        """What the rows were sliced by."""
        return list(dict.fromkeys(part.dimension for part in self.slices))

    def ahead(self, key: str, metric: str = "auc") -> list[Slice]:
        """Slices, small ones left out, whose whole interval favours `key`, model or baseline; the clearest first.

        With as many slices as there are, one in twenty does so by chance, one in forty for either side.
        """
        found = [part for part in self.slices if not part.small and part.difference(metric).better == key]
        return sorted(found, key=lambda part: -abs(part.difference(metric).value or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON's own types."""
        return asdict(self)


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

    `rows` are the rows' indices within the split, (n,); None: all of them. Keys of `scores` beside the two are
    measured too. Raises `KeyError` if one of both is not among the scores.
    """
    test = samples.of(split)
    chosen = np.arange(len(test)) if rows is None else np.asarray(rows, dtype=np.int64)
    own = test[chosen]
    y, position = samples.label[own], samples.position[own]
    users = _user_codes(samples)[position]
    parts = slices_of(samples, position)
    found = []
    with Meter("slices", len(parts), "slices") as meter:
        for dimension, label, part in parts:
            inside = {key: p[part] for key, p in scores.items()}
            found.append(_measured(dimension, label, y[part], users[part], inside, (model, baseline), resamples, seed))
            meter.advance(1)
    gain = _nats(y, scores[baseline]) - _nats(y, scores[model])
    told = chosen, y, position, scores[model], scores[baseline], gain
    wins, losses = (_examples(samples, *told, chosen=_best_of_users(by, users)) for by in (gain, -gain))
    return Slices(model, baseline, resamples, seed, found, wins, losses)


def slices_of(samples: Samples, position: RowNumbers) -> list[SlicePart]:
    """The slices of samples at `position` (n,): fixed ones are there though they be empty.

    Training rows are those of the role "train" for users, and "train" or "warmup" for items: what may be learned from.
    """
    users, items = _user_codes(samples), item_rows(samples)
    user, item = users[position], items[position]
    role = samples.timeline["split"]
    train = (role == "train").to_numpy()
    known = train | (role == "warmup").to_numpy()
    of_user = np.bincount(users[train], minlength=int(users.max(initial=0)) + 1)[user]
    of_item = np.bincount(items[known], minlength=samples.items.height)[item]
    before = position - np.searchsorted(users, user)
    total = np.concatenate([[0.0], np.cumsum(samples.timeline["rating"].to_numpy())])
    shown = before.clip(max=samples.history_len)  # given splits ask of users with few ratings, or none, before
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


def _user_codes(samples: Samples) -> Users:
    """The number of the user of each timeline row, (rows,) int64, ascending."""
    return samples.timeline["user_id"].rle_id().to_numpy().astype(np.int64)


def _warmth(dimension: str, counts: NDArray[np.int64]) -> list[SlicePart]:
    """From cold to warm, by fixed numbers of training rows."""
    ends = [f"{low:,} to {high - 1:,}" for low, high in pairwise(WARMTH)]
    names = ["cold: none", *ends, f"{WARMTH[-1]:,} or more"]
    band = np.searchsorted(WARMTH, counts, side="right")
    return [(dimension, name, np.flatnonzero(band == i)) for i, name in enumerate(names)]


def _bands(
    dimension: str, values: NDArray[Any], bands: int, shown: str, there: NDArray[np.bool_] | None = None
) -> list[SlicePart]:
    """About equally many rows each, equal values together, named by the lowest and highest value; before them one of
    the rows that have no value, if not all are `there`."""
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
    """By decade of release; none where no item tells its year."""
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
    # "before" comes first, "unknown" last, which is not their order as text.
    names = sorted(decade.unique(), key=lambda name: (name == NO_YEAR, name[0].isdigit(), name))
    return [("release year", name, (decade == name).arg_true().to_numpy().astype(np.int64)) for name in names]


def _genres(items: pl.DataFrame, item: RowNumbers) -> list[SlicePart]:
    """By genre, an item in each of its own, the most frequent first; none where the table has no genres."""
    if items.schema.get("genres") != pl.String:
        return []
    listed = (
        items["genres"].fill_null("").replace({"(no genres listed)": "", NO_GENRES: ""}).str.split("|").gather(item)
    )
    rows = pl.DataFrame({"genre": listed}).with_row_index("at").explode("genre").unique(maintain_order=True)
    groups = rows.group_by("genre").agg("at").sort(pl.col("at").list.len(), "genre", descending=[True, False])
    return [("genre", genre or NO_GENRES, np.array(at, dtype=np.int64)) for genre, at in groups.iter_rows()]


def _measured(
    dimension: str,
    label: str,
    y: Labels,
    users: Users,
    scores: Mapping[str, Scores],
    pair: tuple[str, str],
    resamples: int,
    seed: int,
) -> Slice:
    """One slice."""
    replicates = bootstrap(y, users, scores, resamples=resamples, seed=seed)
    values = {key: asdict(measure(y, p, users)) for key, p in scores.items()}
    first, second = pair
    asked = len(np.unique(users))
    return Slice(
        dimension=dimension,
        label=label,
        n=len(y),
        users=asked,
        base_rate=float(y.mean()) if len(y) else None,
        small=asked < FEW_USERS or min(int(y.sum()), int((~y).sum())) < FEW_ROWS,
        metrics={
            key: {name: Measured(values[key][name], interval(replicates[key].get(name))) for name in METRICS}
            for key in scores
        },
        differences=[
            paired(
                name,
                pair,
                (values[first][name], values[second][name]),
                (replicates[first].get(name), replicates[second].get(name)),
            )
            for name in METRICS
        ],
    )


def _nats(y: Labels, p: Scores) -> NDArray[np.float64]:
    """The log loss of each row, (n,)."""
    clipped = p.clip(CLIP, 1 - CLIP)
    losses: NDArray[np.float64] = -np.log(np.where(y, clipped, 1 - clipped))
    return losses


def _examples(
    samples: Samples,
    rows: NDArray[np.int64],
    y: Labels,
    position: RowNumbers,
    model: Scores,
    baseline: Scores,
    gain: NDArray[np.float64],
    *,
    chosen: NDArray[np.int64],
) -> list[SliceRow]:
    """What is told of the chosen ones of the rows; all but `chosen` (at most `EXAMPLES`,) have shape (n,)."""
    at = position[chosen]
    users, items = (samples.timeline[name].gather(at).to_list() for name in ("user_id", "item_id"))
    titles = samples.items["title"].gather(item_rows(samples, at)).to_list()
    columns = (column[chosen].tolist() for column in (rows, y, model, baseline, gain))
    return [
        SliceRow(row, user, item, title, label, p, other, gained)
        for user, item, title, row, label, p, other, gained in zip(users, items, titles, *columns, strict=True)
    ]


def _best_of_users(gain: NDArray[np.float64], users: Users) -> NDArray[np.int64]:
    """The rows of greatest gain, at most one a user, and only where there is one."""
    order = np.argsort(-gain, kind="stable")
    first = np.sort(np.unique(users[order], return_index=True)[1])
    best = order[first][:EXAMPLES]
    return best[gain[best] > 0]
