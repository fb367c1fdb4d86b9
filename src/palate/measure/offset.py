"""Offset: add a language model's logit to that of a baseline.

    P(like) = σ(z₀ + alpha · z + b)

z₀ is the baseline's logit, z = z_yes − z_no the language model's. alpha ≥ 0 and b are a logistic regression with the
offset z₀ on validation. With alpha = b = 0 the sum is the baseline. The fit returns that unless the sum predicts users
left out of the fit better: so the sum is worse than the baseline by chance only.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from palate import __version__
from palate.errors import InputError
from palate.measure.bootstrap import Interval
from palate.measure.calibration import CalibrationSource, FittedOn, Floats, recorded_source, sigmoid
from palate.measure.fit_calibration import MIN_ROWS, folds_of
from palate.measure.metrics import nats
from palate.store.artifacts import read_json, write_json

FILE = "offset.json"
RESAMPLES = 300
"""Resamples of users for the interval of alpha."""
PENALTY = 1.0
"""Weight of half the squared norm of the standardized weights: negligible on a thousand rows, noticeable on fifty."""

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Offset:
    """The factors of a sum, and their origin."""

    baseline: str
    """The key of the baseline."""
    alpha: float
    intercept: float
    slope: float | None = None
    """The alpha of the fit before the two rules that may set it to 0; None for the factors of the training."""
    interval: Interval | None = None
    """Of `slope`: 95 %, over users."""
    losses: Mapping[str, float] | None = None
    """Log loss of `baseline` and `sum` on validation users left out of the fit."""
    source: CalibrationSource | None = None
    fitted_on: FittedOn | None = None
    """None for the factors of the training."""

    def added(self, p: Floats, z: Floats) -> Floats:
        """The logit of the sum, (n,) float64: that of the baseline's P(like) `p` (n,), and `z` (n,)."""
        return log_odds(p) + self.alpha * z + self.intercept


def log_odds(p: Floats) -> Floats:
    """ln(p / (1 − p)) of a baseline's P(like), kept 1e-9 away from 0 and 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    found: Floats = np.log(p) - np.log1p(-p)
    return found


def fit_offset(
    baseline: str,
    logits: tuple[Floats, Floats],
    liked: Labels,
    users: NDArray[Any],
    *,
    source: CalibrationSource,
    key: str = "",
    seed: int = 13,
) -> Offset | None:
    """Fit alpha and b on n validation rows; None for fewer than `MIN_ROWS` rows or one class.

    `logits` are those of the baseline and of the language model, `liked` and `users` the labels and users, all (n,).
    `seed` distributes the users over folds and draws the resamples. `key` records what the scores depend on.
    """
    z0, z = logits
    if len(z) < MIN_ROWS or liked.all() or not liked.any():
        return None
    code = np.unique(users, return_inverse=True)[1].astype(np.int64)
    every = np.ones(len(z))
    alpha, intercept = _fit(z0, z, liked, every)
    slope, losses, folds = alpha, None, folds_of(code, seed)
    if folds is not None:
        left_out = np.empty(len(z))
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            a, b = _fit(z0, z, liked, (~out).astype(np.float64))
            left_out[out] = z0[out] + max(a, 0.0) * z[out] + (b if a > 0 else 0.0)
        found = {"baseline": z0, "sum": left_out}
        losses = {name: float(nats(liked, sigmoid(s)).mean()) for name, s in found.items()}
    if alpha <= 0 or (losses is not None and losses["sum"] >= losses["baseline"]):
        alpha = intercept = 0.0
    digest = hashlib.sha256()
    for column in (z0.astype("<f8"), z.astype("<f8"), liked, code.astype("<i8")):
        digest.update(np.ascontiguousarray(column).data)
    fitted_on = FittedOn(digest.hexdigest(), key, len(z), int(code.max()) + 1, float(liked.mean()), "offset", seed)
    between = _interval(z0, z, liked, code, seed)
    return Offset(baseline, alpha, intercept, slope, between, losses, source, fitted_on)


def _interval(z0: Floats, z: Floats, liked: Labels, code: NDArray[np.int64], seed: int) -> Interval | None:
    """The 95 % interval of alpha over resamples of users; None for a single user."""
    users, rng = int(code.max()) + 1, np.random.default_rng(seed)
    if users < 2:
        return None
    drawn = rng.multinomial(users, np.full(users, 1 / users), RESAMPLES)
    found = [_fit(z0, z, liked, times[code].astype(np.float64))[0] for times in drawn]
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(float(low), float(high))


def _fit(z0: Floats, z: Floats, liked: Labels, weight: Floats) -> tuple[float, float]:
    """alpha and b that minimize the weighted log loss and the penalty; Newton's method with step halving."""
    total = weight.sum()
    if not total:
        return 0.0, 0.0
    centre = float(weight @ z / total)
    spread = float(np.sqrt(weight @ (z - centre) ** 2 / total)) or 1.0
    x, target = np.column_stack([(z - centre) / spread, np.ones_like(z)]), liked.astype(np.float64)

    def loss(w: Floats) -> float:
        s = z0 + x @ w
        return float(weight @ (np.logaddexp(0, s) - target * s) + PENALTY / 2 * w @ w)

    w = np.zeros(2)
    best = loss(w)
    for _ in range(50):
        p = sigmoid(z0 + x @ w)
        gradient = x.T @ (weight * (p - target)) + PENALTY * w
        hessian = (x.T * (weight * p * (1 - p))) @ x + PENALTY * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size, decrease = 1.0, float(gradient @ step)
        while size > 1e-10 and loss(w - size * step) > best - 1e-4 * size * decrease:
            size /= 2
        if size <= 1e-10 or decrease < 1e-12 * total:
            break
        w = w - size * step
        best = loss(w)
    return float(w[0] / spread), float(w[1] - w[0] * centre / spread)


def load_offset(folder: Path, *, source: CalibrationSource | None = None) -> Offset | None:
    """The fit in an adapter's folder; None if there is none.

    Raises `InputError` if the file is broken, or of another adapter, base model or prompt than the folder's; `source`
    adds what the folder does not record.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        found = TypeAdapter(Offset).validate_python(value["offset"])
        numbers = (found.alpha, found.intercept)
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError("is damaged, expected factors that `palate evaluate` fitted", path) from error
    if found.source is None or found.fitted_on is None:
        raise InputError("does not say what was fitted, expected factors that `palate evaluate` fitted", path)
    if found.alpha < 0 or not np.isfinite(numbers).all():
        problem = f"has alpha {found.alpha:g} and intercept {found.intercept:g}, expected finite numbers"
        raise InputError(f"{problem}, alpha 0 or more; remove the file, and `palate evaluate` fits it", path)
    for expected in (recorded_source(folder, found.source), source):
        if expected is not None and found.source.differs(expected) is not None:
            raise InputError(
                "was fitted to the scores of another model, adapter or prompt, expected its own; remove the file, and "
                "`palate evaluate` fits it",
                path,
            )
    return found


def write_offset(path: Path, offset: Offset) -> None:
    """Write the file, atomically; equal fits give equal bytes."""
    write_json(path, {"palate": __version__, "offset": asdict(offset)})
