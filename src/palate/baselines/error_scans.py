"""Compiled scan: a Gaussian process on a model's errors about one user's past; see `palate.baselines.errors`."""
# mypy: allow-untyped-defs, allow-untyped-calls

from typing import NamedTuple

import numpy as np

from palate.baselines.compiled import bits, compiled, dot, reassociated
from palate.baselines.text_scans import cosine
from palate.samples.queries import RowNumbers

WINDOW = 256
"""The process sees the last 256 to 511 ratings, all if there are fewer: it starts anew every 256."""
TASTE, GENRES, YEARS, DRIFT, SLOPE = (np.float32(w) for w in (0.5, 0.04, 0.08, 0.02, 0.01))
"""Variances of the parts of the kernel."""
SHARP, DECADE, SOON, LATE = (np.float32(w) for w in (3, 10, 60, 1000))
"""The exponent of a cosine; years; and the numbers of ratings after which drift and taste fall to 1/e."""
MOST = np.float32(10)
"""Largest logit: further out, a surprise would have no limit."""


# numba names the file of a compiled kernel by its line, and writes the names of these classes into it. It fails
# to read a file that names a class of the past: who renames one moves the kernels' lines, too.
class ErrorQueries(NamedTuple):
    """Queries: their anchors, items, the model's logits, and order by anchor; (n,) each."""

    anchor: RowNumbers
    item: RowNumbers
    logit: np.ndarray
    order: RowNumbers


class ErrorLog(NamedTuple):
    """The timeline: the first row of each row's user, its item, its answer, and the model's logit; (rows,) each."""

    first: RowNumbers
    item: RowNumbers
    liked: np.ndarray
    logit: np.ndarray


class ItemContent(NamedTuple):
    """What is known of the items."""

    vectors: np.ndarray
    """float32 (items, d) of unit length; d is 0 without text."""
    genres: np.ndarray
    """(items,) uint64: a bit for each genre."""
    year: np.ndarray
    """(items,) float32, NaN where unknown."""


@compiled
def _kernel(item, logit, end, begin, log, about, out):
    """Fill `out` with the covariances of an item's error, in a query before the row `end`, and those of its past."""
    own = max(bits(about.genres[item]), 1)
    for row in range(begin, end):
        other, age = log.item[row], np.float32(end - row)
        k = DRIFT * np.exp(-age / SOON) + SLOPE * logit * log.logit[row]
        if about.vectors.shape[1]:
            near = cosine(about.vectors[item], about.vectors[other])
            k += TASTE * np.exp(SHARP * (near - np.float32(1)) - age / LATE)
        common = bits(about.genres[item] & about.genres[other])
        if common:
            k += GENRES * common / np.sqrt(np.float32(own * bits(about.genres[other])))
        apart = abs(about.year[item] - about.year[other])
        if apart >= 0:  # not NaN
            k += YEARS * np.exp(-apart / DECADE)
        out[row - begin] = k


@compiled
def _variance(item, logit, about):
    """The prior variance of the error at an item."""
    k = DRIFT + SLOPE * logit * logit
    if about.vectors.shape[1]:
        k += TASTE
    if about.genres[item]:
        k += GENRES
    return k + YEARS if about.year[item] == about.year[item] else k


@reassociated
def _append(row, n, variance, log, lower, solved):
    """Append a rating to the Cholesky factor; `lower[n]` holds its covariances with the n before."""
    new = lower[n]
    for i in range(n):
        new[i] = (new[i] - dot(new, lower[i], i)) / lower[i, i]
    p = 1 / (1 + np.exp(-log.logit[row]))
    noise = 1 / (p * (1 - p))
    new[n] = np.sqrt(max(variance - dot(new, new, n), np.float32(0)) + noise)
    solved[n] = ((log.liked[row] - p) * noise - dot(new, solved, n)) / new[n]


@reassociated
def _weights(n, lower, solved, out):
    """Solve the transposed factor: the weights of the n covariances in a prediction."""
    out[:n] = solved[:n]
    for i in range(n - 1, -1, -1):
        out[i] /= lower[i, i]
        for j in range(i):
            out[j] -= lower[i, j] * out[i]


@compiled
def expected_errors(asked, log, about):
    """The expected error of the logit of n queries, by the user's ratings before each anchor, float64 (n,).

    Newton's step from zero for the logistic likelihood: each rating is an observation (y − p) / (p (1 − p)) of the
    logit's error with the variance 1 / (p (1 − p)).
    """
    out = np.zeros(asked.anchor.size)
    most = 2 * WINDOW
    lower = np.zeros((most, most), np.float32)
    solved, weights, kernel = np.zeros(most, np.float32), np.zeros(most, np.float32), np.zeros(most, np.float32)
    user, begin, at, weighed = -1, 0, 0, -1
    for o in asked.order:
        end = asked.anchor[o]
        first = log.first[end]
        block = first + max((end - first) // WINDOW - 1, 0) * WINDOW
        if first != user or block != begin:
            user, begin, at, weighed = first, block, block, -1
        while at < end:
            n = at - begin
            _kernel(log.item[at], log.logit[at], at, begin, log, about, lower[n])
            _append(at, n, _variance(log.item[at], log.logit[at], about), log, lower, solved)
            at += 1
        if weighed != end:
            _weights(end - begin, lower, solved, weights)
            weighed = end
        _kernel(asked.item[o], asked.logit[o], end, begin, log, about, kernel)
        out[o] = dot(kernel, weights, end - begin)
    return out
