"""How long the sequences are, and what a cutoff would cost."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99, 100)
CUTOFFS = (256, 384, 448, 512, 640, 768, 896, 1024, 1536, 2048)


@dataclass(frozen=True)
class Lengths:
    """Sequence lengths of a split, before any truncation: tokens in all and in the response, int32, shape (n,)."""

    total: NDArray[np.int32]
    response: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.total)

    def statistics(self) -> dict[str, float]:
        """The guide's figures: min, max, mean and percentiles (linear interpolation)."""
        figures = {"min": int(self.total.min()), "max": int(self.total.max()), "mean": float(self.total.mean())}
        return figures | {f"p{p}": float(np.percentile(self.total, p)) for p in PERCENTILES}

    def truncation(self, cutoff: int) -> dict[str, Any]:
        """What left truncation at `cutoff` does: samples and tokens cut, and answers that would not fit."""
        over = self.total > cutoff
        return {
            "cutoff_len": cutoff,
            "samples_cut": int(over.sum()),
            "share_cut": float(over.mean()),
            "tokens_cut": int((self.total[over] - cutoff).sum()),
            "responses_cut": int((self.response > cutoff).sum()),
        }

    def alternatives(self, cutoff: int, *others: int) -> list[dict[str, Any]]:
        """`truncation` at usual cutoffs and `others`, with the memory saved in a full-length batch against `cutoff`."""
        tried = sorted({*CUTOFFS, cutoff, *others, _round_up(int(self.total.max()), 8)})
        return [{**self.truncation(c), "memory_saved": 1 - c / cutoff} for c in tried]

    def counts(self) -> dict[int, int]:
        """How many samples have each length."""
        values, counts = np.unique(self.total, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def masked_share(self) -> float:
        """The share of tokens that carry no loss."""
        return float(1 - self.response.sum() / self.total.sum())


def digest(lengths: Lengths) -> str:
    """SHA-256 of the lengths as little-endian int32."""
    return hashlib.sha256(lengths.total.astype("<i4").tobytes()).hexdigest()


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
