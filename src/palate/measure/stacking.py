"""Stacking: what a model's logit comes to beside statistics that cost nothing, and what these come to alone.

    P(like) = σ(w · x + b),   x = (z, f₁, …, f_k) standardized

Logistic regression (Wolpert 1992's stacked generalization with one level) on validation rows, which neither the model
nor the statistics were trained on. `alone` is the same without the logit z: the difference between the two is what the
model adds to what is known anyway.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.measure.calibration import Floats

MIN_ROWS = 50
"""With fewer, a dozen weights are chance."""

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Stack:
    """P(like) of the measured rows, both (m,) float64, and the weights of the standardized features."""

    stacked: Floats
    alone: Floats
    weights: dict[str, float]
    """Of the stacked model; `logit` first. In log odds a standard deviation."""
    rows: int
    """Validation rows that it was fitted on."""


def fit_stack(
    logit: Floats,
    statistics: Floats,
    liked: Labels,
    names: tuple[str, ...],
    measured_logit: Floats,
    measured_statistics: Floats,
) -> Stack | None:
    """Fit on n validation rows, predict m others.

    `logit` (n,), `statistics` (n, k) and `liked` (n,) are validation's; `names` are those of the k statistics, of which
    one that is NaN takes its column's mean. None where there are fewer than `MIN_ROWS` rows or one class only. The
    penalty is scikit-learn's default, an L2 norm of weight 1: nothing on a thousand rows, and a brake on fifty.
    """
    if len(liked) < MIN_ROWS or liked.all() or not liked.any():
        return None
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(x: Floats, asked: Floats) -> tuple[Floats, Floats]:
        model = make_pipeline(
            SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(max_iter=1000)
        ).fit(x, liked)
        return model.predict_proba(asked)[:, 1] if len(asked) else np.empty(0), model[-1].coef_[0]

    stacked, weights = fitted(
        np.column_stack([logit, statistics]), np.column_stack([measured_logit, measured_statistics])
    )
    alone, _ = fitted(statistics, measured_statistics)
    told = dict(zip(("logit", *names), weights.tolist(), strict=True))
    return Stack(stacked, alone, told, len(liked))
