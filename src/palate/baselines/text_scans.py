"""Compiled scans of items' vectors over users' pasts; as in `palate.baselines.scans`, each user's sums are separate."""
# mypy: allow-untyped-defs, allow-untyped-calls

import numba
import numpy as np

import palate.baselines.scans  # noqa: F401  it sets the place of numba's cache


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def cosine(a, b):
    """The inner product of two float32 vectors of unit length.

    The compiler may reorder the sum, into the processor's vectors, but orders it the same for all vectors.
    """
    total = np.float32(0)
    for d in range(a.size):
        total += a[d] * b[d]
    return total


@numba.njit(cache=True, nogil=True)
def kernel_sums(anchor, item, begin, rated, residual, liked, vectors, betas):
    """Sums over the user's ratings in the rows [`begin`, `anchor`), by cosine to a candidate: float64 (n, 2b + 3).

    `vectors` float32 (items, d) have unit length, `betas` is float64 (b,). Columns: for w = exp(β (cosine − 1)),
    Σ w · residual for each β and Σ w for each β; the greatest cosine to a liked and to a disliked item, NaN without
    one; the mean residual, 0 without a rating.
    """
    b = betas.size
    out = np.zeros((anchor.size, 2 * b + 3))
    for q in range(anchor.size):
        candidate = vectors[item[q]]
        out[q, 2 * b : 2 * b + 2] = np.nan
        for row in range(begin[q], anchor[q]):
            near = cosine(candidate, vectors[rated[row]])
            for k in range(b):
                w = np.exp(betas[k] * (near - 1))
                out[q, k] += w * residual[row]
                out[q, b + k] += w
            side = 2 * b if liked[row] else 2 * b + 1
            if not near <= out[q, side]:
                out[q, side] = near
            out[q, 2 * b + 2] += residual[row]
        out[q, 2 * b + 2] /= max(anchor[q] - begin[q], 1)
    return out


@numba.njit(cache=True, nogil=True)
def ridge_scores(anchor, item, order, first, rated, residual, x, penalty):
    """A ridge regression of each user's residuals before the anchor on items' columns, at the candidate: float64 (n,).

    `x` is float64 (items, c); `order` sorts the anchors. The regression has a constant with the penalty 2; the score
    leaves it out. Recursive least squares: each rating updates weights and inverse by the Sherman-Morrison formula.
    """
    size = x.shape[1] + 1
    out, weights = np.zeros(anchor.size), np.zeros(size)
    inverse, row, gain = np.zeros((size, size)), np.ones(size), np.zeros(size)
    user, at = -1, 0
    for o in order:
        end = anchor[o]
        if first[end] != user:
            user = at = first[end]
            weights[:], inverse[:, :] = 0, 0
            for c in range(size):
                inverse[c, c] = 1 / penalty if c > 0 else 0.5
        while at < end:
            row[1:] = x[rated[at]]
            scale, error = 1.0, residual[at]
            for c in range(size):
                gain[c] = 0.0
                for d in range(size):
                    gain[c] += inverse[c, d] * row[d]
                scale += row[c] * gain[c]
                error -= row[c] * weights[c]
            for c in range(size):
                weights[c] += gain[c] * error / scale
                for d in range(size):
                    inverse[c, d] -= gain[c] * gain[d] / scale
            at += 1
        for c in range(1, size):
            out[o] += weights[c] * x[item[o], c - 1]
    return out
