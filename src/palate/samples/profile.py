"""The figures of a log: what its ratings hold, and how many users and samples each `history_len` keeps."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from palate.config import PrepareConfig
from palate.errors import InputError
from palate.ratings.likes import NO_LIKE, REPEATED
from palate.ratings.load import Ratings
from palate.samples.build import Samples, checked_samples
from palate.samples.items import shown_items
from palate.samples.split import SPLITS

HISTORIES, CHOICES = (3, 5, 10, 15, 20, 30), (1, 2, 3, 5, 8, 10, 12, 15)
"""Lengths of a history that a profile compares, and those that it may choose."""
SHORTEST, KEPT = 3, 0.9
"""The chosen `history_len` keeps at least this share of the users that a history of `SHORTEST` items keeps."""
BALANCED = (0.25, 0.75)
"""Shares of Yes between which the usual threshold stays."""
MANY = 11
"""More distinct ratings than this are shown in ranges."""
QUANTILES = {"least": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "most": 1.0}
UNTITLED = "item without a title"
"""The reader's reason for a rating that it left out."""
FIRST_DATE = 10**8
"""Smaller times number the rows, and are no dates."""


@dataclass(frozen=True)
class Text:
    """A column of the item table as text: share of items that have one, distinct texts, and their characters."""

    column: str
    filled: float
    distinct: int
    mean: float
    longest: int
    example: str


@dataclass(frozen=True)
class Kept:
    """What a `history_len` keeps: users with more ratings than that, and their samples."""

    history_len: int
    users: int
    samples: int


@dataclass(frozen=True)
class Profile:
    """The figures of a log under some options; times are seconds since 1970."""

    name: str
    ratings: int
    users: int
    items: int
    """Items with ratings."""
    listed: int
    """Items of the item table."""
    density: float
    """Share of all pairs of a user and an item that have a rating."""
    times: tuple[int, int]
    scale: tuple[float, float]
    distribution: dict[float, int]
    """Ratings by their value, ascending."""
    tied: float
    """Share of the ratings at the time of another rating of the same user."""
    one_time: int
    """Users with several ratings, all of one time."""
    repeated: int
    """Ratings of an item that their user had rated before."""
    same_title: int
    """Rated items whose title another rated item has, too."""
    of_user: dict[str, float]
    """Quantiles of the ratings of a user."""
    of_item: dict[str, float]
    """Quantiles of the ratings of an item."""
    texts: tuple[Text, ...]
    dropped: dict[str, int]
    """Rows that the reader left out, by reason."""
    options: PrepareConfig
    samples: dict[str, int]
    """Samples by split; empty if there are none, see `problem`."""
    yes: dict[str, int]
    """Samples whose answer is Yes, by split."""
    problem: str | None
    """Why `palate prepare` would stop with these options."""
    sizes: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Ratings of each user, and of each rated item, both ascending."""
    by_time: NDArray[np.int64]
    """Ratings in equal parts of the time."""
    likes: bool = False
    """Whether the log has likes alone."""

    def keeps(self, history_len: int) -> Kept:
        """What a `history_len` keeps."""
        counts = self.sizes[0]
        more = counts[counts > history_len]
        return Kept(history_len, more.size, int((more - history_len).sum()))

    @property
    def kept(self) -> list[Kept]:
        """What the lengths of `HISTORIES`, the options' own and the chosen one keep."""
        return [self.keeps(n) for n in sorted({*HISTORIES, self.options.history_len, self.chosen_history_len})]

    def share_yes(self, threshold: float) -> float:
        """Share of the ratings that a threshold makes a Yes."""
        return sum(count for value, count in self.distribution.items() if value >= threshold) / self.ratings

    @property
    def dated(self) -> bool:
        """Whether the times are dates."""
        return self.times[1] >= FIRST_DATE

    @property
    def daily(self) -> bool:
        """Whether the times are whole days."""
        return self.dated and self.times[0] % 86_400 == 0 and self.times[1] % 86_400 == 0 and self.tied > 0.01

    @property
    def chosen_history_len(self) -> int:
        """The longest history, up to the default, that keeps most users."""
        wanted = KEPT * self.keeps(SHORTEST).users
        return max((n for n in CHOICES if self.keeps(n).users >= max(wanted, 1)), default=CHOICES[0])

    @property
    def chosen_threshold(self) -> float:
        """The default on a scale up to 5, if its share of Yes is balanced; else the value nearest to one half."""
        default = PrepareConfig().rating_threshold
        values = list(self.distribution)[1:]
        if self.scale[1] == 5 and BALANCED[0] <= self.share_yes(default) <= BALANCED[1]:
            return default
        return min(values, key=lambda value: abs(self.share_yes(value) - 0.5), default=default)


def profile_of(ratings: Ratings, options: PrepareConfig) -> Profile:
    """Measure a log, and what `palate prepare` would make of it with these options."""
    frame = ratings.frame
    of_user = frame.group_by("user_id").agg(pl.len(), times=pl.col("timestamp").n_unique())
    users = of_user["len"].to_numpy().astype(np.int64)
    items = frame.group_by("item_id").len()
    rated = shown_items(ratings.items).filter(pl.col("item_id").is_in(items["item_id"].implode()))
    moments = frame.group_by("user_id", "timestamp").len()["len"]
    values = frame["rating"].value_counts().sort("rating")
    sizes = np.sort(users), np.sort(items["len"].to_numpy().astype(np.int64))
    times = frame["timestamp"].to_numpy()
    samples, problem = _samples(ratings, options)
    return Profile(
        name=ratings.name,
        ratings=frame.height,
        users=users.size,
        items=items.height,
        listed=ratings.items.height,
        density=frame.height / (users.size * items.height),
        times=(int(times.min()), int(times.max())),
        scale=ratings.scale,
        distribution=dict(zip(values["rating"].to_list(), values["count"].to_list(), strict=True)),
        tied=int(moments.filter(moments > 1).sum()) / frame.height,
        one_time=of_user.filter((pl.col("len") > 1) & (pl.col("times") == 1)).height,
        repeated=frame.height - frame.select("user_id", "item_id").n_unique(),
        same_title=int(rated["title"].is_duplicated().sum()),
        of_user=_quantiles(sizes[0]),
        of_item=_quantiles(sizes[1]),
        texts=tuple(text for name in rated.columns if name != "item_id" and (text := _text(rated[name]))),
        dropped=ratings.dropped,
        options=options,
        samples={} if samples is None else {name: samples.of(name).size for name in SPLITS},
        yes={} if samples is None else {name: int(samples.label[samples.of(name)].sum()) for name in SPLITS},
        problem=problem,
        sizes=sizes,
        by_time=np.histogram(times, bins=60)[0],
        likes=ratings.likes is not None,
    )


class Bar(NamedTuple):
    """Ratings of one value, or of a range: `low` is the lowest rating, `begin` and `end` are the bar's place."""

    label: str
    low: float
    begin: float
    end: float
    ratings: int


def bars_of(profile: Profile) -> list[Bar]:
    """The distribution of the ratings: a bar for each value, or ten ranges of many values."""
    values = list(profile.distribution)
    if len(values) <= MANY:
        half = min((b - a for a, b in pairwise(values)), default=1.0) / 2
        return [Bar(f"{v:g}", v, v - half, v + half, count) for v, count in profile.distribution.items()]
    edges = np.linspace(values[0], values[-1], 11)
    counts, _ = np.histogram(values, bins=edges, weights=list(profile.distribution.values()))
    ranges = zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
    return [Bar(f"{low:.3g}–{high:.3g}", low, low, high, int(count)) for (low, high), count in ranges]


def figures(profile: Profile) -> dict[str, object]:
    """The profile as JSON's types, without the sizes and the ratings by time."""
    hidden = ("sizes", "by_time", "options", "texts", "distribution")
    plain = {name: value for name, value in vars(profile).items() if name not in hidden}
    return plain | {
        "dates": [date_of(time) for time in profile.times] if profile.dated else None,
        "distribution": [{"rating": value, "ratings": count} for value, count in profile.distribution.items()],
        "texts": [vars(text) for text in profile.texts],
        "prepare": profile.options.model_dump(mode="json"),
        "kept": [vars(kept) for kept in profile.kept],
        "chosen": {"history_len": profile.chosen_history_len, "rating_threshold": profile.chosen_threshold},
        "advice": advice(profile),
    }


def on_usual_scale(profile: Profile) -> bool:
    """Whether the ratings need no `ratings.scale` in a config."""
    return profile.scale[0] >= 0.5 and profile.scale[1] <= 5


def date_of(time: int) -> str:
    """A time as an ISO date in UTC."""
    return datetime.fromtimestamp(time, UTC).date().isoformat()


def advice(profile: Profile) -> list[str]:
    """What to change, each in one sentence with its figures; empty if nothing."""
    found, options = [], profile.options
    need, users = options.history_len, profile.users
    here, better = profile.keeps(need), profile.keeps(profile.chosen_history_len)
    if not on_usual_scale(profile) and not profile.likes:
        low, high = profile.scale
        found.append(f"ratings are from {low:g} to {high:g}: a config needs `ratings.scale: [{low:g}, {high:g}]`")
        second, rows = list(profile.distribution)[1:2], profile.distribution.get(low)
        if low in (-1, 0) and rows and second and second[0] >= 1 and high >= 5:
            found.append(
                f"if {low:g} means that there is no rating, `ratings.not_rated: {low:g}` leaves out {rows:,} rows"
            )
    untitled = profile.dropped.get(UNTITLED, 0)
    wrong = {reason: n for reason, n in profile.dropped.items() if reason not in (UNTITLED, NO_LIKE, REPEATED)}
    if wrong:
        first = next(iter(wrong))
        found.append(f"wrong rows: {sum(wrong.values()):,}, such as {first}; `--bad-rows skip` leaves them out")
    if untitled:
        found.append(f"ratings of items without a title: {untitled:,}; `--untitled drop` leaves them out")
    if better.users > here.users and here.users < KEPT * users:
        found.append(
            f"{users - here.users:,} of {users:,} users have too few ratings (<{need + 1}); "
            f"`history_len {better.history_len}` would keep {better.users:,}"
        )
    threshold, chosen = options.rating_threshold, profile.chosen_threshold
    yes = profile.share_yes(threshold)
    if not profile.likes and not BALANCED[0] <= yes <= BALANCED[1] and chosen != threshold:
        found.append(
            f"`rating_threshold {threshold:g}` makes {yes:.0%} of the ratings a Yes; "
            f"{chosen:g} would make it {profile.share_yes(chosen):.0%}"
        )
    if profile.daily:
        found.append(
            f"times are whole days: {profile.tied:.0%} of the ratings share their day with another of the user, "
            "and keep the order of the file"
        )
    elif profile.tied > 0.5:
        found.append(
            f"{profile.tied:.0%} of the ratings share their time with another of the user, and keep the order of the "
            "file"
        )
    if profile.one_time > 0.1 * users:
        found.append(f"{profile.one_time:,} users have one time for all their ratings, so no order")
    if profile.repeated:
        found.append(
            f"{profile.repeated:,} ratings repeat an item that the user had rated: "
            "a history can hold the candidate, see `palate audit`"
        )
    if profile.same_title:
        found.append(f"{profile.same_title:,} items share their title with another: in a prompt they are one")
    if profile.problem:
        found.append(f"`palate prepare` would stop: {profile.problem}")
    return found


def _samples(ratings: Ratings, options: PrepareConfig) -> tuple[Samples | None, str | None]:
    """The samples, or why there are none."""
    try:
        return checked_samples(ratings, options), None
    except InputError as error:
        return None, str(error)


def _quantiles(sizes: NDArray[np.int64]) -> dict[str, float]:
    """Quantiles of sizes, each a size that occurs."""
    found = np.quantile(sizes, list(QUANTILES.values()), method="inverted_cdf")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def _text(column: pl.Series) -> Text | None:
    """The figures of a column of the item table; None for lists and other values without one text."""
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        return None
    texts = column.cast(pl.String).fill_null("")
    filled = texts.filter(texts != "")
    if filled.is_empty():
        return Text(column.name, 0.0, 0, 0.0, 0, "")
    lengths = filled.str.len_chars().to_numpy()
    typical = filled[int(np.abs(lengths - np.median(lengths)).argmin())]
    filled_share, distinct = len(filled) / len(texts), filled.n_unique()
    return Text(column.name, filled_share, distinct, float(lengths.mean()), int(lengths.max()), typical)
