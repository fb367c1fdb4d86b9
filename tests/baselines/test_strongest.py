"""The features of the strongest baseline against plain NumPy, one question at a time."""

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.rated import samples_of
from tests.timelines import random_timeline, split_by_user_and_time

from palate.baselines import pasts, strongest, views
from palate.baselines.features import features_of
from palate.baselines.pasts import Log, PastQueries, ridge_side
from palate.baselines.people import about
from palate.baselines.statistics import BaselineData
from palate.baselines.views import NORM, Catalogue, views_of
from palate.samples import Samples
from palate.samples.people import Person
from palate.samples.queries import Queries

GROUPS = ("moment", "alike", "spread", "alike-then", "spread-then")


def among_one_another(timeline: pl.DataFrame, moments: int = 120) -> pl.DataFrame:
    """The same ratings at few moments, the users' spans overlapping."""
    rng = np.random.default_rng(8)
    start = rng.integers(moments // 2, size=1 + int(timeline["user_id"].max()))  # type: ignore[arg-type]
    row = timeline.select(pl.int_range(pl.len()).over("user_id")).to_series().to_numpy()
    return timeline.with_columns(timestamp=600 * (start[timeline["user_id"].to_numpy()] + row // 2))


SAMPLES = samples_of(among_one_another(random_timeline()))
DATA = BaselineData.of(SAMPLES)
TIME = SAMPLES.timeline["timestamp"].to_numpy()
LOG = Log(DATA.first, DATA.item, DATA.rating)


def some(data: BaselineData = DATA, count: int = 30, seed: int = 1) -> Queries:
    rng = np.random.default_rng(seed)
    anchors = np.flatnonzero(data.first != np.arange(len(data.first)))
    return Queries(rng.choice(anchors, count), rng.integers(len(data.samples.items), size=count))


def columns(data: BaselineData, queries: Queries, group: str) -> dict[str, np.ndarray]:
    names, matrix = features_of(data, queries, [group])
    return dict(zip(names, matrix.T, strict=True))


def scanned(scan: object, data: BaselineData, queries: Queries, *, then: bool) -> np.ndarray:
    of = views_of(data, then=then)
    order = np.argsort(queries.anchor, kind="stable")
    log = Log(data.first, data.item, data.rating)
    memory = (pasts.Past.empty(256, 1000), 0) if scan is pasts.alike else ()
    asked = PastQueries(*vars_of(queries), order, of.of_row[queries.anchor])
    found: np.ndarray = scan(asked, log, of.catalogue, *memory)  # type: ignore[operator]
    return found


def vars_of(queries: Queries) -> tuple[np.ndarray, np.ndarray]:
    return queries.anchor, queries.item


def view_rows(data: BaselineData, anchor: int, *, then: bool) -> np.ndarray:
    """The training ratings that a view may have, by its definition."""
    if not then:
        return np.flatnonzero(data.allowed & (data.fold != data.fold[anchor]))
    time = data.samples.timeline["timestamp"].to_numpy()
    known = np.sort(time[data.allowed])
    begins = {int(np.quantile(known, q / 21, method="lower")) for q in range(1, 21)} | {int(known[-1]) + 1}
    last = max((begin for begin in begins if begin <= time[anchor]), default=-1)
    return np.flatnonzero(data.allowed & (time < last))


def plain_values(data: BaselineData, catalogue: Catalogue, view: int, rows: np.ndarray) -> np.ndarray:
    """(users, items): residuals less the users' shrunk means; NaN where not rated."""
    values = np.full((int(data.user[-1]) + 1, len(data.samples.items)), np.nan)
    y = (data.rating[rows] - catalogue.overall[view]) / catalogue.scale[view] - catalogue.mean[view, data.item[rows]]
    values[data.user[rows], data.item[rows]] = y
    return values - (np.nansum(values, axis=1) / ((~np.isnan(values)).sum(axis=1) + 5))[:, None]


def residuals(data: BaselineData, catalogue: Catalogue, view: int, past: np.ndarray) -> np.ndarray:
    raw = (data.rating[past] - catalogue.overall[view]) / catalogue.scale[view]
    y: np.ndarray = raw - catalogue.mean[view, data.item[past]]
    return y


@pytest.mark.parametrize("then", [False, True])
def test_a_view_has_the_ratings_of_other_folds_or_those_before_its_snapshot(then: bool) -> None:
    of = views_of(DATA, then=then)
    for anchor in some().anchor.tolist():
        rows, view = view_rows(DATA, anchor, then=then), of.of_row[anchor]
        item, rating = DATA.item[rows], DATA.rating[rows]
        count = np.bincount(item, minlength=60)
        np.testing.assert_allclose(np.expm1(of.catalogue.size[view]), count, atol=1e-9)
        overall = rating.mean() if rows.size else 4.0
        mean = (np.bincount(item, rating, 60) + 5 * overall) / (count + 5)
        found = of.catalogue.overall[view] + of.catalogue.scale[view] * of.catalogue.mean[view]
        np.testing.assert_allclose(found, mean)
        assert not then or (TIME[rows] < TIME[anchor]).all()


def test_snapshots_lie_close_to_the_questions() -> None:
    of = views_of(DATA, then=True)
    used = np.rint(np.expm1(of.catalogue.size).sum(axis=1))[of.of_row]
    earlier = np.array([DATA.allowed[time > TIME].sum() for time in TIME])
    assert (used <= earlier).all()
    assert (earlier - used).mean() < 0.06 * DATA.allowed.sum()


def plain_kernel(items: np.ndarray, catalogue: Catalogue, view: int, values: np.ndarray) -> np.ndarray:
    """The parts of the kernel that do not depend on the order of ratings, for all pairs of items."""
    x = np.nan_to_num(values[:, items])
    x /= np.sqrt((x**2).sum(axis=0) + NORM)
    genres = np.array([[int(catalogue.genres[i]) >> bit & 1 for bit in range(64)] for i in items])
    both = genres @ genres.T
    union = genres.sum(axis=1)[:, None] + genres.sum(axis=1) - both
    year, size, mean = catalogue.year[items], catalogue.size[view, items], catalogue.mean[view, items]
    kernel: np.ndarray = 0.15 + 0.22 * x.T @ x + 0.1 * both / np.maximum(union, 1)
    kernel += np.nan_to_num(0.1 * np.exp(-abs(year[:, None] - year) / 20))
    kernel += 0.15 * np.exp(-abs(size[:, None] - size) / 3) + 0.2 * np.outer(mean, mean)
    return kernel


def plain_ridge(data: BaselineData, anchor: int, item: int, past: np.ndarray, *, then: bool) -> tuple[float, float]:
    """The prediction of kernel ridge regression and its deviation, by the textbook."""
    of = views_of(data, then=then)
    catalogue, view = of.catalogue, int(of.of_row[anchor])
    values = plain_values(data, catalogue, view, view_rows(data, anchor, then=then))
    items = np.append(data.item[past], item)
    rows = np.append(past, anchor)
    covariance = plain_kernel(items, catalogue, view, values) + 0.12 * np.exp(-abs(rows[:, None] - rows) / 15)
    np.fill_diagonal(covariance, 0.84 + 0.2 * catalogue.mean[view, items] ** 2 + 0.65)
    with_item = covariance[-1, :-1]
    weights = np.linalg.solve(covariance[:-1, :-1], with_item)
    prior = 0.84 + 0.2 * catalogue.mean[view, item] ** 2
    y = residuals(data, catalogue, view, past)
    return float(weights @ y), float(np.sqrt(prior - weights @ with_item))


@pytest.mark.parametrize("then", [False, True])
def test_kernel_ridge_regression_is_that_of_the_textbook(then: bool) -> None:
    queries = some(count=8)
    found = scanned(pasts.alike, DATA, queries, then=then)
    for q, (anchor, item) in enumerate(zip(*map(np.ndarray.tolist, vars_of(queries)), strict=True)):
        past = np.arange(DATA.first[anchor], anchor)
        assert found[q, :2] == pytest.approx(plain_ridge(DATA, anchor, item, past, then=then), abs=2e-4)


def test_of_an_items_many_ratings_those_of_the_same_users_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "RATERS", 8)
    found = views_of(replace(DATA, views={}), then=False).catalogue
    start = found.start[0]
    raters = [set(found.rater[start[item] : start[item + 1]].tolist()) for item in range(60)]
    assert {len(users) for users in raters} == {8}
    shared = np.mean([len(a & b) for i, a in enumerate(raters) for b in raters[:i]])
    assert shared > 3  # drawn for each item anew, 8 of 35 users would share 2
    np.testing.assert_allclose(found.norm[0, 5] ** 2, NORM + (found.value[start[5] : start[6]] ** 2).sum(), rtol=1e-5)


def long_samples() -> Samples:
    """Two users with 300 ratings, and short ones."""
    rng = np.random.default_rng(4)
    sizes = [300, 40, 35, 300, 60, 50, 45, 40, 44, 48, 52, 41]
    user = np.repeat(np.arange(len(sizes)), sizes)
    item = np.concatenate([rng.permutation(320)[:size] for size in sizes])
    rating = rng.integers(1, 11, len(user)) / 2
    timeline = pl.DataFrame({"user_id": user, "item_id": item, "rating": rating, "timestamp": np.arange(len(user))})
    return samples_of(split_by_user_and_time(timeline))


def test_of_a_long_past_the_last_two_windows_count() -> None:
    data = BaselineData.of(long_samples())
    starts = {100: 0, 255: 0, 256: 128, 299: 128}
    anchors = np.array([DATA_ROW + end for DATA_ROW in (0, 375) for end in starts])
    queries = Queries(anchors, np.arange(8))
    found = scanned(pasts.alike, data, queries, then=False)
    for q, anchor in enumerate(anchors.tolist()):
        first = int(data.first[anchor])
        past = np.arange(first + starts[anchor - first], anchor)
        assert found[q, :2] == pytest.approx(plain_ridge(data, anchor, q, past, then=False), abs=5e-4)


@pytest.mark.parametrize("then", [False, True])
def test_a_persons_next_question_reads_the_factors_of_the_first(then: bool) -> None:
    data = BaselineData.of(long_samples())
    people = [Person("", np.arange(begin, begin + size)) for begin, size in ((0, 300), (300, 40), (375, 255))]
    people += [Person("", np.empty(0, np.int64)), people[0].without(299)]
    small, last = about(data, people)
    queries = Queries(np.repeat(last, 4), np.tile([5, 9, 300, 2], len(people)))
    group = "alike-then" if then else "alike"
    _, first = features_of(small, queries, [group])
    again, _ = about(data, people)
    _, second = features_of(again, queries.take(np.arange(1, 20, 2)), [group])
    np.testing.assert_array_equal(second, first[1::2])
    known = views_of(data, then=then).pasts
    assert (known.hits, known.misses) == (5, 5)


@pytest.mark.parametrize("then", [False, True])
def test_item_knn_weighs_the_nearest_and_the_recent_ratings(then: bool) -> None:
    queries, of = some(count=12, seed=3), views_of(DATA, then=then)
    found = scanned(pasts.alike, DATA, queries, then=then)[:, 2:]
    some_weight = False
    for q, (anchor, item) in enumerate(zip(*map(np.ndarray.tolist, vars_of(queries)), strict=True)):
        view, past = int(of.of_row[anchor]), np.arange(DATA.first[anchor], anchor)
        values = plain_values(DATA, of.catalogue, view, view_rows(DATA, anchor, then=then))
        y = residuals(DATA, of.catalogue, view, past)
        mean = y.sum() / (len(y) + 2)
        similar = []
        for other in DATA.item[past]:
            both = ~np.isnan(values[:, item]) & ~np.isnan(values[:, other])
            a, b, n = values[both, item], values[both, other], both.sum()
            s = (a @ b) / np.sqrt((a @ a) * (b @ b)) * (n - 1) / (n - 1 + 10) if n else 0.0
            similar.append(max(s, 0.0))
        s = np.array(similar)
        nearest = np.argsort(-s, kind="stable")[:30]
        expected = [mean, s[nearest] @ (y - mean)[nearest], s[nearest].sum()]
        expected += [s[-15:] @ (y - mean)[-15:], s[-15:].sum()]
        np.testing.assert_allclose(found[q], expected, atol=1e-4)
        some_weight |= expected[2] > 0
    assert some_weight


@pytest.mark.parametrize("then", [False, True])
def test_a_user_is_folded_into_the_factors_by_ridge_regression(then: bool) -> None:
    queries, of = some(), views_of(DATA, then=then)
    found = scanned(pasts.folded, DATA, queries, then=then)
    for q, (anchor, item) in enumerate(zip(*map(np.ndarray.tolist, vars_of(queries)), strict=True)):
        view, past = int(of.of_row[anchor]), np.arange(DATA.first[anchor], anchor)
        factors = of.catalogue.factors[view].astype(np.float64)
        x = np.hstack([np.ones((len(past), 1)), factors[DATA.item[past], 1:]])
        y = residuals(DATA, of.catalogue, view, past) - factors[DATA.item[past], 0]
        a = x.T @ x + np.diag([1.5, *[5.0] * (x.shape[1] - 1)])
        solved, own = np.linalg.solve(a, x.T @ y), np.append(1, factors[item, 1:])
        deviation = np.sqrt(own @ np.linalg.solve(a, own))
        expected = [solved[0], factors[item, 0] + own[1:] @ solved[1:], deviation]
        np.testing.assert_allclose(found[q], expected, rtol=1e-6, atol=1e-9)


def test_half_an_iteration_of_least_squares_solves_a_ridge_regression_for_each_row() -> None:
    rng = np.random.default_rng(2)
    counts = np.array([3, 0, 40])
    start = np.concatenate([[0], np.cumsum(counts)])
    other, value = rng.integers(9, size=43), rng.normal(size=43).astype(np.float32)
    others, penalty = rng.normal(size=(9, 5)).astype(np.float32), np.array([3, 10, 10, 10, 10], np.float32)
    found = ridge_side(start, other, value, others, penalty)
    for row in range(3):
        own = slice(start[row], start[row + 1])
        x = np.hstack([np.ones((counts[row], 1)), others[other[own], 1:]])
        solved = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ (value[own] - others[other[own], 0]))
        np.testing.assert_allclose(found[row], solved, atol=1e-5)


@pytest.mark.parametrize("then", [False, True])
def test_deviations_are_those_of_the_past(then: bool) -> None:
    queries, of = some(), views_of(DATA, then=then)
    found = scanned(pasts.deviations, DATA, queries, then=then)
    for q, (anchor, item) in enumerate(zip(*map(np.ndarray.tolist, vars_of(queries)), strict=True)):
        view, past = int(of.of_row[anchor]), np.arange(DATA.first[anchor], anchor)
        mean, size, year = of.catalogue.mean[view], of.catalogue.size[view], of.catalogue.year
        y, x, rated = residuals(DATA, of.catalogue, view, past), mean[DATA.item[past]], DATA.item[past]

        def about(distance: np.ndarray, y: np.ndarray = y) -> float:
            weight = np.nan_to_num(np.exp(-distance))
            return float(weight @ (y - y.mean()) / (weight.sum() + 3))

        slope = 1 + len(y) * np.mean((x - x.mean()) * (y - y.mean())) / (len(y) * x.var() + 2)
        expected = [abs(y).mean(), y.std(), slope, (x < mean[item]).mean(), (size[rated] < size[item]).mean()]
        expected += [about(5 * abs(x - mean[item])), about(2 * abs(size[rated] - size[item]))]
        expected += [about(abs(year[rated] - year[item]) / 5), x.mean()]
        np.testing.assert_allclose(found[q], expected, atol=1e-6)


def test_the_moment_counts_from_the_users_and_the_items_ratings() -> None:
    spaced = SAMPLES.timeline.with_columns(timestamp=pl.col("timestamp") * 4 + pl.int_range(pl.len()) % 3)
    data = BaselineData.of(replace(SAMPLES, timeline=spaced.sort("user_id", "timestamp", maintain_order=True)))
    time, queries = data.samples.timeline["timestamp"].to_numpy(), some(data)
    found = columns(data, queries, "moment")
    for q, (anchor, item) in enumerate(zip(*map(np.ndarray.tolist, vars_of(queries)), strict=True)):
        past = time[data.first[anchor] : anchor + 1]
        assert found["since last rating"][q] == pytest.approx(np.log1p(past[-1] - past[-2]), rel=1e-5)
        assert found["since first rating"][q] == pytest.approx(np.log1p(past[-1] - past[0]), rel=1e-5)
        breaks = np.flatnonzero(np.diff(past) > 3600)
        assert np.expm1(found["ratings in session"][q]) == pytest.approx(
            len(past) - 2 - (breaks[-1] if breaks.size else -1)
        )
        assert found["hour"][q] == time[anchor] // 3600 % 24
        earlier = time[data.allowed & (data.item == item) & (time < time[anchor])]
        since = np.log(time[anchor] - earlier.min()) if earlier.size else np.nan
        assert found["since item's first rating"][q] == pytest.approx(since, rel=1e-5, nan_ok=True)


def test_times_that_number_the_rows_tell_nothing_but_how_many_came_before(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("palate").propagate = True  # a command before this test may have begun a log of its own
    caplog.set_level("INFO", "palate")
    strongest._say_that_times_only_count.cache_clear()  # it says so once a process
    numbered = SAMPLES.timeline.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
    data = BaselineData.of(replace(SAMPLES, timeline=numbered))
    found = columns(data, some(data), "moment")
    before = np.log1p(some(data).anchor - data.first[some(data).anchor])
    assert list(found) == ["ratings before"]
    np.testing.assert_allclose(found["ratings before"], before)
    for ordered in (data, DATA):
        columns(ordered, some(ordered), "moment")
    said = f"times only number the log's {len(numbered):,} rows: the strongest models do without the time of asking"
    assert caplog.messages == [said]


def test_a_request_without_a_time_is_asked_at_the_end_of_the_last_session() -> None:
    end = int(np.flatnonzero(DATA.user == 3)[-1])
    timeline = SAMPLES.timeline.with_row_index().with_columns(
        timestamp=pl.when(pl.col("index") == end).then(10**9).otherwise("timestamp"),
        split=pl.when(pl.col("index") == end).then(pl.lit("unused")).otherwise("split"),
    )
    request = BaselineData.of(replace(SAMPLES, timeline=timeline.drop("index"), **without_sample(end)))
    found = columns(request, Queries(np.array([end]), np.array([3])), "moment")
    assert found["since last rating"][0] == 0
    assert found["hour"][0] == TIME[end - 1] // 3600 % 24
    assert found["since first rating"][0] == pytest.approx(np.log1p(TIME[end - 1] - TIME[DATA.first[end]]), rel=1e-5)
    assert found["since item's first rating"][0] > np.log(9e8)  # the item's age is that of now


def without_sample(row: int) -> dict[str, np.ndarray]:
    kept = SAMPLES.position != row
    return {"position": SAMPLES.position[kept], "split": SAMPLES.split[kept]}


@pytest.mark.parametrize("group", GROUPS)
def test_a_rows_own_rating_changes_no_feature_of_it(group: str) -> None:
    """Training rows too, whose ratings other rows' statistics contain."""
    train = SAMPLES.position[SAMPLES.of("train")]
    for anchor in train[:: len(train) // 5].tolist():
        rating = SAMPLES.timeline["rating"].to_numpy().copy()
        rating[anchor] = 5.5 - rating[anchor]
        other = BaselineData.of(replace(SAMPLES, timeline=SAMPLES.timeline.with_columns(rating=rating)))
        queries = Queries(np.full(60, anchor), np.arange(60))
        before, after = (features_of(data, queries, [group])[1] for data in (DATA, other))
        assert np.array_equal(before, after, equal_nan=True)


def test_the_first_rating_of_a_user_has_features() -> None:
    for group in GROUPS:
        found = columns(DATA, Queries(np.array([0]), np.array([3])), group)
        if group.startswith("alike"):
            assert all(np.isfinite(values).all() for values in found.values())
            assert found["ridge" if group == "alike" else "ridge then"][0] == 0


def test_one_user_has_finite_features_or_none() -> None:
    """Her residuals are rounding noise: a product of their squares may be 0 in float32."""
    data = BaselineData.of(samples_of(random_timeline(users=2).filter(pl.col("user_id") == 0)))
    for groups in (("alike", "spread"), ("alike-then", "spread-then")):
        for split in ("train", "test"):
            _, found = features_of(data, data.of_split(split)[0], groups)
            assert not np.isinf(found).any()
