"""Fit a calibration on validation, and choose among methods by cross-validation over users."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError
from palate.measure.calibration import METHODS, Calibration, CalibrationSource, FittedOn, Floats, Losses, Method, apply
from palate.measure.metrics import nats

FOLDS = 5
MIN_ROWS = 20
"""Minimum number of rows; fewer fit noise."""
FLATTEST, STEEPEST = 1e-3, 1e3
"""Bounds of a slope (and of 1 / T). A model that ranks backwards keeps its order and gets nearly one P for all rows."""

Labels = NDArray[np.bool_]
Integers = NDArray[np.int64]


def fit_calibration(
    logit: NDArray[np.float32],
    liked: Labels,
    users: NDArray[Any],
    *,
    source: CalibrationSource,
    choice: str = "auto",
    seed: int = 13,
    key: str = "",
) -> Calibration | None:
    """Calibrate `logit` (n,) against `liked` (n,) of `users` (n,); None for fewer than `MIN_ROWS` rows or one class.

    Cross-validation estimates the log loss of every method: `seed` distributes the users over `FOLDS` folds, a fit on
    the other folds predicts each fold, and the loss is the mean over all rows. `choice` is a method, or `auto` for the
    method with the fewest parameters within one standard error of the least loss (`temperature` for a single user). The
    chosen method is then fitted on all rows. `key` records what the scores depend on.

    Raises `InputError` for a logit that is not finite.
    """
    z = logit.astype(np.float64)
    if not np.isfinite(z).all():
        raise InputError(
            "a logit is not finite, expected numbers; score again with model.dtype=float32", "validation scores"
        )
    if len(z) < MIN_ROWS or liked.all() or not liked.any():
        return None
    code = np.unique(users, return_inverse=True)[1].astype(np.int64)
    folds = folds_of(code, seed)
    left_out = None if folds is None else {method: _left_out(method, z, liked, folds) for method in METHODS}
    losses: dict[str, Losses] = {
        method: Losses(
            cross_validated=None if left_out is None else float(left_out[method].mean()),
            fitted=float(nats(liked, apply(method, fit_method(method, z, liked), z)).mean()),
        )
        for method in METHODS
    }
    chosen: Method = "temperature"
    if choice != "auto":
        chosen = next(method for method in METHODS if method == choice)
    elif left_out is not None:
        chosen = _simplest(left_out, code)
    digest = hashlib.sha256()
    for column in (logit.astype("<f4"), liked, code.astype("<i8")):
        digest.update(np.ascontiguousarray(column).data)
    return Calibration(
        method=chosen,
        parameters=fit_method(chosen, z, liked),
        source=source,
        fitted_on=FittedOn(digest.hexdigest(), key, len(z), int(code.max()) + 1, float(liked.mean()), choice, seed),
        losses=losses,
    )


def folds_of(users: Integers, seed: int) -> Integers | None:
    """The fold of each row, (n,) int64 below `FOLDS`; all rows of a user share a fold. None for a single user.

    The function shuffles the users, so that the folds' numbers of users differ by at most one.
    """
    distinct, code = np.unique(users, return_inverse=True)
    if distinct.size < 2:
        return None
    fold_of_user: Integers = np.random.default_rng(seed).permutation(distinct.size) % min(FOLDS, distinct.size)
    return fold_of_user[code]


def fit_method(method: Method, z: Floats, liked: Labels) -> dict[str, float | list[float]]:
    """The parameters of one method on rows `z`, `liked`, both (n,) and n at least 1.

    temperature: minimizes the log loss. platt: minimizes it with Platt's targets (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2),
    which keep the slope finite if a threshold separates the classes. isotonic: pool adjacent violators, with values in
    [1 / (n + 2), (n + 1) / (n + 2)], because n rows cannot show a probability of 0 or 1.
    """
    if method == "temperature":
        slope = _newton(z[:, None], liked.astype(np.float64))[0]
        return {"temperature": float(1 / np.clip(slope, FLATTEST, STEEPEST))}
    if method == "platt":
        yes = int(liked.sum())
        target = np.where(liked, (yes + 1) / (yes + 2), 1 / (len(z) - yes + 2))
        slope, intercept = _newton(np.column_stack([z, np.ones_like(z)]), target)
        bounded = np.clip(slope, FLATTEST, STEEPEST)
        if slope != bounded:  # the loss is convex, so the constrained minimum is on the bound
            intercept = _newton(np.ones((len(z), 1)), target, offset=bounded * z)[0]
        return {"slope": float(bounded), "intercept": float(intercept)}
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        least = 1 / (len(z) + 2)
        fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(z, liked)
        return {"z": fitted.X_thresholds_.tolist(), "p": fitted.y_thresholds_.tolist()}
    return {}


def _left_out(method: Method, z: Floats, liked: Labels, folds: Integers) -> Floats:
    """The log loss of each row under a fit without its user's fold."""
    p = np.empty_like(z)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        p[out] = apply(method, fit_method(method, z[~out], liked[~out]), z[out])
    return nats(liked, p)


def _simplest(losses: Mapping[Method, Floats], users: Integers) -> Method:
    """The method with the fewest parameters whose mean loss is within one standard error of the least.

    The standard error is that of the difference of the two means, clustered by user. On few rows the least loss is
    often chance, and most often for the most flexible method (the one-standard-error rule of Breiman, Friedman, Olshen
    & Stone 1984).
    """
    best = min(METHODS, key=lambda method: losses[method].mean())
    for method in METHODS:
        excess = losses[method] - losses[best]
        of_user = np.bincount(users, excess - excess.mean())
        if excess.mean() <= np.sqrt((of_user**2).sum()) / excess.size:
            return method
    return best


def _newton(x: Floats, target: Floats, offset: Floats | float = 0.0) -> Floats:
    """Weights w (k,) that minimize the mean log loss of σ(x w + offset) against `target` in [0, 1]; `x` is (n, k).

    Newton's method with step halving (Lin, Lin & Weng 2007). If no finite w is optimal, it stops at a large one.
    """
    w = np.zeros(x.shape[1])

    def loss(w: Floats) -> float:
        s = x @ w + offset
        return float((np.logaddexp(0, s) - target * s).mean())

    best = loss(w)
    for _ in range(100):
        p = apply("none", {}, x @ w + offset)
        gradient = x.T @ (p - target) / len(target)
        hessian = (x.T * (p * (1 - p))) @ x / len(target) + 1e-12 * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        size, decrease = 1.0, float(gradient @ step)
        while size > 1e-10 and loss(w - size * step) > best - 1e-4 * size * decrease:
            size /= 2
        if size <= 1e-10 or decrease < 1e-16:
            break
        w = w - size * step
        best = loss(w)
    return w
