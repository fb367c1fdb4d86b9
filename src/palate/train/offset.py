"""Offset: the model's answer corrects the logit of a baseline.

    P(like) = σ(z₀ + a · (m − m₀)),   m = z_yes − z_no

z₀ is the baseline's logit, a is `SCALE`, and m₀ is the mean of m over the samples of the first step, by the untrained
model. The first step only measures m₀: its correction is 0. So training starts at the baseline, and neither the base
model's bias towards an answer nor the size of its logits has to be unlearned first. There is no second forward pass,
and nothing is trained beside the model's weights: a trainable a that starts at 0 gives them no gradient at first, and
its own first steps, sign included, follow the noise of a batch. After training, alpha and b are fitted on validation
instead (`palate.measure.offset`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SCALE = 0.3
"""The factor a: an untrained model's logits differ by about one, a baseline's errors are corrected by tenths."""


class Offset:
    """The baseline's logits by split ("train", "val"), (samples,) each in the dataset's order, and the mean m₀."""

    def __init__(self, device: Any, **logit: NDArray[np.float64] | None) -> None:
        self.logit = {
            split: torch.from_numpy(values).to(device, torch.float32)
            for split, values in logit.items()
            if values is not None
        }
        self.centre: torch.Tensor | float | None = None
        """m₀, on the device; None until the first step is done."""
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def sum(self, logit: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
        """The logits z₀ (n,) of some samples, corrected by the model's m (n,)."""
        if self.centre is None:  # the gradient is zero, but not missing: devices exchange it
            return logit + 0.0 * margin
        return logit + SCALE * (margin - self.centre)

    def observe(self, margin: torch.Tensor) -> None:
        """Add the m of samples to the mean m₀, until it is known."""
        if self.centre is None:
            self._sums += torch.stack([margin.double().sum(), self._sums.new_full((), margin.numel())])

    def settle(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Compute m₀ at the end of the first step; `reduce` adds a tensor over the devices."""
        if self.centre is None:
            total, count = reduce(self._sums)
            self.centre = total / count

    @property
    def slope_and_intercept(self) -> tuple[float, float]:
        """The correction as alpha · m + b."""
        return SCALE, -SCALE * float(self.centre or 0.0)
