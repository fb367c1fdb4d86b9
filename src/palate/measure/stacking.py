"""Stacking: combine a model's logit with cheap statistics, and compare with the statistics alone.

    P(like) = σ(w · x + b),   x = (z, f₁, …, f_k) standardized

Logistic regression (Wolpert 1992's stacked generalization with one level) on validation rows, which neither the model
nor the statistics were trained on. `alone` omits the logit z: the difference of the two is what the model adds to the
statistics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.measure.calibration import Floats

MIN_ROWS = 50
"""Minimum number of rows to fit a dozen weights on."""

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Stack:
    """P(like) of the measured rows, both (m,) float64, and the weights of the standardized features."""

    stacked: Floats
    alone: Floats
    weights: dict[str, float]
    """Of the stacked model, `logit` first; in log odds per standard deviation."""
    rows: int
    """Validation rows of the fit."""


def fit_stack(
    logit: Floats,
    statistics: Floats,
    liked: Labels,
    names: tuple[str, ...],
    measured_logit: Floats,
    measured_statistics: Floats,
) -> Stack | None:
    """Fit on n validation rows, predict m others.

    `logit` (n,), `statistics` (n, k) and `liked` (n,) are validation's; `names` are those of the k statistics. A NaN
    takes its column's mean. Returns None for fewer than `MIN_ROWS` rows or one class. The penalty is scikit-learn's
    default, an L2 norm of weight 1: negligible on a thousand rows, noticeable on fifty.
    """
    if len(liked) < MIN_ROWS or liked.all() or not liked.any():
        return None
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(x: Floats, measured: Floats) -> tuple[Floats, Floats]:
        model = make_pipeline(
            SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000)
        ).fit(x, liked)
        return model.predict_proba(measured)[:, 1] if len(measured) else np.empty(0), model[-1].coef_[0]

    stacked, weights = fitted(
        np.column_stack([logit, statistics]), np.column_stack([measured_logit, measured_statistics])
    )
    alone, _ = fitted(statistics, measured_statistics)
    return Stack(stacked, alone, dict(zip(("logit", *names), weights.tolist(), strict=True)), len(liked))
