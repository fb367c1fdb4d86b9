"""Compiled scans: what a user's past says of a candidate, by the statistics of the query's view (see
`palate.baselines.views`).

A scan visits queries in the order of their anchors and treats each user alone, so that no later rating, and no other
user's rating outside the view, affects a result, not even its last bits. Sums may be reassociated, in the same way
for the same number of terms.

y is a rating of the past less its item's mean, in units of the view's scale.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from typing import NamedTuple

import numpy as np

from palate.baselines.compiled import bits, compiled, dot, reassociated
from palate.baselines.statistics import Floats
from palate.samples.queries import RowNumbers

WINDOW = 128
"""`alike` uses the last 128 to 255 ratings, all if there are fewer: it starts anew every 128."""
RECENT = 15
NEAREST = 30
"""Neighbours of item-kNN."""
FEW_SHARED = 10
"""Shrinkage of similarities."""
NOISE = np.float32(0.65)
"""Variance of a rating that no part of the kernel explains."""
CONSTANT, SHARED, GENRES, YEARS, SIZES, MEANS, DRIFT = (np.float32(w) for w in (0.15, 0.22, 0.1, 0.1, 0.15, 0.2, 0.12))
"""Variances of the parts of the kernel; see `alike`."""
FOLD_IN = (1.5, 5.0)
"""L2 penalties of a user's offset and factors."""


# numba names the file of a compiled kernel by its line, and writes the names of these classes into it. It fails
# to read a file that names a class of the past: who renames one moves the kernels' lines, too.
class PastQueries(NamedTuple):
    """Queries: their anchors, items, order by anchor, and views; (n,) each."""

    anchor: RowNumbers
    item: RowNumbers
    order: RowNumbers
    views: RowNumbers


class Log(NamedTuple):
    """The timeline: the first row of each row's user, its item and its rating; (rows,) each."""

    first: RowNumbers
    item: RowNumbers
    rating: Floats


class Past(NamedTuple):
    """The memory of `alike`, float32: the last ratings of one user, at most n, and a candidate compared with them."""

    lower: np.ndarray
    """(n, n), the Cholesky factor of their covariance; the others are (n,)."""
    solved: np.ndarray
    """`lower` z = y."""
    similar: np.ndarray
    """The candidate's similarity to each."""
    kernel: np.ndarray
    """The candidate's kernel with each; then solved by `lower`."""
    values: np.ndarray
    """(users,): the candidate's values, 0 for other users."""

    @classmethod
    def empty(cls, most: int, users: int) -> "Past":
        """Memory for `most` ratings; for one at least, since a compiled product reads the first value."""
        most = max(most, 1)
        return cls(*(np.zeros(shape, np.float32) for shape in ((most, most), most, most, most, users)))


@reassociated
def _solve(a, b):
    """Solve a x = b in place by Cholesky; `a` holds the lower triangle, `b` becomes x."""
    size = b.size
    for i in range(size):
        for j in range(i):
            a[i, j] = (a[i, j] - dot(a[i], a[j], j)) / a[j, j]
        a[i, i] = np.sqrt(a[i, i] - dot(a[i], a[i], i))
        b[i] = (b[i] - dot(a[i], b, i)) / a[i, i]
    for i in range(size - 1, -1, -1):
        b[i] /= a[i, i]
        for j in range(i):
            b[j] -= a[i, j] * b[i]


@reassociated
def ridge_side(start, other, value, others, penalty):
    """One half of an iteration of alternating least squares: a ridge regression for each row.

    Row i has the values start[i] to start[i + 1], of the rows `other` of `others` float32 (m, 1 + k): the other side's
    offset, then its factors. Result float32 (n, 1 + k): this side's offset and factors.
    """
    size = others.shape[1]
    out = np.zeros((start.size - 1, size), np.float32)
    a, x = np.empty((size, size), np.float32), np.ones(size, np.float32)
    for row in range(start.size - 1):
        if start[row] == start[row + 1]:
            continue
        a[:] = 0
        for i in range(size):
            a[i, i] = penalty[i]
        for n in range(start[row], start[row + 1]):
            x[1:] = others[other[n], 1:]
            y = value[n] - others[other[n], 0]
            for i in range(size):
                out[row, i] += x[i] * y
                for j in range(i + 1):
                    a[i, j] += x[i] * x[j]
        _solve(a, out[row])
    return out


@reassociated
def _residual(log, catalogue, view, row):
    """y."""
    return (log.rating[row] - catalogue.overall[view]) / catalogue.scale[view] - catalogue.mean[view, log.item[row]]


@reassociated
def folded(asked, log, catalogue):
    """Matrix factorization with the user folded in before each anchor, float64 (n, 3).

    A ridge regression of y on 1 and the items' factors, by recursive least squares: each rating updates the inverse by
    a rank of one. Columns: the user's offset; the candidate's offset and product of factors; the standard deviation of
    the prediction, in units of the noise.
    """
    size = catalogue.factors.shape[2]
    out = np.zeros((asked.anchor.size, 3))
    inverse, right, x, z = np.zeros((size, size)), np.zeros(size), np.ones(size), np.zeros(size)
    user, at, seen = -1, 0, -1
    for o in asked.order:
        end, view = asked.anchor[o], asked.views[o]
        if log.first[end] != user or view != seen:
            user, seen = log.first[end], view
            at = user
            inverse[:], right[:] = 0, 0
            for i in range(size):
                inverse[i, i] = 1 / FOLD_IN[min(i, 1)]
        while at < end:
            factors = catalogue.factors[view, log.item[at]]
            x[1:] = factors[1:]
            y = _residual(log, catalogue, view, at) - factors[0]
            for i in range(size):
                z[i] = dot(inverse[i], x, size)
                right[i] += x[i] * y
            scale = 1 + dot(x, z, size)
            for i in range(size):
                for j in range(size):
                    inverse[i, j] -= z[i] / scale * z[j]
            at += 1
        factors = catalogue.factors[view, asked.item[o]]
        x[1:] = factors[1:]
        for i in range(size):
            z[i] = dot(inverse[i], x, size)
        offset = dot(inverse[0], right, size)
        out[o] = offset, dot(z, right, size) - offset + factors[0], np.sqrt(max(dot(z, x, size), 0))
    return out


@reassociated
def _compare(item, view, begin, end, log, catalogue, past):
    """Fill `past.similar` and `past.kernel` for an item and the rows begin to end."""
    mean, size, year, genres = catalogue.mean[view], catalogue.size[view], catalogue.year, catalogue.genres
    start, rater, value, norm = catalogue.start[view], catalogue.rater, catalogue.value, catalogue.norm[view]
    for n in range(start[item], start[item + 1]):
        past.values[rater[n]] = value[n]
    for row in range(begin, end):
        other, r = log.item[row], row - begin
        both, own, others, count = np.float32(0), np.float32(0), np.float32(0), 0
        for n in range(start[other], start[other + 1]):
            a, b = past.values[rater[n]], value[n]
            both += a * b
            own += a * a
            others += np.float32(a != 0) * b * b
            count += a != 0
        past.similar[r] = 0
        if both > 0 and own * others > 0:  # the product of two residuals that are rounding noise may be 0
            past.similar[r] = both / np.sqrt(own * others) * (count - 1) / (count - 1 + FEW_SHARED)
        apart = abs(year[item] - year[other])
        union = max(bits(genres[item] | genres[other]), 1)
        kernel = CONSTANT + SHARED * both / (norm[item] * norm[other])
        kernel += GENRES * bits(genres[item] & genres[other]) / union
        if apart >= 0:  # not NaN
            kernel += YEARS * np.exp(-apart / 20)
        kernel += SIZES * np.exp(-abs(size[item] - size[other]) / 3)
        kernel += MEANS * mean[item] * mean[other]
        past.kernel[r] = kernel + DRIFT * np.exp((row - end) / 15)
    for n in range(start[item], start[item + 1]):
        past.values[rater[n]] = 0


@reassociated
def _reduce(past, n):
    """Solve `lower` x = `kernel` in place."""
    kernel = past.kernel
    for i in range(n):
        kernel[i] = (kernel[i] - dot(kernel, past.lower[i], i)) / past.lower[i, i]


@reassociated
def _variance(catalogue, view, item):
    """The prior variance of a user's residual of an item."""
    return CONSTANT + SHARED + GENRES + YEARS + SIZES + DRIFT + MEANS * catalogue.mean[view, item] ** 2


@reassociated
def _append(row, view, begin, log, catalogue, past):
    """Append a rating of the user to the Cholesky factor; `past.kernel` is that of its item, reduced."""
    n = row - begin
    explained = dot(past.kernel, past.kernel, n)
    past.lower[n, :n] = past.kernel[:n]
    past.lower[n, n] = np.sqrt(max(_variance(catalogue, view, log.item[row]) + NOISE - explained, NOISE))
    y = _residual(log, catalogue, view, row)
    past.solved[n] = (y - dot(past.kernel, past.solved, n)) / past.lower[n, n]


@reassociated
def _neighbours(begin, end, view, log, catalogue, past):
    """The shrunk mean ȳ; Σ s (y − ȳ) and Σ s over the nearest ratings; the same over the recent ones."""
    n = end - begin
    mean, nearest, weight, recent, recent_weight = 0.0, 0.0, 0.0, 0.0, 0.0
    for row in range(begin, end):
        mean += _residual(log, catalogue, view, row) / (n + 2)
    least = np.partition(past.similar[:n], n - NEAREST)[n - NEAREST] if n > NEAREST else np.float32(0)
    for r in range(n):
        s = past.similar[r]
        if s > 0:
            y = _residual(log, catalogue, view, begin + r) - mean
            if s >= least:
                nearest += s * y
                weight += s
            if r >= n - RECENT:
                recent += s * y
                recent_weight += s
    return mean, nearest, weight, recent, recent_weight


@compiled
def block_of(first, end):
    """The first rating of a user that `alike` uses before the row `end`; `first` is the user's first."""
    return first + max((end - first) // WINDOW - 1, 0) * WINDOW


@compiled
def alike(asked, log, catalogue, past, ready):
    """Kernel ridge regression and item-kNN over the user's last ratings, float64 (n, 7).

    Columns: the prediction of y and its standard deviation; the mean ȳ of y, shrunk to 0 by two pseudo-ratings; then
    Σ s (y − ȳ) and Σ s over the `NEAREST` most similar ratings, and over the `RECENT` last ones, for positive
    similarities s: Pearson's correlation of the values of the n users who rated both, times (n − 1) / (n − 1 + 10).

    The kernel of two items is a sum: a constant; the cosine of their values over all users; the Jaccard index of their
    genres; exponentials of the differences of their years and of their logarithmic numbers of ratings; the product of
    their means; and an exponential of the ratings since the older one.

    `past` is overwritten; its first `ready` ratings are already those of the first query's user.
    """
    out = np.zeros((asked.anchor.size, 7))
    user, at, seen, begin, compared = -1, 0, -1, 0, -1
    for o in asked.order:
        end, view, item = asked.anchor[o], asked.views[o], asked.item[o]
        user_begin = log.first[end]
        block = block_of(user_begin, end)
        if user_begin != user or view != seen or block != begin:
            user, seen, begin, compared = user_begin, view, block, -1
            at = begin + ready
            ready = 0
        while at < end:
            if log.item[at] != compared:
                _compare(log.item[at], view, begin, at, log, catalogue, past)
                _reduce(past, at - begin)
            _append(at, view, begin, log, catalogue, past)
            at, compared = at + 1, -1
        n = end - begin
        _compare(item, view, begin, end, log, catalogue, past)
        _reduce(past, n)
        compared = item  # a sample's item is the next rating
        explained = dot(past.kernel, past.kernel, n)
        out[o, 0] = dot(past.kernel, past.solved, n)
        out[o, 1] = np.sqrt(max(_variance(catalogue, view, item) - explained, 0))
        out[o, 2:] = _neighbours(begin, end, view, log, catalogue, past)
    return out


@compiled
def deviations(asked, log, catalogue):
    """How the user's past deviates from the items' means, and the candidate's place in it, float64 (n, 9).

    Columns: mean |y|; standard deviation of y; slope of ratings over item means, shrunk to 1; shares of past items of
    lower mean and of fewer ratings; mean of y less its overall mean over items of about the candidate's mean, number of
    ratings and year; mean of the past items' means. NaN without a past.
    """
    out = np.zeros((asked.anchor.size, 9))
    mean, size, year = catalogue.mean, catalogue.size, catalogue.year
    sums, near, weight = np.zeros(7), np.zeros(3), np.zeros(3)
    for o in asked.order:
        end, view, item = asked.anchor[o], asked.views[o], asked.item[o]
        begin = log.first[end]
        n = end - begin
        if n == 0:
            out[o] = np.nan
            continue
        sums[:], near[:], weight[:] = 0, 0, 0
        for row in range(begin, end):
            other = log.item[row]
            y, x = _residual(log, catalogue, view, row), mean[view, other]
            higher, larger = mean[view, item] - x, size[view, item] - size[view, other]
            sums[0] += y
            sums[1] += y * y
            sums[2] += abs(y)
            sums[3] += x
            sums[4] += x * x
            sums[5] += higher > 0
            sums[6] += larger > 0
            later = abs(year[item] - year[other])
            for i, distance in enumerate((5 * abs(higher), 2 * abs(larger), later / 5)):
                if distance >= 0:  # not NaN
                    weight[i] += np.exp(-distance)
                    near[i] += np.exp(-distance) * y
            out[o, 2] += x * y
        usual = sums[0] / n
        out[o, 0] = sums[2] / n
        out[o, 1] = np.sqrt(max(sums[1] / n - usual * usual, 0))
        out[o, 2] = 1 + (out[o, 2] - sums[3] * usual) / (sums[4] - sums[3] ** 2 / n + 2)
        out[o, 3], out[o, 4] = sums[5] / n, sums[6] / n
        for i in range(3):
            out[o, 5 + i] = (near[i] - weight[i] * usual) / (weight[i] + 3)
        out[o, 8] = sums[3] / n
    return out
