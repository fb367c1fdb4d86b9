"""What an example's text says of its user and its target, where it is worded as TALLRec's are (Bao et al. 2023).

User Preference: "Alien (1979)", "Heat (1995)"
User Unpreference: "In & Out (1997)"
Whether the user will like the target movie "Scream (1996)"?
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

_SHAPE = (
    r"(?s)\A\s*User Preference:(.*?)\n\s*User Unpreference:(.*?)"
    r"\n\s*Whether the user will like the target \w+ (.*)\?\s*\z"
)


@dataclass(frozen=True)
class Preferences:
    """How many items a history says were liked and disliked, (n,) int64 each, and the targets' titles (n,) String."""

    liked: NDArray[np.int64]
    disliked: NDArray[np.int64]
    target: pl.Series

    @property
    def share(self) -> NDArray[np.float64]:
        """The share of likes in each history, (n,) float64; one half where it is empty."""
        told = self.liked + self.disliked
        return np.where(told > 0, self.liked / np.maximum(told, 1), 0.5)


def preferences_of(texts: pl.Series) -> Preferences | None:
    """What the `input` texts say; None unless every one of them has the shape."""
    groups = texts.str.extract_groups(_SHAPE).struct.unnest()
    if groups.height == 0 or any(column.null_count() for column in groups):
        return None
    liked, disliked = (_items(groups.to_series(number)) for number in (0, 1))
    return Preferences(liked, disliked, groups.to_series(2).str.strip_chars().alias("target"))


def _items(lists: pl.Series) -> NDArray[np.int64]:
    """How many titles in quotes each list has: `"A", "B"`, for books with ` written by C, Jr.` behind each title."""
    text = lists.str.strip_chars()
    parted = text.str.count_matches(', "')
    return np.where((text == "").to_numpy(), 0, parted.to_numpy().astype(np.int64) + 1)
